//! One reconcile of one Deployment: its ReplicaSets, their revisions and sizes, and the writes decided so far. PURE.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::rollout::{self, Bounds, HASH_LABEL, REVISION};
use crate::action::{Action, Context, Failure};
use crate::cache::{Key, Kind, Object, View};
use crate::controllers::pods::{self, Claim};
use crate::meta;

/// The Progressing condition.
pub(super) fn progressing(deployment: &Deployment) -> Option<&DeploymentCondition> {
    deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Progressing")
}

/// Whether the set's controller has observed the set's present size.
pub(super) fn observed(set: &ReplicaSet) -> bool {
    set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation
}

/// One reconcile of one Deployment.
pub(super) struct DeploymentSync<'a> {
    pub(super) view: &'a View,
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) spec: &'a DeploymentSpec,
    pub(super) context: Context<'a>,
    pub(super) bounds: Bounds,
    /// Every ReplicaSet of the Deployment, oldest first.
    pub(super) sets: Vec<Arc<ReplicaSet>>,
    /// The one with the Deployment's template.
    pub(super) new: Option<Arc<ReplicaSet>>,
    pub(super) actions: Vec<Action>,
    /// Reason and message of the Progressing condition, if this step causes one.
    pub(super) progress: Option<(&'static str, String)>,
    pub(super) collided: bool,
}

impl<'a> DeploymentSync<'a> {
    pub(super) fn new(
        view: &'a View,
        deployment: &'a Arc<Deployment>,
        spec: &'a DeploymentSpec,
        context: Context<'a>,
    ) -> Self {
        let mut step = DeploymentSync {
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
        let restored = |s: &&Arc<ReplicaSet>| {
            rollout::same_restored(&spec.template, s.spec.as_ref().and_then(|s| s.template.as_ref()))
        };
        step.new = step.sets.iter().find(same).or_else(|| step.sets.iter().find(restored)).cloned();
        step
    }

    pub(super) fn meta(&self) -> &'a ObjectMeta {
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

    pub(super) fn old(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        let new = self.new.as_ref().map(|s| meta::uid(&s.metadata).to_owned());
        self.sets.iter().filter(move |s| new.as_deref() != Some(meta::uid(&s.metadata)))
    }

    pub(super) fn total(&self) -> i32 {
        self.sets.iter().map(|s| rollout::desired(s)).fold(0, i32::saturating_add)
    }

    /// Upper bound of the pods that exist or may still be created. A set that was scaled down counts until its pods are
    /// terminating. While a set's controller may still act on an older size there is no bound. So the surge limit holds
    /// at every moment, not only in the end.
    pub(super) fn max_pods(&self) -> i32 {
        if !self.sets.iter().all(|s| observed(s)) {
            return i32::MAX;
        }
        let alive = |set: &ReplicaSet| {
            let pods = self.view.pods.owned_by(meta::uid(&set.metadata));
            i32::try_from(pods.filter(|p: &&Arc<Pod>| pods::active(p)).count()).unwrap_or(i32::MAX)
        };
        self.sets.iter().map(|s| rollout::desired(s).max(alive(s))).fold(0, i32::saturating_add)
    }

    /// Whether the Deployment was scaled since its sets were sized.
    pub(super) fn resized(&self) -> bool {
        self.sets.iter().filter(|s| rollout::desired(s) > 0).any(|s| {
            meta::annotation(&s.metadata, rollout::DESIRED)
                .and_then(|v| v.parse::<i32>().ok())
                .is_some_and(|desired| desired != rollout::replicas(self.spec))
        })
    }

    /// Updates revisions and annotations; with `create`, creates the new ReplicaSet if it is missing.
    /// True if the next step must see a write of this one first.
    pub(super) fn sync_revision(&mut self, create: bool) -> bool {
        let newest_old = self.old().map(|s| rollout::revision(s)).max().unwrap_or(0);
        let revision = newest_old.saturating_add(1);
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
        if self.spec.progress_deadline_seconds.is_some() && progressing(self.deployment).is_none() {
            let message = format!("Found new replica set {:?}", meta::name(&new.metadata));
            self.progress = Some(("FoundNewReplicaSet", message));
        }
        let label = rollout::revision(&updated).to_string();
        if changed {
            self.actions.push(Action::update(updated));
        }
        self.annotate_revision(label);
        changed
    }

    fn annotate_revision(&mut self, revision: String) {
        if meta::annotation(self.meta(), REVISION) != Some(&revision) {
            self.actions.push(Action::Patch {
                kind: Kind::Deployment,
                key: Key::of(self.meta()),
                patch: json!({"metadata": {"annotations": {REVISION: revision}}}),
                // As upstream: what the controller notes does not raise the generation.
                subresource: "status",
            });
        }
    }

    fn create(&mut self, revision: i64) -> bool {
        let collisions = self.deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let hash = rollout::template_hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", meta::name(self.meta()));
        let key = Key::new(meta::namespace(self.meta()), &name);
        if self.view.replica_sets.get(&key).is_some_and(|s| !meta::terminating(&s.metadata)) {
            // The name belongs to another template: the next hash includes one more collision.
            self.collided = true;
            return true;
        }
        let replicas = rollout::new_set_size(self.spec, self.max_pods(), 0);
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
        self.annotate_revision(revision.to_string());
        if replicas > 0 {
            self.record("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"));
        }
        true
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
        rollout::annotate_size(&mut set, self.spec);
        set
    }

    fn record(&mut self, reason: &'static str, message: String) {
        let object = Object::Deployment(self.deployment.clone());
        self.actions.push(Action::record(&object, false, reason, message));
    }

    /// Sets a ReplicaSet's size. True if that needs a write.
    pub(super) fn resize(&mut self, set: &ReplicaSet, size: i32) -> bool {
        let before = rollout::desired(set);
        let mut updated = set.clone();
        let annotated = rollout::annotate_size(&mut updated, self.spec);
        if before == size && !annotated {
            return false;
        }
        if let Some(spec) = &mut updated.spec {
            spec.replicas = Some(size);
        }
        self.actions.push(Action::update(updated));
        if before != size {
            let direction = if size > before { "up" } else { "down" };
            let name = meta::name(&set.metadata);
            self.record(
                "ScalingReplicaSet",
                format!("Scaled {direction} replica set {name} from {before} to {size}"),
            );
        }
        true
    }
}
