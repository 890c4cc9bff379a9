//! Static pods: the pods of a folder's files, which run whether or not there is an API server.
//!
//! In: a folder of manifests. Out: pods for the agent, and their mirrors in the API, which show them and do not control them.

mod folder;
mod manifest;
mod mirror;
mod mirror_plan;
mod mirrors;
mod set;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

pub(crate) use folder::follow;
pub(crate) use mirror::keep;
pub(crate) use mirrors::Mirrors;
pub(crate) use set::Statics;

/// Namespace and name.
pub(crate) type PodKey = (String, String);

/// Annotations of static pods, and of their mirrors.
const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";
const SOURCE: &str = "kubernetes.io/config.source";
const MIRROR: &str = "kubernetes.io/config.mirror";
const FILE: &str = "file";
const API: &str = "api";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the agent has the pod from a file.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some(FILE)
}

/// Whether the pod of the API shows a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// The pod as the agent takes it from the API: a user's annotation makes no static pod of it.
pub(crate) fn from_api(mut pod: Arc<Pod>) -> Arc<Pod> {
    if annotation(&pod, SOURCE).is_some_and(|source| source != API) {
        let annotations = &mut Arc::make_mut(&mut pod).metadata.annotations;
        annotations.get_or_insert_default().insert(SOURCE.to_owned(), API.to_owned());
    }
    pod
}

pub(crate) fn key(pod: &Pod) -> PodKey {
    let (name, namespace, _) = crate::names::of(pod);
    (namespace, name)
}
