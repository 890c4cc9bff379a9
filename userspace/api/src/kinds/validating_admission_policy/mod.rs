//! ValidatingAdmissionPolicies.

mod type_check;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::admission_policy::{default_policy, validate_policy};
use crate::kinds::expression::{Environment, ExpectedType};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names;
use crate::table::cell::{UNSET, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, one_of};

pub use type_check::type_warnings;

const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
/// Audit annotations of one policy.
const MAX_AUDIT_ANNOTATIONS: usize = 20;

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    categories: &["api-extensions"],
    subresources: &["status"],
    schema: "api.admissionregistration.v1.ValidatingAdmissionPolicy",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default: default_policy, validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::integer("Validations", |object, _| items(&object["spec"], "validations").count().into()),
    Column::text("ParamKind", param_kind),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let environment = validate_policy(spec, &path, errors);
    let some = |list: &str| items(spec, list).next().is_some();
    if !some("validations") && !some("auditAnnotations") {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), why);
        errors.required(&path.child("auditAnnotations"), why);
    }
    for (i, validation) in items(spec, "validations").enumerate() {
        validate_validation(validation, &path.child("validations").index(i), &environment, errors);
    }
    let mut seen = BTreeSet::new();
    let (at, count) = (path.child("auditAnnotations"), items(spec, "auditAnnotations").count());
    if count > MAX_AUDIT_ANNOTATIONS {
        let why = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid(&at, &spec["auditAnnotations"], &why);
    }
    for (i, annotation) in items(spec, "auditAnnotations").enumerate() {
        let (at, key) = (at.index(i), annotation["key"].as_str().unwrap_or_default());
        // The key of the audit event's annotation.
        let whole = format!("{}/{key}", meta::name(object));
        names::validate_name(&whole, names::NameForm::LabelKey, &at.child("key"), errors);
        if !seen.insert(key) {
            errors.duplicate(&at.child("key"), &annotation["key"]);
        }
        environment.validate_field(annotation, "valueExpression", &at, ExpectedType::TextOrNull, errors);
    }
}

fn validate_validation(validation: &Value, path: &Path, environment: &Environment, errors: &mut Errors) {
    environment.validate_field(validation, "expression", path, ExpectedType::Bool, errors);
    if validation["messageExpression"].as_str().is_some_and(|source| !source.is_empty()) {
        let (expression, at) = (&validation["messageExpression"], path.child("messageExpression"));
        environment.without_authorizer().validate(expression, &at, ExpectedType::Text, errors);
    }
    let (message, at) = (validation["message"].as_str().unwrap_or_default(), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at, &validation["message"], "must be non-empty if specified");
    } else if message.trim().contains('\n') {
        errors.invalid(&at, &validation["message"], "must not contain line breaks");
    }
    one_of(validation, "reason", path, &REASONS, errors);
}

fn param_kind(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["paramKind"] {
        Value::Null => UNSET.into(),
        kind => format!("{}/{}", text_or(&kind["apiVersion"], ""), text_or(&kind["kind"], "")).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn policies_must_make_sense() {
        let rules =
            json!([{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
        let policy = |validation: Value| json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": [validation], "variables": [{"name": "x", "expression": "true"}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
        assert_eq!(
            error_texts(
                validate,
                &policy(json!({"expression": "object.spec.replicas <= params.max && variables.x"}))
            ),
            ""
        );
        let found = error_texts(validate, &policy(json!({"expression": "nothing == 1", "reason": "Mine"})));
        assert!(
            found.contains("spec.validations[0].expression: Invalid value")
                && found.contains("undeclared reference to 'nothing'"),
            "{found}"
        );
        assert!(found.contains("spec.validations[0].reason: Unsupported value"), "{found}");
        assert!(
            error_texts(validate, &json!({"spec": {}})).starts_with("spec.matchConstraints: Required value")
        );
    }
}
