//! MutatingAdmissionPolicies.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::admission_policy::{default_policy, validate_changeable, validate_policy};
use crate::kinds::expression::{Environment, ExpectedType};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{UNSET, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, one_of};

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    categories: &["api-extensions"],
    schema: "api.admissionregistration.v1.MutatingAdmissionPolicy",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default: default_policy, validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::integer("Mutations", |object, _| items(&object["spec"], "mutations").count().into()),
    Column::text("ParamKind", param_kind),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    validate_changeable(&spec["matchConstraints"], &path.child("matchConstraints"), errors);
    let environment = validate_policy(spec, &path, errors);
    let at = path.child("mutations");
    if items(spec, "mutations").next().is_none() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (i, mutation) in items(spec, "mutations").enumerate() {
        validate_mutation(mutation, &at.index(i), &environment, errors);
    }
    match spec["reinvocationPolicy"].as_str() {
        None | Some("") => errors.required(&path.child("reinvocationPolicy"), ""),
        Some(_) => one_of(spec, "reinvocationPolicy", &path, &["IfNeeded", "Never"], errors),
    }
}

fn validate_mutation(mutation: &Value, path: &Path, environment: &Environment, errors: &mut Errors) {
    const FORMS: [(&str, &str, ExpectedType); 2] = [
        ("ApplyConfiguration", "applyConfiguration", ExpectedType::Object),
        ("JSONPatch", "jsonPatch", ExpectedType::Patch),
    ];
    let patch_type = match mutation["patchType"].as_str() {
        None | Some("") => return errors.required(&path.child("patchType"), ""),
        Some(patch_type) => patch_type,
    };
    if FORMS.iter().all(|(form, ..)| *form != patch_type) {
        let forms = FORMS.map(|(form, ..)| form);
        return errors.not_supported(&path.child("patchType"), &mutation["patchType"], &forms);
    }
    for (form, field, of) in FORMS {
        let (given, at) = (&mutation[field], path.child(field));
        match (form == patch_type, given.is_object()) {
            (true, true) => {
                environment.validate(&given["expression"], &at.child("expression"), of, errors);
            }
            (true, false) => {
                errors.required(&at, &format!("must be specified when patchType is {patch_type}"));
            }
            (false, true) => {
                let why = format!("must not be specified when patchType is {patch_type}");
                errors.invalid(&at, &json!(format!("{{{field}}}")), &why);
            }
            (false, false) => {}
        }
    }
}

fn param_kind(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["paramKind"] {
        Value::Null => UNSET.into(),
        kind => format!("{}/{}", text_or(&kind["apiVersion"], ""), text_or(&kind["kind"], "")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::error_texts;

    fn mutating(mutation: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "Never", "mutations": [mutation],
            "variables": [{"name": "names", "expression": "['a']"}],
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
            ]},
        }})
    }

    fn applied(expression: &str) -> Value {
        mutating(json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}))
    }

    fn patched(expression: &str) -> Value {
        mutating(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}))
    }

    #[test]
    fn mutations_make_objects_or_patches() {
        let mut failed = Vec::new();
        for object in [
            applied(
                "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: variables.names[0]}]}}",
            ),
            applied("has(object.spec) ? Object{} : Object{metadata: Object.metadata{labels: {'a': 'b'}}}"),
            patched(
                "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('x/y'), value: Object.spec{a: 1}}]",
            ),
            patched(
                "object.x == 1 ? [JSONPatch{op: 'test', path: '/a', value: 1}] + [JSONPatch{op: 'remove', path: '/b'}] : []",
            ),
        ] {
            let found = error_texts(validate, &object);
            if !found.is_empty() {
                failed.push(format!("{object}: {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn expressions_of_other_types_are_refused() {
        let invalid = |at: &str| format!("spec.mutations[0].{at}: Invalid value: ");
        let mut failed = Vec::new();
        for (object, at, wanted) in [
            (
                applied("'text'"),
                invalid("applyConfiguration.expression"),
                "must evaluate to Object but got string",
            ),
            (
                applied("Object.spec{}"),
                invalid("applyConfiguration.expression"),
                "must evaluate to Object but got Object.spec",
            ),
            (
                applied("Other{}"),
                invalid("applyConfiguration.expression"),
                "undeclared reference to 'Other' (in container '')",
            ),
            (
                applied("Object{"),
                invalid("applyConfiguration.expression"),
                "compilation failed: ERROR: <input>:1:8: Syntax error",
            ),
            (
                applied("variables.other == 1 ? Object{} : Object{}"),
                invalid("applyConfiguration.expression"),
                "undefined field 'other'",
            ),
            (
                patched("Object{}"),
                invalid("jsonPatch.expression"),
                "must evaluate to list(JSONPatch) but got Object",
            ),
            (
                patched("[JSONPatch{op: 1, path: '/a'}]"),
                invalid("jsonPatch.expression"),
                "expected type of field 'op' is 'string' but provided type is 'int'",
            ),
            (patched("[JSONPatch{where: '/a'}]"), invalid("jsonPatch.expression"), "undefined field 'where'"),
        ] {
            let found = error_texts(validate, &object);
            if !found.starts_with(&at) || !found.contains(wanted) {
                failed.push(format!("{object}: {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn mutations_are_of_one_form_and_of_no_deletion() {
        let mut failed = Vec::new();
        for (change, wanted) in [
            (
                json!({"mutations": []}),
                "spec.mutations: Required value: mutations must contain at least one item",
            ),
            (json!({"mutations": [{}]}), "spec.mutations[0].patchType: Required value"),
            (
                json!({"mutations": [{"patchType": "Merge"}]}),
                "spec.mutations[0].patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ),
            (
                json!({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}]}),
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch; spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ),
            (json!({"reinvocationPolicy": null}), "spec.reinvocationPolicy: Required value"),
            (json!({"reinvocationPolicy": "Often"}), "spec.reinvocationPolicy: Unsupported value: \"Often\""),
            (
                json!({"matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}}),
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ),
            (
                json!({"variables": [{"name": "a-b", "expression": "1"}]}),
                "spec.variables[0].name: Invalid value: \"a-b\": must be a valid CEL identifier",
            ),
        ] {
            let mut object = applied("Object{}");
            for (field, value) in change.as_object().unwrap() {
                object["spec"][field] = value.clone();
            }
            let found = error_texts(validate, &object);
            if !found.starts_with(wanted) {
                failed.push(format!("{change}: {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
