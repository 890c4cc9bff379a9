//! Deployments: which ReplicaSet shall have how many replicas now. PURE.
//! Each reconcile takes one step; the answers to its writes bring the next.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::deployment_status as status;
use super::pods::{self, Claim};
use super::rollout::{self, Bounds, HASH_LABEL, REVISION};
use super::routing::{own_key, owner_keys, versions};
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Deployment, keys);
        match change.object() {
            Some(Object::ReplicaSet(_)) => {
                owner_keys(change, Kind::Deployment, keys);
                for set in versions(change).filter(|o| meta::controller_of(o.meta()).is_none()) {
                    let namespace = meta::namespace(set.meta());
                    keys.extend(view.deployments.in_namespace(namespace).filter_map(|(key, d)| {
                        let selector = &d.spec.as_ref()?.selector;
                        meta::selects(selector, set.meta().labels.as_ref()).then(|| key.clone())
                    }));
                }
            }
            // A Recreate waits for its last old pod to vanish.
            Some(Object::Pod(pod)) if change.new.is_none() => {
                let set = meta::controller_of(&pod.metadata)
                    .and_then(|o| view.replica_sets.get(&Key::new(meta::namespace(&pod.metadata), &o.name)));
                if let Some(set) = set {
                    let set = Object::ReplicaSet(set.clone());
                    owner_keys(&Change { old: None, new: Some(set) }, Kind::Deployment, keys);
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(deployment) = view.deployments.get(key) else { return Vec::new() };
        let Some(spec) = &deployment.spec else { return Vec::new() };
        let mut step = Step::new(view, deployment, spec, context);
        step.take();
        step.actions
    }
}

/// Whether the set's controller has seen the set's present size.
fn observed(set: &ReplicaSet) -> bool {
    set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation
}

/// One reconcile of one Deployment.
pub(super) struct Step<'a> {
    pub(super) view: &'a View,
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) spec: &'a DeploymentSpec,
    pub(super) context: Context<'a>,
    pub(super) bounds: Bounds,
    /// Every ReplicaSet of the Deployment, oldest first.
    pub(super) sets: Vec<Arc<ReplicaSet>>,
    /// The one among them whose template is the Deployment's.
    pub(super) new: Option<Arc<ReplicaSet>>,
    pub(super) actions: Vec<Action>,
    /// A condition that this step itself gives cause for: (reason, message).
    pub(super) progress: Option<(&'static str, String)>,
    pub(super) collided: bool,
}

impl<'a> Step<'a> {
    fn new(
        view: &'a View,
        deployment: &'a Arc<Deployment>,
        spec: &'a DeploymentSpec,
        context: Context<'a>,
    ) -> Self {
        let mut step = Step {
            view,
            deployment,
            spec,
            context,
            bounds: Bounds::of(spec),
            sets: Vec::new(),
            new: None,
            actions: Vec::new(),
            progress: None,
            collided: false,
        };
        step.claim();
        step.sets.sort_by(|a, b| rollout::by_age(a, b));
        let same = |s: &&Arc<ReplicaSet>| {
            rollout::same_template(&spec.template, s.spec.as_ref().and_then(|s| s.template.as_ref()))
        };
        step.new = step.sets.iter().find(same).cloned();
        step
    }

    fn meta(&self) -> &'a ObjectMeta {
        &self.deployment.metadata
    }

    fn claim(&mut self) {
        let uid = meta::uid(self.meta());
        for (_, set) in self.view.replica_sets.in_namespace(meta::namespace(self.meta())) {
            match pods::claim(&set.metadata, self.meta(), &self.spec.selector) {
                Claim::Mine => self.sets.push(set.clone()),
                Claim::Adopt => {
                    let owner = meta::controlled_by(Kind::Deployment, self.meta());
                    self.actions.push(pods::set_controller(Kind::ReplicaSet, &set.metadata, Some(owner), ""));
                }
                Claim::Release => {
                    self.actions.push(pods::set_controller(Kind::ReplicaSet, &set.metadata, None, uid));
                }
                Claim::Foreign => {}
            }
        }
    }

    fn take(&mut self) {
        if !self.actions.is_empty() {
            return;
        }
        if meta::terminating(self.meta()) {
            return status::sync(self);
        }
        if self.spec.paused == Some(true) {
            self.revise(false);
            self.scale();
            self.clean_up();
        } else if self.resized() {
            self.revise(false);
            self.scale();
        } else if self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            self.recreate();
        } else {
            self.roll();
        }
        let decided = std::mem::take(&mut self.actions);
        status::sync(self);
        if self.context.failure.is_some() {
            // What failed may fail again: users must see why, so the status goes first.
            self.actions.extend(decided);
        } else {
            let status = std::mem::replace(&mut self.actions, decided);
            self.actions.extend(status);
        }
    }

    pub(super) fn old(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        let new = self.new.as_ref().map(|s| meta::uid(&s.metadata).to_owned());
        self.sets.iter().filter(move |s| new.as_deref() != Some(meta::uid(&s.metadata)))
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|s| rollout::wanted(s)).sum()
    }

    /// Pods that are there or may yet come. A set that was made smaller counts until its pods are really going, and
    /// as long as a set's controller may still act on an older size nothing is said to be free: so surge holds at
    /// every moment and not only in the end.
    fn pods_at_most(&self) -> i32 {
        if !self.sets.iter().all(|s| observed(s)) {
            return i32::MAX;
        }
        let alive = |set: &ReplicaSet| {
            let pods = self.view.pods.owned_by(meta::uid(&set.metadata));
            i32::try_from(pods.filter(|p: &&Arc<Pod>| pods::active(p)).count()).unwrap_or(i32::MAX)
        };
        self.sets.iter().map(|s| rollout::wanted(s).max(alive(s))).fold(0, i32::saturating_add)
    }

    /// Whether the Deployment was scaled since its sets were sized.
    fn resized(&self) -> bool {
        self.sets.iter().filter(|s| rollout::wanted(s) > 0).any(|s| {
            meta::annotation(&s.metadata, rollout::DESIRED)
                .and_then(|v| v.parse::<i32>().ok())
                .is_some_and(|desired| desired != rollout::replicas(self.spec))
        })
    }

    /// Keeps revisions and annotations; makes the new ReplicaSet if it is not there and `create` says so.
    /// True if a write is under way that the next step must see.
    fn revise(&mut self, create: bool) -> bool {
        let newest_old = self.old().map(|s| rollout::revision(s)).max().unwrap_or(0);
        let revision = newest_old + 1;
        let Some(new) = self.new.clone() else {
            return create && self.create(revision);
        };
        let mut updated = new.as_ref().clone();
        let mut changed = rollout::annotate(&mut updated, self.deployment, revision, true);
        if let Some(spec) = &mut updated.spec
            && spec.min_ready_seconds.unwrap_or(0) != self.spec.min_ready_seconds.unwrap_or(0)
        {
            spec.min_ready_seconds = self.spec.min_ready_seconds;
            changed = true;
        }
        if self.spec.progress_deadline_seconds.is_some() && status::progressing(self.deployment).is_none() {
            let message = format!("Found new replica set {:?}", meta::name(&new.metadata));
            self.progress = Some(("FoundNewReplicaSet", message));
        }
        let label = rollout::revision(&updated).to_string();
        if changed {
            self.actions.push(Action::update(updated));
        }
        self.note_revision(label);
        changed
    }

    fn note_revision(&mut self, revision: String) {
        if meta::annotation(self.meta(), REVISION) != Some(&revision) {
            self.actions.push(Action::Patch {
                kind: Kind::Deployment,
                key: Key::of(self.meta()),
                patch: json!({"metadata": {"annotations": {REVISION: revision}}}),
                subresource: "",
            });
        }
    }

    fn create(&mut self, revision: i64) -> bool {
        let collisions = self.deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let hash = rollout::template_hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", meta::name(self.meta()));
        let key = Key::new(meta::namespace(self.meta()), &name);
        if self.view.replica_sets.get(&key).is_some_and(|s| !self.is_mine_being_deleted(s)) {
            // The name is another template's: the next hash is made with one more collision counted.
            self.collided = true;
            return true;
        }
        let replicas = rollout::new_set_size(self.spec, self.pods_at_most(), 0);
        let set = self.new_set(name.clone(), hash, replicas, revision);
        if let Some(Failure::Refused { message, .. }) = self.context.failure {
            self.progress = Some((
                "ReplicaSetCreateError",
                format!("Failed to create new replica set {name:?}: {message}"),
            ));
        } else {
            self.progress = Some(("NewReplicaSetCreated", format!("Created new replica set {name:?}")));
        }
        self.actions.push(Action::Create(set.into()));
        self.note_revision(revision.to_string());
        if replicas > 0 {
            self.say("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"));
        }
        true
    }

    fn is_mine_being_deleted(&self, set: &ReplicaSet) -> bool {
        meta::terminating(&set.metadata)
    }

    fn new_set(&self, name: String, hash: String, replicas: i32, revision: i64) -> ReplicaSet {
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.meta().namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![meta::controlled_by(Kind::Deployment, self.meta())]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        rollout::annotate(&mut set, self.deployment, revision, false);
        rollout::note_size(&mut set, self.spec);
        set
    }

    fn say(&mut self, reason: &'static str, message: String) {
        let object = Object::Deployment(self.deployment.clone());
        self.actions.push(Action::record(&object, false, reason, message));
    }

    /// Sets a ReplicaSet's size. True if anything had to be written.
    fn resize(&mut self, set: &ReplicaSet, size: i32) -> bool {
        let before = rollout::wanted(set);
        let mut updated = set.clone();
        let noted = rollout::note_size(&mut updated, self.spec);
        if before == size && !noted {
            return false;
        }
        if let Some(spec) = &mut updated.spec {
            spec.replicas = Some(size);
        }
        self.actions.push(Action::update(updated));
        if before != size {
            let way = if size > before { "up" } else { "down" };
            let name = meta::name(&set.metadata);
            self.say("ScalingReplicaSet", format!("Scaled {way} replica set {name} from {before} to {size}"));
        }
        true
    }

    fn roll(&mut self) {
        if self.revise(true) {
            return;
        }
        let Some(new) = self.new.clone() else { return };
        let target = rollout::replicas(self.spec);
        let size = if rollout::wanted(&new) > target {
            target
        } else {
            rollout::new_set_size(self.spec, self.pods_at_most(), rollout::wanted(&new))
        };
        if self.resize(&new, size) || self.shrink_old(&new) {
            return;
        }
        self.clean_up();
    }

    /// Takes from the old sets what availability allows: unhealthy replicas first. True if anything is written.
    fn shrink_old(&mut self, new: &ReplicaSet) -> bool {
        let old: Vec<Arc<ReplicaSet>> = self.old().filter(|s| rollout::wanted(s) > 0).cloned().collect();
        if old.is_empty() {
            return false;
        }
        let least = rollout::replicas(self.spec) - self.bounds.unavailable;
        let new_unavailable = (rollout::wanted(new) - rollout::available(new)).max(0);
        let mut may_go = self.total() - least - new_unavailable;
        if may_go <= 0 {
            return false;
        }
        let mut sizes: Vec<i32> = old.iter().map(|s| rollout::wanted(s)).collect();
        for (set, size) in old.iter().zip(&mut sizes) {
            let unhealthy = (*size - rollout::available(set)).max(0).min(may_go);
            *size -= unhealthy;
            may_go -= unhealthy;
        }
        // Of a set that is already shrinking only what it keeps counts as available, and of one whose controller may
        // still act on an older size nothing does.
        let keeps = |s: &&Arc<ReplicaSet>| observed(s);
        let kept: i32 =
            self.sets.iter().filter(keeps).map(|s| rollout::available(s).min(rollout::wanted(s))).sum();
        let mut spare = (kept - least).min(may_go);
        for size in &mut sizes {
            let healthy = (*size).min(spare).max(0);
            *size -= healthy;
            spare -= healthy;
        }
        let mut written = false;
        for (set, size) in old.iter().zip(sizes) {
            if size != rollout::wanted(set) {
                written |= self.resize(set, size);
            }
        }
        written
    }

    fn recreate(&mut self) {
        self.revise(false);
        let old: Vec<Arc<ReplicaSet>> = self.old().filter(|s| rollout::wanted(s) > 0).cloned().collect();
        if !old.is_empty() {
            for set in old {
                self.resize(&set, 0);
            }
            return;
        }
        if self.old().any(|set| self.has_live_pods(set)) || self.revise_create() {
            return;
        }
        let Some(new) = self.new.clone() else { return };
        if !self.resize(&new, rollout::replicas(self.spec)) {
            self.clean_up();
        }
    }

    fn revise_create(&mut self) -> bool {
        self.new.is_none() && self.revise(true)
    }

    fn has_live_pods(&self, set: &ReplicaSet) -> bool {
        let mut pods = self.view.pods.owned_by(meta::uid(&set.metadata));
        pods.any(|p: &Arc<Pod>| !pods::finished(p))
    }

    /// Spreads a new size over the sets of an unfinished (or paused) rollout.
    fn scale(&mut self) {
        let active: Vec<Arc<ReplicaSet>> =
            self.sets.iter().filter(|s| rollout::wanted(s) > 0).cloned().collect();
        let target = rollout::replicas(self.spec);
        if active.len() <= 1 {
            let only =
                active.into_iter().next().or_else(|| self.new.clone()).or_else(|| self.sets.last().cloned());
            if let Some(set) = only {
                self.resize(&set, target);
            }
            return;
        }
        if let Some(new) = self.new.clone()
            && rollout::wanted(&new) == target
            && rollout::available(&new) == target
        {
            for set in active.iter().filter(|s| meta::uid(&s.metadata) != meta::uid(&new.metadata)) {
                self.resize(set, 0);
            }
            return;
        }
        if self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate") {
            self.scale_in_proportion(active);
        }
    }

    fn scale_in_proportion(&mut self, mut active: Vec<Arc<ReplicaSet>>) {
        let target = rollout::replicas(self.spec);
        let allowed = if target > 0 { target + self.bounds.surge } else { 0 };
        let to_add = allowed - active.iter().map(|s| rollout::wanted(s)).sum::<i32>();
        // Largest first; among equals the newest grows and the oldest shrinks first.
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|s| -rollout::wanted(s));
        let in_status = self.deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for set in &active {
            let part = rollout::proportion(set, self.spec, in_status, to_add, added);
            added += part;
            sizes.push(rollout::wanted(set) + part);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (set, size) in active.iter().zip(sizes) {
            self.resize(set, size);
        }
    }

    /// Deletes the oldest empty sets beyond the history limit, once the rollout is complete.
    fn clean_up(&mut self) {
        let done = self.spec.paused == Some(true) || status::complete(self);
        let Some(limit) = self.spec.revision_history_limit.filter(|_| done) else { return };
        let idle = |s: &ReplicaSet| {
            let status = s.status.as_ref();
            rollout::wanted(s) == 0
                && status.is_none_or(|st| st.replicas == 0)
                && status.and_then(|st| st.observed_generation) >= s.metadata.generation
                && !meta::terminating(&s.metadata)
        };
        let mut old: Vec<Arc<ReplicaSet>> = self.old().filter(|s| idle(s)).cloned().collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|s| rollout::revision(s));
        self.actions.extend(old.into_iter().take(surplus).map(|s| Action::delete(Object::ReplicaSet(s))));
    }
}
