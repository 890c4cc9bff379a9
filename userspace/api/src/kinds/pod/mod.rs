//! Pods. Their specification is in `pod_spec`, shared with the templates of workloads.

mod columns;
mod ephemeral;
mod qos;
mod resize;
mod update;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::pod_spec::{default_pod_spec, validate_pod_spec};
use crate::kinds::row::Row;
use crate::value::{items, items_mut, set_default};

use columns::COLUMNS;
pub use ephemeral::add_ephemeral_containers;
pub(crate) use qos::qos_class;
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
        validate,
        validate_create,
        validate_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

fn default(pod: &mut Value) {
    default_pod_spec(&mut pod["spec"]);
    set_default(&mut pod["spec"], "enableServiceLinks", true);
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
    if pod.get("status").is_none() {
        pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    }
}

fn validate(pod: &Value, errors: &mut Errors) {
    validate_pod_spec(&pod["spec"], &Path::new("spec"), &["Always", "OnFailure", "Never"], errors);
    ephemeral::validate(&pod["spec"], &Path::new("spec"), errors);
}

fn validate_create(pod: &Value, errors: &mut Errors) {
    if items(&pod["spec"], "ephemeralContainers").next().is_some() {
        errors.forbidden(&Path::new("spec").child("ephemeralContainers"), "cannot be set on create");
    }
}
