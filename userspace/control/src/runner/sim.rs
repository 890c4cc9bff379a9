//! Test harness: the real runner core against a server in memory, with time, watch lag and lost answers under control.
//! Stories and properties of controllers run on it, without sleeps and threads.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::core::{Core, Outcome, Task};
use crate::action::{Action, Controller, Delete, Failure, Record};
use crate::cache::kinds::{with_object, with_type};
use crate::cache::{Answer, InformerCache, Key, Kind, Object, WatchEvent};
use crate::clock::Now;

pub(crate) struct Sim {
    core: Core,
    cache: InformerCache,
    /// The steady clock.
    pub(crate) now: Timestamp,
    /// How far the wall clock is ahead of it.
    pub(crate) step: Duration,
    objects: BTreeMap<(Kind, Key), Value>,
    revision: u64,
    /// Watch events that are not delivered yet.
    pub(crate) lagging: VecDeque<(Kind, WatchEvent)>,
    /// Tasks that are not performed yet.
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) records: Vec<Record>,
    /// Creates that the server refuses, by kind.
    pub(crate) refused: Option<Kind>,
    pub(crate) creates: usize,
}

/// What happens to a task's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Everything was done, but the answer to the last write was lost.
    AnswerLost,
    /// Nothing was done, and no answer came.
    NeverSent,
}

fn typed_object(kind: Kind, value: Value) -> Object {
    with_type!(kind, K => Object::from(serde_json::from_value::<K>(value).expect("objects keep their shape")))
}

fn value_of(object: &Object) -> Value {
    with_object!(object, o => serde_json::to_value(o.as_ref())).expect("objects serialise")
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = without_nulls(patch),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        other => other.clone(),
    }
}

impl Sim {
    pub(crate) fn new(controllers: Vec<Box<dyn Controller>>) -> Self {
        let mut sim = Sim {
            core: Core::new(controllers, 7),
            cache: InformerCache::new(Kind::ALL),
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            step: Duration::ZERO,
            objects: BTreeMap::new(),
            revision: 0,
            lagging: VecDeque::new(),
            tasks: VecDeque::new(),
            records: Vec::new(),
            refused: None,
            creates: 0,
        };
        for kind in Kind::ALL {
            sim.watched(*kind, WatchEvent::Init);
            sim.watched(*kind, WatchEvent::InitDone);
            sim.core.listed(*kind);
        }
        sim
    }

    fn store(&mut self, kind: Kind, key: Key, mut value: Value) -> Object {
        let same = self.objects.get(&(kind, key.clone())) == Some(&value);
        if !same {
            self.revision += 1;
            value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        }
        let object = typed_object(kind, value.clone());
        if !same {
            self.lagging.push_back((kind, WatchEvent::Apply(object.clone())));
            self.objects.insert((kind, key), value);
        }
        object
    }

    /// A user creates an object.
    pub(crate) fn create(&mut self, object: impl Into<Object>) -> Object {
        self.try_create(&object.into()).expect("the name is free")
    }

    fn try_create(&mut self, object: &Object) -> Result<Object, Failure> {
        let (kind, key) = (object.kind(), Key::of(object.meta()));
        if self.refused == Some(kind) {
            let message = "exceeded quota".to_owned();
            return Err(Failure::Refused { code: 403, reason: "Forbidden".into(), message });
        }
        if self.objects.contains_key(&(kind, key.clone())) {
            return Err(Failure::Conflict);
        }
        self.creates += 1;
        let mut value = value_of(object);
        value["metadata"]["uid"] = json!(format!("uid-{}", self.revision + 1));
        value["metadata"]["generation"] = json!(1);
        value["metadata"]["creationTimestamp"] = json!(crate::meta::time(self.now));
        Ok(self.store(kind, key, value))
    }

    /// A user (or a kubelet) changes an object; `generation` follows the spec.
    pub(crate) fn patch(&mut self, kind: Kind, key: &Key, patch: Value) -> Option<Object> {
        let mut value = self.objects.get(&(kind, key.clone()))?.clone();
        let spec = value["spec"].clone();
        merge(&mut value, &patch);
        if value["spec"] != spec {
            value["metadata"]["generation"] =
                json!(value["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        Some(self.store(kind, key.clone(), value))
    }

    /// The object is removed from the store.
    pub(crate) fn remove(&mut self, kind: Kind, key: &Key) {
        if let Some(value) = self.objects.remove(&(kind, key.clone())) {
            self.revision += 1;
            self.lagging.push_back((kind, WatchEvent::Delete(typed_object(kind, value))));
        }
    }

    pub(crate) fn get(&self, kind: Kind, key: &Key) -> Option<Object> {
        self.objects.get(&(kind, key.clone())).map(|v| typed_object(kind, v.clone()))
    }

    pub(crate) fn all(&self, kind: Kind) -> Vec<Object> {
        let of_kind = self.objects.iter().filter(|((k, _), _)| *k == kind);
        of_kind.map(|(_, v)| typed_object(kind, v.clone())).collect()
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.all(Kind::Pod)
            .into_iter()
            .filter_map(|o| if let Object::Pod(p) = o { Some(p.as_ref().clone()) } else { None })
            .collect()
    }

    /// Delivers the oldest watch events that lag.
    pub(crate) fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let Some((kind, event)) = self.lagging.pop_front() else { return };
            self.watched(kind, event);
        }
    }

    fn watched(&mut self, kind: Kind, event: WatchEvent) {
        let changes = self.cache.apply(kind, event, self.now);
        let faults = self.core.route(&changes, self.cache.view());
        assert!(faults.is_empty(), "{faults:?}");
    }

    /// Lets the controllers decide on the present view.
    pub(crate) fn decide(&mut self) {
        while let Some(task) =
            self.core.next_task(self.cache.view(), Now { wall: self.now + self.step, steady: self.now })
        {
            self.tasks.push_back(task);
        }
    }

    /// Performs the oldest decided task.
    pub(crate) fn perform(&mut self, fate: Fate) {
        let Some(task) = self.tasks.pop_front() else { return };
        let (item, failure) = (task.item, task.failure);
        let mut outcome = Outcome { item, answers: Vec::new(), failure, unsure: Vec::new() };
        if fate == Fate::NeverSent {
            outcome.failure = Some(Failure::Unknown("timeout".into()));
            outcome.unsure = task.actions.iter().filter_map(Action::unsure).collect();
        } else {
            let mut answered = None;
            for action in &task.actions {
                let (answer, failure) = self.act(action);
                if answer.is_some() {
                    answered = Some(action);
                }
                outcome.answers.extend(answer);
                if failure.is_some() {
                    if failure == Some(Failure::Conflict) {
                        outcome.unsure.extend(action.unsure());
                    }
                    outcome.failure = failure;
                    break;
                }
            }
            if fate == Fate::AnswerLost {
                outcome.answers.pop();
                outcome.unsure.extend(answered.and_then(Action::unsure));
                outcome.failure = Some(Failure::Unknown("connection reset".into()));
            }
        }
        let changes = self.cache.absorb(outcome.answers, self.now);
        let faults = self.core.route(&changes, self.cache.view());
        assert!(faults.is_empty(), "{faults:?}");
        self.core.finish(&outcome.item, outcome.failure, outcome.unsure, self.now);
    }

    fn act(&mut self, action: &Action) -> (Option<Answer>, Option<Failure>) {
        match action {
            Action::Create(object) => match self.try_create(object) {
                Ok(object) => (Some(Answer::Written(object)), None),
                // As `perform` does: a taken name is fetched.
                Err(failure) => {
                    (self.get(object.kind(), &Key::of(object.meta())).map(Answer::Written), Some(failure))
                }
            },
            Action::Update { object, subresource } => self.replace(object, subresource),
            Action::Patch { kind, key, patch, .. } => {
                let Some(current) = self.get(*kind, key) else {
                    return (Some(Answer::Missing { kind: *kind, key: key.clone() }), None);
                };
                let guard = patch["metadata"]["resourceVersion"].as_str();
                if guard.is_some() && guard != current.meta().resource_version.as_deref() {
                    return (None, Some(Failure::Conflict));
                }
                (self.patch(*kind, key, patch.clone()).map(Answer::Written), None)
            }
            Action::Delete(delete) => self.delete(delete),
            Action::EnsureMissing { kind, key } => match self.get(*kind, key) {
                Some(object) => (Some(Answer::Written(object)), Some(Failure::Conflict)),
                None => (None, None),
            },
            Action::Confirm { kind, key } => {
                let missing = Answer::Missing { kind: *kind, key: key.clone() };
                (Some(self.get(*kind, key).map_or(missing, Answer::Written)), None)
            }
            Action::Record(record) => {
                self.records.push(record.clone());
                (None, None)
            }
            Action::RequeueAt(_) => (None, None),
        }
    }

    fn replace(&mut self, object: &Object, subresource: &str) -> (Option<Answer>, Option<Failure>) {
        let (kind, key) = (object.kind(), Key::of(object.meta()));
        let Some(current) = self.get(kind, &key) else {
            return (Some(Answer::Missing { kind, key }), None);
        };
        if object.meta().resource_version != current.meta().resource_version {
            return (None, Some(Failure::Conflict));
        }
        let (mut new, old) = (value_of(object), value_of(&current));
        if subresource == "status" {
            new["spec"] = old["spec"].clone();
        } else if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        if subresource.is_empty() && !old["status"].is_null() {
            new["status"] = old["status"].clone();
        }
        (Some(Answer::Written(self.store(kind, key, new))), None)
    }

    /// Pods terminate with grace (see `kubelet`), other objects are removed at once.
    fn delete(&mut self, delete: &Delete) -> (Option<Answer>, Option<Failure>) {
        let (kind, key) = (delete.kind, delete.key.clone());
        let Some(current) = self.get(kind, &key) else { return (Some(Answer::Missing { kind, key }), None) };
        if delete.uid.is_some() && delete.uid != current.meta().uid {
            return (None, Some(Failure::Conflict));
        }
        if kind == Kind::Pod && delete.grace_seconds != Some(0) {
            let mark = json!({"metadata": {"deletionTimestamp": crate::meta::time(self.now)}});
            return (self.patch(kind, &key, mark).map(Answer::Written), None);
        }
        self.remove(kind, &key);
        (Some(Answer::DeleteAccepted { kind, key, uid: delete.uid.clone() }), None)
    }

    /// What kubelets and scheduler do: bind a pod, start it, or remove a terminating one.
    pub(crate) fn kubelet(&mut self, pod: &Key, node: &str, ready: bool) {
        let Some(Object::Pod(object)) = self.get(Kind::Pod, pod) else { return };
        if object.metadata.deletion_timestamp.is_some() {
            return self.remove(Kind::Pod, pod);
        }
        let status = if ready { "True" } else { "False" };
        let condition =
            json!({"type": "Ready", "status": status, "lastTransitionTime": crate::meta::time(self.now)});
        let address = self.revision % 250 + 1;
        self.patch(
            Kind::Pod,
            pod,
            json!({
                "spec": {"nodeName": node},
                "status": {"phase": "Running", "conditions": [condition], "podIP": format!("10.244.0.{address}")},
            }),
        );
    }

    /// Repeats watches, decisions, writes and kubelets until nothing is left to do; time does not pass.
    pub(crate) fn settle(&mut self) {
        for _ in 0..500 {
            self.deliver(usize::MAX);
            self.decide();
            if self.tasks.is_empty() && self.lagging.is_empty() && !self.run_pods() {
                return;
            }
            while !self.tasks.is_empty() {
                self.perform(Fate::Answered);
            }
        }
        panic!("the controllers do not settle: {:?}", self.tasks);
    }

    fn run_pods(&mut self) -> bool {
        let due: Vec<Key> = self
            .pods()
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some() || !crate::controllers::pods::ready(p))
            .map(|p| Key::of(&p.metadata))
            .collect();
        due.iter().for_each(|key| self.kubelet(key, "node-1", true));
        !due.is_empty()
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
    }
}
