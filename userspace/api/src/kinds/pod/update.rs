//! What an update of a pod may change: images, deadlines, tolerations (additions) and scheduling gates (removals).

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::value::{items, items_mut, text};

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (changed, old) = (&new["spec"], &old["spec"]);
    validate_deadline(changed, old, errors);
    validate_tolerations(changed, old, errors);
    validate_gates(changed, old, errors);
    let mut new = changed.clone();
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
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    // A negative period is from a time when nothing checked it.
    let grace = "terminationGracePeriodSeconds";
    if changed[grace] == 1 && old[grace].as_i64().is_some_and(|seconds| seconds < 0) {
        free.push(grace);
    }
    for field in free {
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

/// A deadline may be set or come nearer.
fn validate_deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let field = "activeDeadlineSeconds";
    let path = Path::new("spec").child(field);
    match (new[field].as_i64(), old[field].as_i64()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            errors.invalid(&path, &new[field], "must be between 0 and 2147483647, inclusive");
        }
        (Some(new_seconds), Some(old_seconds)) if new_seconds > old_seconds => {
            errors.invalid(&path, &new[field], "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(&path, &new[field], "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

/// Tolerations may be added, and the seconds of one may change.
fn validate_tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(fields) = toleration.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        toleration
    };
    let kept: HashSet<Value> = items(new, "tolerations").map(without_seconds).collect();
    if items(old, "tolerations").any(|toleration| !kept.contains(&without_seconds(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&Path::new("spec").child("tolerations"), detail);
    }
}

/// Gates may be removed.
fn validate_gates(new: &Value, old: &Value, errors: &mut Errors) {
    let before: HashSet<&str> = items(old, "schedulingGates").map(|gate| text(&gate["name"])).collect();
    for (i, gate) in items(new, "schedulingGates").enumerate() {
        let name = text(&gate["name"]);
        if !before.contains(name) {
            let at = Path::new("spec").child("schedulingGates").index(i).child("name");
            errors
                .forbidden(&at, &format!("only deletion is allowed, but found new scheduling gate '{name}'"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_upstream_allows_may_change() {
        let old = json!({"spec": {
            "containers": [{"name": "c", "image": "c:1"}], "activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": 30,
            "tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5}], "schedulingGates": [{"name": "g"}],
        }});
        let refused = |field: &str, value: Value| {
            let mut new = old.clone();
            new["spec"][field] = value;
            let mut errors = Errors::default();
            validate_update(&new, &old, &mut errors);
            !errors.is_empty()
        };
        for (field, value) in [
            ("activeDeadlineSeconds", json!(11)),
            ("activeDeadlineSeconds", json!(null)),
            ("terminationGracePeriodSeconds", json!(1)),
            ("tolerations", json!([])),
            ("tolerations", json!([{"key": "b", "operator": "Exists"}])),
            ("schedulingGates", json!([{"name": "g"}, {"name": "h"}])),
            ("nodeName", json!("n")),
        ] {
            assert!(refused(field, value.clone()), "{field}: {value}");
        }
        for (field, value) in [
            ("activeDeadlineSeconds", json!(5)),
            ("containers", json!([{"name": "c", "image": "c:2"}])),
            (
                "tolerations",
                json!([{"operator": "Exists"}, {"key": "a", "operator": "Exists", "tolerationSeconds": 9}]),
            ),
            ("schedulingGates", json!([])),
        ] {
            assert!(!refused(field, value.clone()), "{field}: {value}");
        }
    }
}
