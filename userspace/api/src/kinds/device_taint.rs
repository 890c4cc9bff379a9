//! Taints of devices, and what tolerates them.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, validate_name, validate_optional_name};
use crate::value::{items, one_of, require_one_of, text};

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const OPERATORS: [&str; 2] = ["Equal", "Exists"];

pub(super) fn validate_taint(taint: &Value, path: &Path, errors: &mut Errors) {
    validate_name(text(&taint["key"]), NameForm::LabelKey, &path.child("key"), errors);
    validate_optional_name(taint, "value", NameForm::LabelValue, path, errors);
    require_one_of(taint, "effect", path, &EFFECTS, errors);
}

/// Checks the tolerations of a request.
pub(super) fn validate_tolerations(request: &Value, path: &Path, errors: &mut Errors) {
    for (i, toleration) in items(request, "tolerations").enumerate() {
        let (at, value) = (path.child("tolerations").index(i), text(&toleration["value"]));
        validate_optional_name(toleration, "key", NameForm::LabelKey, &at, errors);
        match text(&toleration["operator"]) {
            "Exists" => {
                if !value.is_empty() {
                    let detail = "must be empty for operator `Exists`";
                    errors.invalid(&at.child("value"), &value.into(), detail);
                }
            }
            "Equal" => validate_name(value, NameForm::LabelValue, &at.child("value"), errors),
            _ => require_one_of(toleration, "operator", &at, &OPERATORS, errors),
        }
        if !text(&toleration["effect"]).is_empty() {
            one_of(toleration, "effect", &at, &EFFECTS, errors);
        }
    }
}
