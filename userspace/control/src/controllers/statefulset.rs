//! StatefulSets: pods with stable names, created in order and deleted in reverse, and claims that outlive them. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};

use super::pods::{self, Availability, Claim};
use super::revisions::{self, HASH, History, RevisionOwner};
use super::routing::{own_key, owner_keys};
use super::statefulset_claims::Retention;
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// Limit of pods that one reconcile creates.
const MAX_BURST: usize = 500;
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub struct StatefulSets;

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn account(&self) -> &'static str {
        "statefulset-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::StatefulSet, Kind::Pod, Kind::ControllerRevision, Kind::PersistentVolumeClaim]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::StatefulSet, keys);
        match change.object() {
            Some(Object::Pod(pod)) => {
                owner_keys(change, Kind::StatefulSet, keys);
                // An orphan with one of its names is adopted or blocks the name.
                if let Some((set, _)) = meta::name(&pod.metadata).rsplit_once('-') {
                    let key = Key::new(meta::namespace(&pod.metadata), set);
                    if view.stateful_sets.get(&key).is_some() && !keys.contains(&key) {
                        keys.push(key);
                    }
                }
            }
            Some(Object::ControllerRevision(_)) => owner_keys(change, Kind::StatefulSet, keys),
            // A pod may wait for the name of a claim that is gone.
            Some(Object::PersistentVolumeClaim(claim)) if change.new.is_none() => {
                let (namespace, name) = (meta::namespace(&claim.metadata), meta::name(&claim.metadata));
                let sets = view.stateful_sets.in_namespace(namespace);
                keys.extend(sets.filter(|(_, set)| is_claim_of(set, name)).map(|(key, _)| key.clone()));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(set) = view.stateful_sets.get(key) else { return Vec::new() };
        let Some(spec) = &set.spec else { return Vec::new() };
        let mut step = StatefulSetSync {
            view,
            set,
            spec,
            context,
            actions: Vec::new(),
            current: String::new(),
            update: String::new(),
        };
        step.decide();
        step.actions
    }
}

struct StatefulSetSync<'a> {
    view: &'a View,
    set: &'a Arc<StatefulSet>,
    spec: &'a StatefulSetSpec,
    context: Context<'a>,
    actions: Vec<Action>,
    /// Names of the current revision and of the update revision.
    current: String,
    update: String,
}

impl<'a> StatefulSetSync<'a> {
    fn decide(&mut self) {
        let set = self.set;
        let owner = RevisionOwner {
            kind: Kind::StatefulSet,
            meta: &set.metadata,
            selector: &self.spec.selector,
            template: &self.spec.template,
            collisions: set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0),
            limit: self.spec.revision_history_limit,
        };
        let mut mine = self.claim();
        if !self.actions.is_empty() {
            return;
        }
        let history = owner.history(self.view, &mut self.actions);
        if !self.actions.is_empty() {
            return;
        }
        self.revisions(history.current.clone(), &history);
        mine.sort_by_key(|(ordinal, _)| *ordinal);
        self.status(&mine);
        if !meta::terminating(&set.metadata) {
            self.sync_pods(&mine);
            let pods: Vec<&Arc<Pod>> = mine.iter().map(|(_, p)| *p).collect();
            let keep = [self.current.clone(), self.update.clone()];
            owner.clean_up(&history, &pods, &[&keep[0], &keep[1]], &mut self.actions);
        }
    }

    fn revisions(&mut self, update: String, history: &History) {
        let known = self.set.status.as_ref().and_then(|s| s.current_revision.clone());
        let known = known.filter(|name| history.all.iter().any(|r| meta::name(&r.metadata) == name));
        self.current = known.unwrap_or_else(|| update.clone());
        self.update = update;
    }

    fn claim(&mut self) -> Vec<(i32, &'a Arc<Pod>)> {
        let mut mine = Vec::new();
        let uid = meta::uid(&self.set.metadata);
        for (_, pod) in self.view.pods.in_namespace(meta::namespace(&self.set.metadata)) {
            let Some(ordinal) = self.ordinal(pod) else { continue };
            match pods::claim(&pod.metadata, &self.set.metadata, &self.spec.selector) {
                Claim::Mine => mine.push((ordinal, pod)),
                Claim::Adopt => {
                    let owner = meta::controlled_by(Kind::StatefulSet, &self.set.metadata);
                    self.actions.push(pods::set_controller(Kind::Pod, &pod.metadata, Some(owner), ""));
                }
                Claim::Release => {
                    self.actions.push(pods::set_controller(Kind::Pod, &pod.metadata, None, uid))
                }
                Claim::Foreign => {}
            }
        }
        mine
    }

    /// The ordinal in a pod's name, if the name is one of the set's.
    fn ordinal(&self, pod: &Pod) -> Option<i32> {
        let rest = meta::name(&pod.metadata).strip_prefix(meta::name(&self.set.metadata))?;
        rest.strip_prefix('-')?.parse().ok()
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        self.start()..self.start().saturating_add(self.spec.replicas.unwrap_or(1))
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn healthy(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        !meta::terminating(&pod.metadata)
            && pods::phase(pod) == "Running"
            && pods::availability(pod, seconds, self.context.now) == Availability::Now
    }

    fn revision_of(pod: &Pod) -> &str {
        meta::label(&pod.metadata, HASH).unwrap_or_default()
    }

    /// Ordinals from this one on get the new template.
    fn first_updated(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return i32::MAX;
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition);
        self.start().saturating_add(partition.unwrap_or(0))
    }

    /// Creates, deletes and updates pods; one at a time unless the policy is Parallel.
    fn sync_pods(&mut self, mine: &[(i32, &Arc<Pod>)]) {
        let known: BTreeMap<i32, &Arc<Pod>> = mine.iter().copied().collect();
        self.report_failure(&known);
        // Before a pod is deleted, its claims have the owner that decides about them.
        self.own_claims(mine);
        let mut room = if self.is_ordered() { 1 } else { pods::burst(&self.spec.template).min(MAX_BURST) };
        for ordinal in self.ordinals() {
            let waits = match known.get(&ordinal).copied() {
                // The answers to the creates bring the set back for the next ones.
                None if room == 0 => break,
                None => {
                    room -= 1;
                    self.create(ordinal)
                }
                Some(pod) if pods::finished(pod) && !meta::terminating(&pod.metadata) => {
                    self.delete(pod);
                    true
                }
                Some(pod) => !self.healthy(pod),
            };
            if waits && self.is_ordered() {
                return;
            }
        }
        if self.remove_surplus(mine) {
            return;
        }
        self.roll(mine);
    }

    /// Deletes pods beyond the wanted ordinals, the highest first; true if the others wait for one. An ordered set stops at
    /// an unhealthy pod, unless it is the lowest unhealthy one.
    fn remove_surplus(&mut self, mine: &[(i32, &Arc<Pod>)]) -> bool {
        let range = self.ordinals();
        let surplus: Vec<_> = mine.iter().filter(|(ordinal, _)| !range.contains(ordinal)).collect();
        let unhealthy = surplus.iter().find(|(_, pod)| !self.healthy(pod)).map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in surplus.into_iter().rev() {
            let halts = self.is_ordered() && !self.healthy(pod) && unhealthy != Some(*ordinal);
            if !meta::terminating(&pod.metadata) && !halts {
                self.delete(pod);
            }
            if self.is_ordered() {
                return true;
            }
        }
        false
    }

    /// Updates the highest ordinal first and waits for it to be healthy again: Parallel is about scaling, not about updates.
    fn roll(&mut self, mine: &[(i32, &Arc<Pod>)]) {
        let first = self.first_updated();
        let known: BTreeMap<i32, &Arc<Pod>> = mine.iter().copied().collect();
        for ordinal in self.ordinals().rev().take_while(|ordinal| *ordinal >= first) {
            // The pod that takes a deleted one's ordinal is not healthy yet.
            let Some(pod) = known.get(&ordinal) else { return };
            if Self::revision_of(pod) != self.update {
                if !meta::terminating(&pod.metadata) {
                    self.delete(pod);
                }
                return;
            }
            if !self.healthy(pod) {
                return;
            }
        }
    }

    /// True if the set must wait for this pod.
    fn create(&mut self, ordinal: i32) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        let old =
            strategy != Some("OnDelete") && ordinal < self.first_updated() && self.current != self.update;
        let namespace = meta::namespace(&self.set.metadata);
        let earlier = old.then(|| revisions::template_of(self.view, namespace, &self.current)).flatten();
        let revision = if earlier.is_some() { &self.current } else { &self.update };
        let template = earlier.as_ref().unwrap_or(&self.spec.template);
        let name = format!("{}-{ordinal}", meta::name(&self.set.metadata));
        let mut pod = pods::from_template(template, Kind::StatefulSet, &self.set.metadata, name.clone());
        pod.metadata.generate_name = None;
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), ordinal.to_string());
        labels.insert(HASH.into(), revision.clone());
        let claims = self.claims(ordinal);
        let retention = Retention::of(self.set);
        let known = |claim: &PersistentVolumeClaim| self.view.claims.get(&Key::of(&claim.metadata));
        if claims.iter().filter_map(|(_, claim)| known(claim)).any(|claim| retention.is_stale(&name, claim)) {
            return true;
        }
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name);
            spec.subdomain = self.spec.service_name.clone();
            let volumes = spec.volumes.get_or_insert_default();
            for (volume, claim) in &claims {
                volumes.retain(|v| v.name != *volume);
                volumes.push(Volume {
                    name: volume.clone(),
                    persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                        claim_name: meta::name(&claim.metadata).into(),
                        read_only: Some(false),
                    }),
                    ..Default::default()
                });
            }
            spec.volumes = spec.volumes.take().filter(|v| !v.is_empty());
        }
        let subject = self.subject(ordinal);
        for (_, claim) in claims {
            if self.view.claims.get(&Key::of(&claim.metadata)).is_none() {
                let message = format!("create Claim {} {subject} success", meta::name(&claim.metadata));
                self.actions.push(Action::Create(claim.into()));
                self.record(false, "SuccessfulCreate", message);
            }
        }
        self.actions.push(Action::Create(pod.into()));
        self.record(false, "SuccessfulCreate", format!("create {subject} successful"));
        true
    }

    /// Gives the claims of existing pods the owners that the retention policy wants.
    fn own_claims(&mut self, mine: &[(i32, &Arc<Pod>)]) {
        let (retention, range) = (Retention::of(self.set), self.ordinals());
        for (ordinal, pod) in mine {
            for (_, claim) in self.claims(*ordinal) {
                let Some(claim) = self.view.claims.get(&Key::of(&claim.metadata)) else { continue };
                let corrected = retention.corrected(self.set, pod, range.contains(ordinal), claim);
                self.actions.extend(corrected.map(Action::update));
            }
        }
    }

    fn delete(&mut self, pod: &Arc<Pod>) {
        let (name, set) = (meta::name(&pod.metadata), meta::name(&self.set.metadata));
        let message = format!("delete Pod {name} in StatefulSet {set} successful");
        self.actions.push(Action::delete(Object::Pod(pod.clone())));
        self.record(false, "SuccessfulDelete", message);
    }

    /// Reports a create that the server refused: that of the first pod that is still missing.
    fn report_failure(&mut self, known: &BTreeMap<i32, &Arc<Pod>>) {
        let Some(Failure::Refused { message, .. }) = self.context.failure else { return };
        if let Some(missing) = self.ordinals().find(|ordinal| !known.contains_key(ordinal)) {
            let message = format!("create {} failed error: {message}", self.subject(missing));
            self.record(true, "FailedCreate", message);
        }
    }

    /// A pod of the set in upstream's words.
    fn subject(&self, ordinal: i32) -> String {
        let set = meta::name(&self.set.metadata);
        format!("Pod {set}-{ordinal} in StatefulSet {set}")
    }

    fn record(&mut self, warning: bool, reason: &'static str, message: String) {
        let set = Object::StatefulSet(self.set.clone());
        self.actions.push(Action::record(&set, warning, reason, message));
    }

    /// The claims of one pod, by volume name.
    fn claims(&self, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates
            .map(|template| {
                let mut claim = template.clone();
                let volume = meta::name(&template.metadata).to_owned();
                claim.metadata.name = Some(format!("{volume}-{}-{ordinal}", meta::name(&self.set.metadata)));
                claim.metadata.namespace = self.set.metadata.namespace.clone();
                let labels = claim.metadata.labels.get_or_insert_default();
                labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
                claim.status = None;
                Retention::of(self.set).own(self.set, &mut claim);
                (volume, claim)
            })
            .collect()
    }

    fn status(&mut self, mine: &[(i32, &Arc<Pod>)]) {
        let count = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(mine.iter().filter(|(_, p)| f(p)).count()).unwrap_or(i32::MAX)
        };
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        for (_, pod) in mine {
            if let Availability::At(at) = pods::availability(pod, seconds, self.context.now) {
                self.actions.push(Action::RequeueAt(at));
            }
        }
        let replicas = count(&|p| !pods::finished(p));
        let ready = count(&|p| pods::phase(p) == "Running" && pods::ready(p));
        let at =
            |p: &Pod, revision: &str| !meta::terminating(&p.metadata) && Self::revision_of(p) == revision;
        let updated = count(&|p| at(p, &self.update));
        let wanted = self.spec.replicas.unwrap_or(1);
        if updated == wanted && ready == wanted && replicas == wanted && self.first_updated() == self.start()
        {
            // The update is complete: the update revision becomes the current one.
            self.current.clone_from(&self.update);
        }
        let old = self.set.status.as_ref();
        let new = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(count(&|p| self.healthy(p))),
            current_replicas: some(count(&|p| at(p, &self.current))),
            updated_replicas: some(updated),
            current_revision: Some(self.current.clone()),
            update_revision: Some(self.update.clone()),
            collision_count: Some(old.and_then(|s| s.collision_count).unwrap_or(0)),
            conditions: old.and_then(|s| s.conditions.clone()),
        };
        if old != Some(&new) {
            let key = Key::of(&self.set.metadata);
            self.actions.push(Action::patch_status(Kind::StatefulSet, key, old, &new));
        }
    }
}

/// Whether a claim's name is one that the set gives.
fn is_claim_of(set: &StatefulSet, claim: &str) -> bool {
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let ordinal = |template: &PersistentVolumeClaim| {
        let rest = claim.strip_prefix(meta::name(&template.metadata))?.strip_prefix('-')?;
        rest.strip_prefix(meta::name(&set.metadata))?.strip_prefix('-')?.parse::<u32>().ok()
    };
    templates.into_iter().any(|template| ordinal(template).is_some())
}
