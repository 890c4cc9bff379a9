//! Rollouts: RollingUpdate within its bounds, and Recreate. PURE.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use super::rollout;
use super::step::{DeploymentSync, observed};
use crate::controllers::pods;
use crate::meta;

impl DeploymentSync<'_> {
    pub(super) fn roll(&mut self) {
        if self.sync_revision(true) {
            return;
        }
        let Some(new) = self.new.clone() else { return };
        let target = rollout::replicas(self.spec);
        let size = if rollout::desired(&new) > target {
            target
        } else {
            rollout::new_set_size(self.spec, self.max_pods(), rollout::desired(&new))
        };
        if self.resize(&new, size) || self.scale_down_old(&new) {
            return;
        }
        self.clean_up();
    }

    /// Scales the old sets down as far as availability allows, unhealthy replicas first. True if that needs a write.
    fn scale_down_old(&mut self, new: &ReplicaSet) -> bool {
        let old: Vec<Arc<ReplicaSet>> = self.old().filter(|s| rollout::desired(s) > 0).cloned().collect();
        if old.is_empty() {
            return false;
        }
        let min_available = rollout::replicas(self.spec).saturating_sub(self.bounds.unavailable);
        let new_unavailable = rollout::desired(new).saturating_sub(rollout::available(new)).max(0);
        let mut removable = self.total().saturating_sub(min_available).saturating_sub(new_unavailable);
        if removable <= 0 {
            return false;
        }
        let mut sizes: Vec<i32> = old.iter().map(|s| rollout::desired(s)).collect();
        for (set, size) in old.iter().zip(&mut sizes) {
            let unhealthy = size.saturating_sub(rollout::available(set)).clamp(0, removable);
            *size = size.saturating_sub(unhealthy);
            removable = removable.saturating_sub(unhealthy);
        }
        // A set that is being scaled down counts with what it keeps; one whose controller may still act on an older
        // size does not count.
        let counts = |s: &&Arc<ReplicaSet>| observed(s);
        let kept = self.sets.iter().filter(counts).map(|s| rollout::available(s).min(rollout::desired(s)));
        let kept = kept.fold(0, i32::saturating_add);
        let mut spare = kept.saturating_sub(min_available).min(removable);
        for size in &mut sizes {
            let healthy = (*size).min(spare).max(0);
            *size = size.saturating_sub(healthy);
            spare = spare.saturating_sub(healthy);
        }
        let mut written = false;
        for (set, size) in old.iter().zip(sizes) {
            if size != rollout::desired(set) {
                written |= self.resize(set, size);
            }
        }
        written
    }

    pub(super) fn recreate(&mut self) {
        self.sync_revision(false);
        let old: Vec<Arc<ReplicaSet>> = self.old().filter(|s| rollout::desired(s) > 0).cloned().collect();
        if !old.is_empty() {
            for set in old {
                self.resize(&set, 0);
            }
            return;
        }
        if self.old().any(|set| self.has_live_pods(set)) || self.create_if_missing() {
            return;
        }
        let Some(new) = self.new.clone() else { return };
        if !self.resize(&new, rollout::replicas(self.spec)) {
            self.clean_up();
        }
    }

    fn create_if_missing(&mut self) -> bool {
        self.new.is_none() && self.sync_revision(true)
    }

    fn has_live_pods(&self, set: &ReplicaSet) -> bool {
        let mut pods = self.view.pods.owned_by(meta::uid(&set.metadata));
        pods.any(|p: &Arc<Pod>| !pods::finished(p))
    }
}
