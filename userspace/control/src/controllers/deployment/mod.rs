//! Deployments: how many replicas each ReplicaSet has now. PURE.
//! Each reconcile takes one step; the answers to its writes trigger the next.

mod rolling;
pub mod rollout;
mod scaling;
mod status;
mod step;

use self::step::DeploymentSync;
use super::routing::{own_key, owner_keys, versions};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn account(&self) -> &'static str {
        "deployment-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
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
            // A Recreate waits until its last old pod is deleted.
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
        let mut step = DeploymentSync::new(view, deployment, spec, context);
        decide(&mut step);
        step.actions
    }
}

/// Decides one step: its status, and the next writes of the rollout.
fn decide(step: &mut DeploymentSync<'_>) {
    if !step.actions.is_empty() {
        return;
    }
    if meta::terminating(step.meta()) {
        return status::sync(step);
    }
    if step.spec.paused == Some(true) {
        step.sync_revision(false);
        step.scale();
        step.clean_up();
    } else if step.resized() {
        step.sync_revision(false);
        step.scale();
    } else if step.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        step.recreate();
    } else {
        step.roll();
    }
    let decided = std::mem::take(&mut step.actions);
    status::sync(step);
    if step.context.failure.is_some() {
        // The failed write may fail again and end the task; the status goes first, so that users see why.
        step.actions.extend(decided);
    } else {
        let status = std::mem::replace(&mut step.actions, decided);
        step.actions.extend(status);
    }
}
