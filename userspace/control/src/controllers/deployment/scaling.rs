//! Scaling of an unfinished or paused rollout, and the clean-up of old ReplicaSets. PURE.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::rollout;
use super::status;
use super::step::DeploymentSync;
use crate::action::Action;
use crate::cache::Object;
use crate::meta;

impl DeploymentSync<'_> {
    /// Distributes a new size over the sets of an unfinished (or paused) rollout.
    pub(super) fn scale(&mut self) {
        let active: Vec<Arc<ReplicaSet>> =
            self.sets.iter().filter(|s| rollout::desired(s) > 0).cloned().collect();
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
            && rollout::desired(&new) == target
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
        let allowed = if target > 0 { target.saturating_add(self.bounds.surge) } else { 0 };
        let to_add =
            allowed.saturating_sub(active.iter().map(|s| rollout::desired(s)).fold(0, i32::saturating_add));
        // Largest first; among equals the newest grows and the oldest shrinks first.
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|s| Reverse(rollout::desired(s)));
        let in_status = self.deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for set in &active {
            let share = rollout::proportion(set, self.spec, in_status, to_add, added);
            added = added.saturating_add(share);
            sizes.push(rollout::desired(set).saturating_add(share));
        }
        if let Some(first) = sizes.first_mut() {
            *first = first.saturating_add(to_add).saturating_sub(added).max(0);
        }
        for (set, size) in active.iter().zip(sizes) {
            self.resize(set, size);
        }
    }

    /// Deletes the oldest empty sets beyond the history limit, once the rollout is complete.
    pub(super) fn clean_up(&mut self) {
        let done = self.spec.paused == Some(true) || status::complete(self);
        let Some(limit) = self.spec.revision_history_limit.filter(|_| done) else { return };
        let idle = |s: &ReplicaSet| {
            let status = s.status.as_ref();
            rollout::desired(s) == 0
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
