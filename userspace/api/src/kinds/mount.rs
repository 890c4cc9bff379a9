//! The mounts of a container, and paths below a volume.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, FieldError, Path};
use crate::value::{items, one_of, text};

const PROPAGATIONS: [&str; 3] = ["None", "HostToContainer", "Bidirectional"];

/// Checks `volumeMounts`.
pub(super) fn validate_mounts(container: &Value, path: &Path, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut mounted = HashSet::new();
    for (i, mount) in items(container, "volumeMounts").enumerate() {
        let at = path.child("volumeMounts").index(i);
        let name = text(&mount["name"]);
        if !volumes.contains(name) {
            errors.0.push(FieldError {
                field: at.child("name").to_string(),
                reason: "FieldValueNotFound",
                message: format!("Not found: \"{name}\""),
            });
        }
        match text(&mount["mountPath"]) {
            "" => errors.required(&at.child("mountPath"), ""),
            target if !mounted.insert(target) => {
                errors.invalid(&at.child("mountPath"), &mount["mountPath"], "must be unique");
            }
            _ => {}
        }
        for field in ["subPath", "subPathExpr"] {
            validate_descending(&mount[field], &at.child(field), errors);
        }
        if !text(&mount["subPath"]).is_empty() && !text(&mount["subPathExpr"]).is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.child("subPathExpr"), &mount["subPathExpr"], detail);
        }
        one_of(mount, "mountPropagation", &at, &PROPAGATIONS, errors);
        if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true
        {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&at.child("mountPropagation"), detail);
        }
    }
}

/// Checks a path that must stay below its folder.
pub(super) fn validate_descending(value: &Value, path: &Path, errors: &mut Errors) {
    if text(value).starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    validate_no_backsteps(value, path, errors);
}

/// Refuses a path that goes up.
pub(super) fn validate_no_backsteps(value: &Value, path: &Path, errors: &mut Errors) {
    if text(value).split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// Checks the path of a file in a volume. Names that begin with `..` are the node's own.
pub(super) fn validate_file_path(value: &Value, path: &Path, errors: &mut Errors) {
    if text(value).is_empty() {
        return errors.required(path, "");
    }
    validate_descending(value, path, errors);
    if text(value).starts_with("..") && !text(value).starts_with("../") {
        errors.invalid(path, value, "must not start with '..'");
    }
}
