//! Which pods are a Job's: those that it controls, and those that it adopts by its selector. PURE.
//! A pod that no longer matches is released, with the finalizer by which the Job counted it.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use serde_json::json;

use super::status;
use crate::action::Action;
use crate::cache::{Key, Kind, View};
use crate::controllers::pods::{self, Claim};
use crate::meta;

/// A pod has it until its Job has counted it.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// The Job's pods. Adds the patches of those that it adopts or releases.
pub(super) fn claim<'a>(view: &'a View, job: &Job, actions: &mut Vec<Action>) -> Vec<&'a Arc<Pod>> {
    let uid = meta::uid(&job.metadata);
    let owned = view.pods.owned_by(uid);
    let Some(selector) = selector(job) else { return owned.collect() };
    let mut mine = Vec::new();
    for pod in owned {
        match pods::claim(&pod.metadata, &job.metadata, selector) {
            Claim::Release => actions.push(control(pod, None, uid)),
            _ => mine.push(pod),
        }
    }
    let all = view.pods.in_namespace(meta::namespace(&job.metadata)).map(|(_, pod)| pod);
    for pod in all.filter(|pod| meta::controller_of(&pod.metadata).is_none()) {
        if pods::claim(&pod.metadata, &job.metadata, selector) == Claim::Adopt {
            let owner = meta::controlled_by(Kind::Job, &job.metadata);
            actions.push(control(pod, Some(owner), ""));
        }
    }
    mine
}

/// The Jobs that adopt a pod.
pub(super) fn adopters<'a>(view: &'a View, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Job>> {
    let is_orphan = meta::controller_of(&pod.metadata).is_none();
    let namespace = is_orphan.then(|| meta::namespace(&pod.metadata));
    let jobs = namespace.into_iter().flat_map(|namespace| view.jobs.in_namespace(namespace));
    jobs.map(|(_, job)| job).filter(|job| {
        selector(job)
            .is_some_and(|selector| pods::claim(&pod.metadata, &job.metadata, selector) == Claim::Adopt)
    })
}

/// The selector by which the Job claims pods; a finished Job claims none.
fn selector(job: &Job) -> Option<&LabelSelector> {
    let spec = job.spec.as_ref().filter(|spec| spec.managed_by.is_none())?;
    spec.selector.as_ref().filter(|_| status::finished_at(job).is_none())
}

/// The patch that adds the controller reference `owner` with the finalizer, or removes both from the pod of the owner with the
/// uid `former`; it applies only to this version of the pod.
fn control(pod: &Pod, owner: Option<OwnerReference>, former: &str) -> Action {
    let meta = &pod.metadata;
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.extend(owner.is_some().then(|| FINALIZER.to_owned()));
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != former);
    references.extend(owner);
    Action::Patch {
        kind: Kind::Pod,
        key: Key::of(meta),
        patch: json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version,
            "finalizers": finalizers, "ownerReferences": references,
        }}),
        subresource: "",
    }
}
