//! Ephemeral containers: what they may be.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::container::{PodContext, validate_container, validate_image_text};
use crate::value::{is_zero, items, text};

/// Fields that an ephemeral container may not have; each may be present and empty. In the order of upstream's type.
const FORBIDDEN_FIELDS: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Checks the ephemeral containers of a pod against its other containers and volumes.
pub(super) fn validate(pod: &PodContext<'_>, path: &Path, errors: &mut Errors) {
    let targets: HashSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(pod.spec, list))
        .map(|container| text(&container["name"]))
        .collect();
    let mut names = targets.clone();
    for (i, container) in items(pod.spec, "ephemeralContainers").enumerate() {
        let at = path.child("ephemeralContainers").index(i);
        validate_container(container, pod, &at, errors);
        validate_image_text(container, &at, errors);
        if !names.insert(text(&container["name"])) {
            errors.duplicate(&at.child("name"), &text(&container["name"]).into());
        }
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !targets.contains(target) {
            errors.not_found(&at.child("targetContainerName"), &target.into(), "");
        }
        let detail = "cannot be set for an Ephemeral Container";
        for field in FORBIDDEN_FIELDS.into_iter().filter(|field| is_set(&container[*field])) {
            errors.forbidden(&at.child(field), detail);
        }
        for (mount, value) in items(container, "volumeMounts").enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(&value[field]).is_empty() {
                    let at = at.child("volumeMounts").index(mount).child(field);
                    errors.forbidden(&at, detail);
                }
            }
        }
    }
}

fn is_set(value: &Value) -> bool {
    !is_zero(value)
}
