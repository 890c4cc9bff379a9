//! ReplicaSets and ReplicationControllers: missing pods are adopted or created, surplus ones deleted, the cheapest first.
//! PURE.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::pods::{self, Availability, Claim};
use super::routing::{own_key, owner_keys, versions};
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// Limit of pods that one reconcile creates or deletes, as upstream.
const MAX_BURST: usize = 500;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The controller of one of the two kinds.
pub struct ReplicaSets {
    pub kind: Kind,
}

/// What the two kinds have in common.
struct Set<'a> {
    object: Object,
    meta: &'a ObjectMeta,
    replicas: i32,
    min_ready: i32,
    selector: Cow<'a, LabelSelector>,
    template: Option<&'a PodTemplateSpec>,
}

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        if self.kind == Kind::ReplicaSet { "replicaset" } else { "replicationcontroller" }
    }

    fn account(&self) -> &'static str {
        if self.kind == Kind::ReplicaSet { "replicaset-controller" } else { "replication-controller" }
    }

    fn reads(&self) -> &'static [Kind] {
        match self.kind {
            Kind::ReplicaSet => &[Kind::ReplicaSet, Kind::Pod],
            _ => &[Kind::ReplicationController, Kind::Pod, Kind::ReplicaSet],
        }
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, self.kind, keys);
        let Some(Object::Pod(_)) = change.object() else { return };
        owner_keys(change, self.kind, keys);
        for object in versions(change) {
            if meta::controller_of(object.meta()).is_none() {
                self.matching(view, object.meta(), keys);
            }
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(object) = view.get(self.kind, key) else { return Vec::new() };
        match &object {
            Object::ReplicaSet(o) => match &o.spec {
                Some(spec) => Set {
                    object: object.clone(),
                    meta: &o.metadata,
                    replicas: spec.replicas.unwrap_or(1),
                    min_ready: spec.min_ready_seconds.unwrap_or(0),
                    selector: Cow::Borrowed(&spec.selector),
                    template: spec.template.as_ref(),
                }
                .reconcile(view, context),
                None => Vec::new(),
            },
            Object::ReplicationController(o) => match &o.spec {
                Some(spec) => Set {
                    object: object.clone(),
                    meta: &o.metadata,
                    replicas: spec.replicas.unwrap_or(1),
                    min_ready: spec.min_ready_seconds.unwrap_or(0),
                    selector: Cow::Owned(LabelSelector {
                        match_labels: spec.selector.clone(),
                        ..Default::default()
                    }),
                    template: spec.template.as_ref(),
                }
                .reconcile(view, context),
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

impl ReplicaSets {
    /// Keys of the sets that an orphan pod might belong to.
    fn matching(&self, view: &View, pod: &ObjectMeta, keys: &mut Vec<Key>) {
        let namespace = meta::namespace(pod);
        if self.kind == Kind::ReplicaSet {
            let sets = view.replica_sets.in_namespace(namespace);
            keys.extend(sets.filter_map(|(key, set)| {
                let selector = &set.spec.as_ref()?.selector;
                meta::selects(selector, pod.labels.as_ref()).then(|| key.clone())
            }));
        } else {
            let sets = view.replication_controllers.in_namespace(namespace);
            keys.extend(sets.filter_map(|(key, set)| {
                let selector = set.spec.as_ref()?.selector.as_ref()?;
                meta::contains_all(selector, pod.labels.as_ref()).then(|| key.clone())
            }));
        }
    }
}

impl Set<'_> {
    fn reconcile(&self, view: &View, context: Context<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mine = self.claim(view, &mut actions);
        if !actions.is_empty() {
            // Count again when the claims are answered.
            return actions;
        }
        let active: Vec<&Arc<Pod>> = mine.iter().copied().filter(|p| pods::active(p)).collect();
        let terminating =
            mine.iter().filter(|p| meta::terminating(&p.metadata) && !pods::finished(p)).count();
        // A refused create ends the task; the status goes first, so that users see why.
        self.status(&active, terminating, context, &mut actions);
        if !meta::terminating(self.meta) {
            let wanted = usize::try_from(self.replicas).unwrap_or(0);
            if active.len() < wanted {
                self.create(view, (wanted - active.len()).min(MAX_BURST), context, &mut actions);
            } else if active.len() > wanted {
                self.delete(view, &active, (active.len() - wanted).min(MAX_BURST), context.now, &mut actions);
            }
        }
        actions
    }

    /// Pods of this set; adoptions and releases become actions.
    fn claim<'v>(&self, view: &'v View, actions: &mut Vec<Action>) -> Vec<&'v Arc<Pod>> {
        let mut mine = Vec::new();
        for pod in view.pods.owned_by(meta::uid(self.meta)) {
            match pods::claim(&pod.metadata, self.meta, &self.selector) {
                Claim::Release if !pods::finished(pod) => {
                    actions.push(pods::set_controller(Kind::Pod, &pod.metadata, None, meta::uid(self.meta)));
                }
                Claim::Foreign | Claim::Release => {}
                Claim::Mine | Claim::Adopt => mine.push(pod),
            }
        }
        for (_, pod) in view.pods.in_namespace(meta::namespace(self.meta)) {
            if pods::active(pod) && pods::claim(&pod.metadata, self.meta, &self.selector) == Claim::Adopt {
                let owner = meta::controlled_by(self.object.kind(), self.meta);
                actions.push(pods::set_controller(Kind::Pod, &pod.metadata, Some(owner), ""));
            }
        }
        mine
    }

    fn create(&self, view: &View, count: usize, context: Context<'_>, actions: &mut Vec<Action>) {
        let Some(template) = self.template else { return };
        let base = format!("{}-", meta::name(self.meta));
        let count = count.min(pods::burst(template));
        let names: Vec<String> = (0..)
            .map(|i| meta::generated_name(&base, context.seed, i))
            .filter(|name| view.pods.get(&Key::new(meta::namespace(self.meta), name)).is_none())
            .take(count)
            .collect();
        actions.extend(names.iter().map(|name| {
            let pod = pods::from_template(template, self.object.kind(), self.meta, name.clone());
            Action::Create(pod.into())
        }));
        actions.extend(names.into_iter().map(|name| {
            Action::record(&self.object, false, "SuccessfulCreate", format!("Created pod: {name}"))
        }));
    }

    fn delete(
        &self,
        view: &View,
        active: &[&Arc<Pod>],
        count: usize,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let nodes = pods::per_node(self.related(view).iter().map(|p| p.as_ref()));
        let rank = |pod: &Pod| nodes.get(pods::node_name(pod)).copied().unwrap_or(0);
        let mut victims: Vec<(&Arc<Pod>, usize)> = active.iter().map(|p| (*p, rank(p))).collect();
        victims.sort_by(|a, b| pods::deletion_order((a.0, a.1), (b.0, b.1), now));
        victims.truncate(count);
        actions.extend(victims.iter().map(|(pod, _)| Action::delete(Object::Pod((*pod).clone()))));
        actions.extend(victims.iter().map(|(pod, _)| {
            let message = format!("Deleted pod: {}", meta::name(&pod.metadata));
            Action::record(&self.object, false, "SuccessfulDelete", message)
        }));
    }

    /// Pods of every set with the same owner: old and new pods of a rollout count together when nodes are compared.
    fn related<'v>(&self, view: &'v View) -> Vec<&'v Arc<Pod>> {
        match meta::controller_of(self.meta) {
            Some(owner) => {
                let sets = view.replica_sets.owned_by(&owner.uid);
                sets.flat_map(|set| view.pods.owned_by(meta::uid(&set.metadata))).collect()
            }
            None => view.pods.owned_by(meta::uid(self.meta)).collect(),
        }
    }

    fn status(
        &self,
        active: &[&Arc<Pod>],
        terminating: usize,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let template_labels = self.template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
        let labelled = active.iter().filter(|p| {
            template_labels.is_none_or(|wanted| meta::contains_all(wanted, p.metadata.labels.as_ref()))
        });
        let mut available = 0;
        for pod in active {
            match pods::availability(pod, self.min_ready, context.now) {
                Availability::Now => available += 1,
                Availability::At(at) => actions.push(Action::RequeueAt(at)),
                Availability::Unready => {}
            }
        }
        let counts = Counts {
            replicas: count(active.len()),
            labelled: count(labelled.count()),
            ready: count(active.iter().filter(|p| pods::ready(p)).count()),
            available,
            terminating: count(terminating),
            short: active.len() < usize::try_from(self.replicas).unwrap_or(0),
        };
        let key = Key::of(self.meta);
        match &self.object {
            Object::ReplicaSet(o) => {
                let new = counts.replica_set(o.status.as_ref(), o.metadata.generation, context);
                if o.status.as_ref() != Some(&new) {
                    actions.push(Action::patch_status(Kind::ReplicaSet, key, o.status.as_ref(), &new));
                }
            }
            Object::ReplicationController(o) => {
                let new = counts.replication_controller(o.status.as_ref(), o.metadata.generation, context);
                if o.status.as_ref() != Some(&new) {
                    actions.push(Action::patch_status(
                        Kind::ReplicationController,
                        key,
                        o.status.as_ref(),
                        &new,
                    ));
                }
            }
            _ => {}
        }
        if let Some(Failure::Refused { message, .. }) = context.failure {
            actions.push(Action::record(
                &self.object,
                true,
                "FailedCreate",
                format!("Error creating: {message}"),
            ));
        }
    }
}

struct Counts {
    replicas: i32,
    labelled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
    /// Fewer pods than desired: only then does a failed create show in the status.
    short: bool,
}

/// Zero is left out, as the server stores it.
fn some(n: i32) -> Option<i32> {
    Some(n).filter(|n| *n != 0)
}

/// Adds the failure to the conditions, or removes an earlier one. A known failure stays as it is.
fn with_failure<C>(
    conditions: Option<Vec<C>>,
    is_failure: impl Fn(&C) -> bool,
    failure: Option<C>,
) -> Option<Vec<C>> {
    let mut conditions = conditions.unwrap_or_default();
    match failure {
        Some(failure) if !conditions.iter().any(&is_failure) => conditions.push(failure),
        Some(_) => {}
        None => conditions.retain(|c| !is_failure(c)),
    }
    Some(conditions).filter(|c| !c.is_empty())
}

impl Counts {
    fn replica_set(
        &self,
        old: Option<&ReplicaSetStatus>,
        generation: Option<i64>,
        context: Context<'_>,
    ) -> ReplicaSetStatus {
        let failure = self.failure(context).map(|message| ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message),
            last_transition_time: Some(meta::time(context.now)),
        });
        let conditions = old.and_then(|status| status.conditions.clone());
        ReplicaSetStatus {
            replicas: self.replicas,
            fully_labeled_replicas: some(self.labelled),
            ready_replicas: some(self.ready),
            available_replicas: some(self.available),
            terminating_replicas: Some(self.terminating),
            observed_generation: generation,
            conditions: with_failure(conditions, |c| c.type_ == REPLICA_FAILURE, failure),
        }
    }

    fn replication_controller(
        &self,
        old: Option<&ReplicationControllerStatus>,
        generation: Option<i64>,
        context: Context<'_>,
    ) -> ReplicationControllerStatus {
        let failure = self.failure(context).map(|message| ReplicationControllerCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message),
            last_transition_time: Some(meta::time(context.now)),
        });
        let conditions = old.and_then(|status| status.conditions.clone());
        ReplicationControllerStatus {
            replicas: self.replicas,
            fully_labeled_replicas: some(self.labelled),
            ready_replicas: some(self.ready),
            available_replicas: some(self.available),
            observed_generation: generation,
            conditions: with_failure(conditions, |c| c.type_ == REPLICA_FAILURE, failure),
        }
    }

    /// The message of a refused create, while pods are missing.
    fn failure(&self, context: Context<'_>) -> Option<String> {
        match context.failure {
            Some(Failure::Refused { message, .. }) if self.short => Some(message.clone()),
            _ => None,
        }
    }
}
