//! Pods. Their specification is in `pod_spec`, shared with the templates of workloads.

mod columns;
mod ephemeral;
mod qos;
mod references;
mod resize;
mod update;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::affinity::merge_label_keys;
use crate::kinds::container::validate_image_text;
use crate::kinds::kind::Strategy;
use crate::kinds::pod_annotations::{
    take_app_armor_annotations, validate_agreement, validate_pod_annotations,
};
use crate::kinds::pod_resources::default_pod_resources;
use crate::kinds::pod_spec::{default_pod_spec, validate_pod_spec};
use crate::kinds::pod_warnings::new_pod_warnings;
use crate::kinds::row::Row;
use crate::value::{items, items_mut, set_default, set_zero_default, text};

use columns::COLUMNS;
pub use ephemeral::add_ephemeral_containers;
pub(crate) use qos::qos_class;
pub use references::object_reference;
pub use resize::resize;
use update::validate_update;

pub(super) const ROW: Row = Row {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    ],
    schema: "api.core.v1.Pod",
    selectable_fields: &[
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        prepare_create,
        validate,
        own_required: true,
        validate_create,
        validate_update,
        warnings: new_pod_warnings,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

fn default(pod: &mut Value) {
    set_default(pod, "spec", json!({}));
    default_pod_spec(&mut pod["spec"]);
    if pod["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    }
    set_default(&mut pod["spec"], "enableServiceLinks", true);
    if pod["spec"]["hostNetwork"] == true {
        default_host_ports(&mut pod["spec"]);
    }
    // Requests default to limits in a pod only, so that a template stays as its author wrote it.
    for list in ["initContainers", "containers"] {
        for container in items_mut(&mut pod["spec"], list) {
            let limits = container["resources"]["limits"].clone();
            for (name, value) in limits.as_object().into_iter().flatten() {
                if container["resources"]["requests"].is_null() {
                    container["resources"]["requests"] = json!({});
                }
                set_default(&mut container["resources"]["requests"], name, value.clone());
            }
        }
    }
    default_pod_resources(&mut pod["spec"]);
}

/// The port of a container is one of the node.
fn default_host_ports(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for port in items_mut(spec, list).flat_map(|container| items_mut(container, "ports")) {
            let number = port["containerPort"].clone();
            if !number.is_null() {
                set_zero_default(port, "hostPort", number);
            }
        }
    }
}

/// What a new pod has beside its author's fields: a status, a condition while it is gated, selectors of label keys, profiles of
/// annotations.
fn prepare_create(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    if items(&pod["spec"], "schedulingGates").next().is_some() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": pod["metadata"]["creationTimestamp"],
        }]);
    }
    merge_label_keys(pod);
    take_app_armor_annotations(pod);
}

fn validate(pod: &Value, errors: &mut Errors) {
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    let annotations = Path::new("metadata").child("annotations");
    validate_pod_annotations(pod, &path, &annotations, errors);
    validate_pod_spec(spec, &pod["metadata"], &path, errors);
    if text(&spec["serviceAccountName"]).is_empty() {
        for (i, volume) in items(spec, "volumes").enumerate() {
            for (j, source) in items(&volume["projected"], "sources").enumerate() {
                if source["serviceAccountToken"].is_object() {
                    let at = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.forbidden(&at.child("serviceAccountToken"), detail);
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in items(spec, list).enumerate() {
            validate_image_text(container, &path.child(list).index(i), errors);
        }
    }
}

fn validate_create(pod: &Value, errors: &mut Errors) {
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    if items(spec, "ephemeralContainers").next().is_some() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(&spec["nodeName"]).is_empty() && items(spec, "schedulingGates").next().is_some() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    validate_agreement(pod, &path, errors);
}
