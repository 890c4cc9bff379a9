//! DaemonSets: one pod on every node that admits it, updated node by node. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use skep_api::fit;

use super::pods::{self, Availability, Claim};
use super::revisions::{self, HASH, RevisionOwner};
use super::routing::{own_key, owner_keys};
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// Limit of pods that one reconcile creates.
const MAX_BURST: usize = 250;
/// Read only by old clients.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub struct DaemonSets;

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn account(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn event_source(&self) -> &'static str {
        "daemonset-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::DaemonSet, Kind::Pod, Kind::Node, Kind::ControllerRevision]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::DaemonSet, keys);
        match change.object() {
            Some(Object::Pod(pod)) => {
                owner_keys(change, Kind::DaemonSet, keys);
                if meta::controller_of(&pod.metadata).is_none() {
                    let sets = view.daemon_sets.in_namespace(meta::namespace(&pod.metadata));
                    keys.extend(sets.filter_map(|(key, set)| {
                        let selector = &set.spec.as_ref()?.selector;
                        meta::selects(selector, pod.metadata.labels.as_ref()).then(|| key.clone())
                    }));
                }
            }
            Some(Object::ControllerRevision(_)) => owner_keys(change, Kind::DaemonSet, keys),
            Some(Object::Node(_)) if placement(change.old.as_ref()) != placement(change.new.as_ref()) => {
                keys.extend(view.daemon_sets.iter().map(|(key, _)| key.clone()));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(set) = view.daemon_sets.get(key) else { return Vec::new() };
        let Some(spec) = &set.spec else { return Vec::new() };
        let mut step = DaemonSetSync { view, set, spec, context, actions: Vec::new() };
        step.decide();
        step.actions
    }
}

/// Labels, and taints by key and effect.
type Placement<'a> = (Option<&'a meta::Labels>, Vec<(&'a str, &'a str)>);

/// The properties of a node that decide whether pods belong there.
fn placement(object: Option<&Object>) -> Option<Placement<'_>> {
    let Some(Object::Node(node)) = object else { return None };
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    Some((node.metadata.labels.as_ref(), taints.map(|t| (t.key.as_str(), t.effect.as_str())).collect()))
}

struct DaemonSetSync<'a> {
    view: &'a View,
    set: &'a Arc<DaemonSet>,
    spec: &'a DaemonSetSpec,
    context: Context<'a>,
    actions: Vec<Action>,
}

/// The pods of one node, those to keep first.
type OnNode<'a> = BTreeMap<String, Vec<&'a Arc<Pod>>>;

impl<'a> DaemonSetSync<'a> {
    fn decide(&mut self) {
        let set = self.set;
        let owner = RevisionOwner {
            kind: Kind::DaemonSet,
            meta: &set.metadata,
            selector: &self.spec.selector,
            template: &self.spec.template,
            collisions: set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0),
            limit: self.spec.revision_history_limit,
        };
        let pods = self.claim();
        if !self.actions.is_empty() || meta::terminating(&set.metadata) {
            return;
        }
        let history = owner.history(self.view, &mut self.actions);
        if !self.actions.is_empty() {
            return;
        }
        let hash = revisions::hash_of(&set.metadata, &history.current).to_owned();
        let mut on_node = OnNode::new();
        for pod in &pods {
            on_node.entry(target(pod)).or_default().push(pod);
        }
        for list in on_node.values_mut() {
            list.sort_by_key(|p| (!pods::ready(p), meta::created(&p.metadata)));
        }
        self.status(&on_node, &hash);
        let (missing, surplus) = self.differences(&on_node);
        let idle = missing.is_empty() && surplus.is_empty();
        self.create(missing, &hash);
        self.delete(surplus);
        if idle && self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            self.roll(&on_node, &hash);
        }
        owner.clean_up(&history, &pods, &[], &mut self.actions);
    }

    fn claim(&mut self) -> Vec<&'a Arc<Pod>> {
        let mut mine = Vec::new();
        for (_, pod) in self.view.pods.in_namespace(meta::namespace(&self.set.metadata)) {
            match pods::claim(&pod.metadata, &self.set.metadata, &self.spec.selector) {
                Claim::Mine => mine.push(pod),
                Claim::Adopt if pods::active(pod) => {
                    let owner = meta::controlled_by(Kind::DaemonSet, &self.set.metadata);
                    self.actions.push(pods::set_controller(Kind::Pod, &pod.metadata, Some(owner), ""));
                }
                Claim::Release if pods::active(pod) => {
                    let uid = meta::uid(&self.set.metadata);
                    self.actions.push(pods::set_controller(Kind::Pod, &pod.metadata, None, uid));
                }
                Claim::Adopt | Claim::Release | Claim::Foreign => {}
            }
        }
        mine
    }

    /// Whether a pod should start on the node, and whether one that runs there may stay.
    fn belongs(&self, node: &Node) -> (bool, bool) {
        let Some(pod) = &self.spec.template.spec else { return (false, false) };
        let tolerations = tolerations(pod);
        let admitted = fit::admits(pod, node);
        let starts = fit::tolerated(&tolerations, node, &["NoSchedule", "NoExecute"]);
        let stays = fit::tolerated(&tolerations, node, &["NoExecute"]);
        (admitted && starts, admitted && stays)
    }

    /// Nodes without a pod, and pods that are surplus or do not belong on their node.
    fn differences<'p>(&self, on_node: &OnNode<'p>) -> (Vec<String>, Vec<&'p Arc<Pod>>) {
        let (mut missing, mut surplus) = (Vec::new(), Vec::new());
        for (key, node) in self.view.nodes.iter() {
            let (starts, stays) = self.belongs(node);
            let pods = on_node.get(&*key.name).map(Vec::as_slice).unwrap_or_default();
            // A finished pod is replaced.
            let ended = pods.iter().filter(|p| pods::finished(p) && !meta::terminating(&p.metadata));
            surplus.extend(ended.copied());
            let active: Vec<_> = pods.iter().copied().filter(|p| pods::active(p)).collect();
            if !stays {
                surplus.extend(active);
            } else if starts && pods.is_empty() {
                missing.push(key.name.to_string());
            } else {
                surplus.extend(active.into_iter().skip(1));
            }
        }
        let is_gone = |name: &str| {
            let key = Key::cluster(name);
            self.view.nodes.get(&key).is_none() && !self.view.nodes.is_unreadable(&key)
        };
        let gone = on_node.iter().filter(|(name, _)| is_gone(name));
        // A node may be registered again: bound pods are the pod collector's, which waits.
        let unbound =
            gone.flat_map(|(_, pods)| pods.iter().copied()).filter(|p| pods::node_name(p).is_empty());
        surplus.extend(unbound.filter(|p| pods::active(p)));
        missing.truncate(MAX_BURST);
        (missing, surplus)
    }

    fn create(&mut self, mut nodes: Vec<String>, hash: &str) {
        if let Some(Failure::Refused { message, .. }) = self.context.failure
            && !nodes.is_empty()
        {
            self.record(true, "FailedCreate", format!("Error creating: {message}"));
        }
        nodes.truncate(pods::burst(&self.spec.template));
        let base = format!("{}-", meta::name(&self.set.metadata));
        let mut messages = Vec::new();
        for (number, node) in nodes.into_iter().enumerate() {
            let name = meta::generated_name(&base, self.context.seed, number);
            messages.push(format!("Created pod: {name}"));
            let mut pod = pods::from_template(&self.spec.template, Kind::DaemonSet, &self.set.metadata, name);
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert(HASH.into(), hash.into());
            if let Some(generation) = meta::annotation(&self.set.metadata, TEMPLATE_GENERATION) {
                labels.insert("pod-template-generation".into(), generation.into());
            }
            if let Some(spec) = &mut pod.spec {
                spec.tolerations = Some(tolerations(spec));
                pin(spec, &node);
            }
            self.actions.push(Action::Create(pod.into()));
        }
        messages.into_iter().for_each(|message| self.record(false, "SuccessfulCreate", message));
    }

    /// Deletes pods of older templates, within the allowed number of unavailable nodes.
    fn roll(&mut self, on_node: &OnNode<'_>, hash: &str) {
        let active = || on_node.values().flatten().copied().filter(|p| pods::active(p));
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let total = i32::try_from(self.view.nodes.iter().filter(|(_, n)| self.belongs(n).0).count())
            .unwrap_or(i32::MAX);
        let allowed = strategy
            .and_then(|s| s.max_unavailable.as_ref())
            .map_or(1, |v| pods::scaled(v, total, true))
            .max(1);
        let available = |p: &Arc<Pod>| self.available(p);
        let up = i32::try_from(active().filter(|p| available(p)).count()).unwrap_or(i32::MAX);
        let mut removable = allowed.saturating_sub(total.saturating_sub(up));
        let old: Vec<&Arc<Pod>> = active().filter(|p| meta::label(&p.metadata, HASH) != Some(hash)).collect();
        let mut deleted = Vec::new();
        for pod in old {
            // An unavailable pod does not count against the limit.
            if !available(pod) {
                deleted.push(pod);
            } else if removable > 0 {
                removable -= 1;
                deleted.push(pod);
            }
        }
        self.delete(deleted);
    }

    fn delete(&mut self, surplus: Vec<&Arc<Pod>>) {
        // Neighbouring deletes are sent together.
        self.actions.extend(surplus.iter().map(|pod| Action::delete(Object::Pod((*pod).clone()))));
        for pod in surplus {
            self.record(false, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(&pod.metadata)));
        }
    }

    fn record(&mut self, warning: bool, reason: &'static str, message: String) {
        let set = Object::DaemonSet(self.set.clone());
        self.actions.push(Action::record(&set, warning, reason, message));
    }

    fn available(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        pods::availability(pod, seconds, self.context.now) == Availability::Now
    }

    fn status(&mut self, on_node: &OnNode<'_>, hash: &str) {
        let mut new = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: self.set.status.as_ref().and_then(|s| s.collision_count),
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..Default::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (key, node) in self.view.nodes.iter() {
            let pod =
                on_node.get(&*key.name).and_then(|p| p.iter().find(|p| !meta::terminating(&p.metadata)));
            if !self.belongs(node).0 {
                new.number_misscheduled += i32::from(pod.is_some());
                continue;
            }
            new.desired_number_scheduled += 1;
            let Some(pod) = pod else { continue };
            new.current_number_scheduled += 1;
            new.number_ready += i32::from(pods::ready(pod));
            available += i32::from(self.available(pod));
            updated += i32::from(meta::label(&pod.metadata, HASH) == Some(hash));
            let seconds = self.spec.min_ready_seconds.unwrap_or(0);
            if let Availability::At(at) = pods::availability(pod, seconds, self.context.now) {
                self.actions.push(Action::RequeueAt(at));
            }
        }
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        new.updated_number_scheduled = some(updated);
        new.number_available = some(available);
        new.number_unavailable = some(new.desired_number_scheduled - available);
        if self.set.status.as_ref() != Some(&new) {
            let key = Key::of(&self.set.metadata);
            self.actions.push(Action::patch_status(Kind::DaemonSet, key, self.set.status.as_ref(), &new));
        }
    }
}

/// The template's tolerations and those of every daemon pod, which stays when its node has problems.
fn tolerations(pod: &PodSpec) -> Vec<Toleration> {
    const ALWAYS: [(&str, &str); 6] = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let network =
        (pod.host_network == Some(true)).then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let mut all = pod.tolerations.clone().unwrap_or_default();
    for (key, effect) in ALWAYS.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Restricts the pod to its node by an affinity; the scheduler binds it.
fn pin(pod: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity = pod.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node of a daemon pod: where it is bound, or the one that its affinity names.
fn target(pod: &Pod) -> String {
    if !pods::node_name(pod).is_empty() {
        return pods::node_name(pod).to_owned();
    }
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .and_then(|r| r.node_selector_terms.first()?.match_fields.as_ref()?.first())
        .and_then(|f| f.values.as_ref()?.first().cloned())
        .unwrap_or_default()
}
