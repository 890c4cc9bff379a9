//! ValidatingAdmissionPolicyBindings.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::admission_policy_binding;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    categories: &["api-extensions"],
    schema: "api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    columns: admission_policy_binding::COLUMNS,
    strategy: Strategy {
        generation: true,
        default: admission_policy_binding::default,
        validate,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};

fn validate(object: &Value, errors: &mut Errors) {
    admission_policy_binding::validate(object, errors);
    validate_actions(&object["spec"], &Path::new("spec").child("validationActions"), errors);
}

fn validate_actions(spec: &Value, path: &Path, errors: &mut Errors) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let all: Vec<&str> = items(spec, "validationActions").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
    for (i, action) in all.iter().enumerate() {
        if !ACTIONS.contains(action) {
            errors.not_supported(&path.index(i), &json!(action), &ACTIONS);
        }
        if all[..i].contains(action) {
            errors.duplicate(&path.index(i), &json!(action));
        }
    }
    if all.contains(&"Deny") && all.contains(&"Warn") {
        errors.invalid(path, &spec["validationActions"], "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn bindings_must_make_sense() {
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"], "paramRef": {"parameterNotFoundAction": "Deny"}}});
        let found = error_texts(validate, &binding);
        assert!(
            found.contains("spec.paramRef: Required value: one of name or selector must be specified"),
            "{found}"
        );
        assert!(found.contains("must not contain both Deny and Warn"), "{found}");
    }
}
