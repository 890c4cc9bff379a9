//! Pods. Their specification is in `pod_spec`, shared with the templates of workloads.

mod columns;
mod qos;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::pod_spec::{default_pod_spec, validate_pod_spec};
use crate::kinds::row::Row;
use crate::value::{items_mut, set_default};

use columns::COLUMNS;
pub(crate) use qos::qos_class;

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
    strategy: Strategy { generation: true, default, validate, validate_update, ..Strategy::NONE },
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
}

/// An update may change images, deadlines, tolerations (additions) and scheduling gates (removals).
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut new, old) = (new["spec"].clone(), &old["spec"]);
    for list in ["containers", "initContainers"] {
        for (i, container) in items_mut(&mut new, list).enumerate() {
            container["image"] = old[list][i]["image"].clone();
            if container["image"].is_null()
                && let Some(fields) = container.as_object_mut()
            {
                fields.remove("image");
            }
        }
    }
    let Some(fields) = new.as_object_mut() else { return };
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
    {
        match old.get(field) {
            Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
            None => drop(fields.remove(field)),
        }
    }
    if new != *old {
        errors.forbidden(
            &Path::new("spec"),
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}
