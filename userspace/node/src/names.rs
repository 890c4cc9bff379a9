//! PURE. Names and paths derived from a pod's identity.

use k8s_openapi::api::core::v1::Pod;

/// The pod's name, namespace and uid; empty where missing.
pub fn of(pod: &Pod) -> (String, String, String) {
    let meta = &pod.metadata;
    (
        meta.name.clone().unwrap_or_default(),
        meta.namespace.clone().unwrap_or_default(),
        meta.uid.clone().unwrap_or_default(),
    )
}

/// The pod's folder under the log root.
pub fn log_folder(pod: &Pod) -> String {
    let (name, namespace, uid) = of(pod);
    format!("{namespace}_{name}_{uid}")
}

/// A container's log under the pod's log folder.
pub fn log_file(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}
