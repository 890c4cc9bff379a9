//! What the collector knows and works on: the graph, the resources and the queue.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::core::discovery::ApiResource;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::graph::{GcDecision, GcObject, Graph, Uid};
use super::perform::{CollectionResult, Ended, Jobs, Target, guarded};
use super::resources::{Resources, Watching, is_in_hub};
use super::watch::{DiscoverySchedule, Message};
use crate::cache::{Change, Key, Kind};
use crate::clock;
use crate::discovery::Discovered;
use crate::events::Recorder;
use crate::hub::InformerEvent;
use crate::requests::plural;
use crate::work_queue::WorkQueue;

const MAX_ACTIVE_JOBS: usize = 32;

#[derive(Default)]
pub(super) struct Collector {
    graph: Graph,
    queue: WorkQueue,
    resources: Resources,
    /// What the lists under way have shown.
    listed: HashMap<u32, HashSet<Uid>>,
    /// Kinds that the hub has not listed.
    hub_unlisted: BTreeSet<Kind>,
    /// `None` until the first discovery.
    discovered: Option<Arc<Discovered>>,
    discovery: DiscoverySchedule,
    /// Objects with an owner of a kind that is not served; they are decided again when other kinds are.
    unresolvable: HashSet<Uid>,
    recorder: Arc<Recorder>,
    active_jobs: usize,
}

impl Collector {
    pub(super) fn new() -> Self {
        Collector { hub_unlisted: Kind::ALL.iter().copied().collect(), ..Collector::default() }
    }

    /// Nothing is decided before everything was listed.
    fn may_decide(&self) -> bool {
        self.hub_unlisted.is_empty() && self.discovered.is_some() && self.resources.may_decide()
    }

    fn enqueue(&mut self, uids: Vec<Uid>) {
        for uid in uids {
            self.queue.add((0, Key { namespace: "".into(), name: uid }));
        }
    }

    fn apply(&mut self, resource: u32, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        let Some(kind) = self.resources.kind(resource).cloned() else { return };
        let affected = self.graph.apply(uid, GcObject::new(resource, kind, meta));
        self.enqueue(affected);
    }

    fn remove(&mut self, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        self.remove_uid(&uid);
    }

    fn remove_uid(&mut self, uid: &Uid) {
        self.unresolvable.remove(uid);
        let affected = self.graph.remove(uid);
        self.enqueue(affected);
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queue.next_due().filter(|_| self.may_decide())
    }

    /// Whether the caller must start a discovery now.
    pub(super) fn must_discover(&mut self) -> bool {
        self.discovery.must_start()
    }

    /// When to ask `must_discover` again.
    pub(super) fn next_discovery(&self) -> Instant {
        self.discovery.due()
    }

    pub(super) fn accept(&mut self, event: &InformerEvent) {
        match event {
            InformerEvent::Change(change) => self.change(change),
            InformerEvent::Listed(kind) => {
                self.hub_unlisted.remove(kind);
            }
        }
    }

    fn change(&mut self, change: &Change) {
        let Some(kind) = change.object().map(|o| o.kind()).filter(|k| is_in_hub(k.group(), k.name())) else {
            return;
        };
        let api = ApiResource {
            group: kind.group().into(),
            version: kind.api_version().rsplit('/').next().unwrap_or_default().into(),
            api_version: kind.api_version().into(),
            kind: kind.name().into(),
            plural: plural(kind),
        };
        let number = self.resources.number(&api);
        match (&change.new, &change.old) {
            (Some(new), _) => self.apply(number, new.meta()),
            (None, Some(old)) => self.remove(old.meta()),
            (None, None) => {}
        }
    }

    pub(super) fn message(&mut self, message: Message, watching: &mut Watching<'_>) {
        match message {
            Message::Apply(number, meta) => {
                match (self.listed.get_mut(&number), &meta.uid) {
                    (Some(listed), Some(uid)) => drop(listed.insert(uid.as_str().into())),
                    _ => self.kinds_may_change(number),
                }
                self.apply(number, &meta);
            }
            Message::Delete(number, meta) => {
                self.remove(&meta);
                self.kinds_may_change(number);
            }
            Message::Init(number) => drop(self.listed.insert(number, HashSet::new())),
            Message::InitDone(number) => {
                self.resources.set_synced(number);
                let listed = self.listed.remove(&number).unwrap_or_default();
                self.remove_all_but(number, &listed);
            }
            Message::Discovered(discovered) => self.discovered(discovered, watching),
        }
    }

    fn kinds_may_change(&mut self, number: u32) {
        if self.resources.defines_kinds(number) {
            self.discovery.soon();
        }
    }

    fn discovered(&mut self, discovered: Discovered, watching: &mut Watching<'_>) {
        self.resources.follow(&discovered, watching);
        let failed = !discovered.failures.is_empty();
        self.discovery.done(failed || !self.resources.all_synced() || !self.unresolvable.is_empty());
        if self.discovered.as_deref() != Some(&discovered) {
            let again = self.unresolvable.drain().collect();
            self.enqueue(again);
        }
        self.discovered = Some(Arc::new(discovered));
    }

    fn remove_all_but(&mut self, resource: u32, listed: &HashSet<Uid>) {
        let uids = self.graph.of_resource(resource).filter(|uid| !listed.contains(*uid));
        let gone: Vec<Uid> = uids.cloned().collect();
        gone.iter().for_each(|uid| self.remove_uid(uid));
    }

    pub(super) fn start(&mut self, client: &Client, jobs: &mut JoinSet<CollectionResult>) {
        while self.may_decide() && self.active_jobs < MAX_ACTIVE_JOBS {
            let Some(discovered) = self.discovered.clone() else { return };
            let Some((_, key)) = self.queue.take(clock::steady()) else { return };
            let decision = self.graph.decide(&key.name);
            let target = self.target(&key.name).filter(|_| decision != GcDecision::Nothing);
            let Some(target) = target else {
                self.queue.done(&(0, key), false, clock::steady());
                continue;
            };
            let dependents = match &decision {
                // A dependent that no list has shown yet would keep its reference, and be deleted for it.
                GcDecision::Orphan(_) if self.discovery.is_stale() || !self.resources.all_synced() => {
                    self.queue.done(&(0, key), true, clock::steady());
                    continue;
                }
                GcDecision::Orphan(uids) => uids.iter().filter_map(|uid| self.target(uid)).collect(),
                _ => Vec::new(),
            };
            self.active_jobs += 1;
            let job = Jobs { client: client.clone(), recorder: self.recorder.clone(), discovered };
            let uid = target.0.clone();
            jobs.spawn(guarded(uid, job.perform(target, decision, dependents)));
        }
    }

    fn target(&self, uid: &Uid) -> Option<Target> {
        let item = self.graph.get(uid)?;
        Some((uid.clone(), self.resources.api(item.resource)?.clone(), item.key.clone()))
    }

    pub(super) fn done(&mut self, done: CollectionResult) {
        self.active_jobs = self.active_jobs.saturating_sub(1);
        let CollectionResult { uid, ended } = done;
        let mut failed = false;
        match ended {
            Ended::Done => {}
            Ended::Missing => self.remove_uid(&uid),
            Ended::Present(meta) => {
                if let Some(resource) = self.graph.get(&uid).map(|item| item.resource) {
                    self.apply(resource, &meta);
                }
                // An owner that the server has and no watch has shown: its end may not be shown either.
                failed = matches!(self.graph.decide(&uid), GcDecision::Verify { .. });
            }
            Ended::Unresolvable => {
                self.unresolvable.insert(uid.clone());
                self.discovery.retry();
            }
            Ended::Failed => failed = true,
        }
        self.queue.done(&(0, Key { namespace: "".into(), name: uid }), failed, clock::steady());
    }
}
