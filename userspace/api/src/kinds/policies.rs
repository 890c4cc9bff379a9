//! Admission policies, validating and mutating, and their bindings: what may be left out, and what they may not say.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::containers::one_of;
use super::expressions::{Names, Wanted};
use super::hooks::{
    FAILURES, MATCHES, default_match, validate_conditions, validate_rules, validate_selectors,
};
use crate::cel::{Type, is_identifier};
use crate::field::{Errors, Path};
use crate::meta;
use crate::names;
use crate::value::{items, items_mut, set_default};

const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
/// What a policy may change: a deletion leaves nothing to be changed.
const CHANGEABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
/// Audit annotations of one policy at most.
const ANNOTATIONS_MAX: usize = 20;

pub(super) fn default_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "failurePolicy", "Fail");
        default_resources(spec, "matchConstraints");
    }
}

pub(super) fn default_binding(object: &mut Value) {
    default_resources(&mut object["spec"], "matchResources");
}

fn default_resources(spec: &mut Value, field: &str) {
    if let Some(matched) = spec.get_mut(field).filter(|matched| matched.is_object()) {
        default_match(matched, "resourceRules");
        items_mut(matched, "excludeResourceRules").for_each(|rule| set_default(rule, "scope", "*"));
    }
}

/// What every policy has; the names that its own expressions can speak of.
fn validate_common(spec: &Value, path: &Path, errors: &mut Errors) -> Names {
    one_of(spec, "failurePolicy", path, &FAILURES, errors);
    let at = path.child("matchConstraints");
    if !spec["matchConstraints"].is_object() {
        errors.required(&at, "");
    } else {
        if items(&spec["matchConstraints"], "resourceRules").next().is_none() {
            errors.required(&at.child("resourceRules"), "");
        }
        validate_matched(&spec["matchConstraints"], &at, errors);
    }
    let mut names = Names::of_requests();
    if spec["paramKind"].is_object() {
        names = names.with_params(Type::Dyn);
        for field in ["apiVersion", "kind"] {
            if spec["paramKind"][field].as_str().is_none_or(str::is_empty) {
                errors.required(&path.child("paramKind").child(field), "");
            }
        }
    }
    validate_conditions(spec, path, &names, errors);
    for (i, variable) in items(spec, "variables").enumerate() {
        let at = path.child("variables").index(i);
        let name = variable["name"].as_str().unwrap_or_default();
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.child("name"), &variable["name"], "must be a valid CEL identifier");
        }
        names.add_checked(variable, &at, errors);
    }
    names
}

pub(super) fn validate_validating(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let names = validate_common(spec, &path, errors);
    let some = |list: &str| items(spec, list).next().is_some();
    if !some("validations") && !some("auditAnnotations") {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), why);
        errors.required(&path.child("auditAnnotations"), why);
    }
    for (i, validation) in items(spec, "validations").enumerate() {
        validate_validation(validation, &path.child("validations").index(i), &names, errors);
    }
    let mut seen = BTreeSet::new();
    let (at, count) = (path.child("auditAnnotations"), items(spec, "auditAnnotations").count());
    if count > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&at, &spec["auditAnnotations"], &why);
    }
    for (i, annotation) in items(spec, "auditAnnotations").enumerate() {
        let (at, key) = (at.index(i), annotation["key"].as_str().unwrap_or_default());
        if key.is_empty() {
            errors.required(&at.child("key"), "");
        } else if let Some(problem) = names::qualified_name_problem(&format!("{}/{key}", meta::name(object)))
        {
            errors.invalid(&at.child("key"), &annotation["key"], problem);
        } else if !seen.insert(key) {
            errors.duplicate(&at.child("key"), &annotation["key"]);
        }
        let value = &annotation["valueExpression"];
        names.validate(value, &at.child("valueExpression"), Wanted::TextOrNull, errors);
    }
}

fn validate_validation(validation: &Value, path: &Path, names: &Names, errors: &mut Errors) {
    names.validate(&validation["expression"], &path.child("expression"), Wanted::Bool, errors);
    if validation["messageExpression"].as_str().is_some_and(|made| !made.is_empty()) {
        let (made, at) = (&validation["messageExpression"], path.child("messageExpression"));
        names.without_authorizer().validate(made, &at, Wanted::Text, errors);
    }
    let (message, at) = (validation["message"].as_str().unwrap_or_default(), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at, &validation["message"], "must be non-empty if specified");
    } else if message.trim().contains('\n') {
        errors.invalid(&at, &validation["message"], "must not contain line breaks");
    }
    one_of(validation, "reason", path, &REASONS, errors);
}

pub(super) fn validate_mutating(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    validate_changeable(&spec["matchConstraints"], &path.child("matchConstraints"), errors);
    let names = validate_common(spec, &path, errors);
    let at = path.child("mutations");
    if items(spec, "mutations").next().is_none() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (i, mutation) in items(spec, "mutations").enumerate() {
        validate_mutation(mutation, &at.index(i), &names, errors);
    }
    match spec["reinvocationPolicy"].as_str() {
        None | Some("") => errors.required(&path.child("reinvocationPolicy"), ""),
        Some(_) => one_of(spec, "reinvocationPolicy", &path, &["IfNeeded", "Never"], errors),
    }
}

fn validate_mutation(mutation: &Value, path: &Path, names: &Names, errors: &mut Errors) {
    const FORMS: [(&str, &str, Wanted); 2] = [
        ("ApplyConfiguration", "applyConfiguration", Wanted::Object),
        ("JSONPatch", "jsonPatch", Wanted::Patch),
    ];
    let wanted = match mutation["patchType"].as_str() {
        None | Some("") => return errors.required(&path.child("patchType"), ""),
        Some(wanted) => wanted,
    };
    if FORMS.iter().all(|(form, ..)| *form != wanted) {
        let forms = FORMS.map(|(form, ..)| form);
        return errors.not_supported(&path.child("patchType"), &mutation["patchType"], &forms);
    }
    for (form, field, of) in FORMS {
        let (given, at) = (&mutation[field], path.child(field));
        match (form == wanted, given.is_object()) {
            (true, true) => {
                names.validate(&given["expression"], &at.child("expression"), of, errors);
            }
            (true, false) => {
                errors.required(&at, &format!("must be specified when patchType is {wanted}"));
            }
            (false, true) => {
                let why = format!("must not be specified when patchType is {wanted}");
                errors.invalid(&at, &json!(format!("{{{field}}}")), &why);
            }
            (false, false) => {}
        }
    }
}

fn validate_changeable(matched: &Value, path: &Path, errors: &mut Errors) {
    let all = items(matched, "resourceRules").flat_map(|rule| items(rule, "operations"));
    for operation in all.filter(|operation| !CHANGEABLE.contains(&operation.as_str().unwrap_or_default())) {
        errors.not_supported(&path.child("resourceRules").child("operations"), operation, &CHANGEABLE);
    }
}

fn validate_matched(matched: &Value, path: &Path, errors: &mut Errors) {
    validate_selectors(matched, path, errors);
    one_of(matched, "matchPolicy", path, &MATCHES, errors);
    validate_rules(matched, "resourceRules", path, errors);
    validate_rules(matched, "excludeResourceRules", path, errors);
}

pub(super) fn validate_validating_binding(object: &Value, errors: &mut Errors) {
    validate_binding(object, errors);
    validate_actions(&object["spec"], &Path::new("spec").child("validationActions"), errors);
}

pub(super) fn validate_mutating_binding(object: &Value, errors: &mut Errors) {
    validate_binding(object, errors);
    let at = Path::new("spec").child("matchResources");
    validate_changeable(&object["spec"]["matchResources"], &at, errors);
}

fn validate_binding(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if spec["policyName"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("policyName"), "");
    }
    let (reference, at) = (&spec["paramRef"], path.child("paramRef"));
    if reference.is_object() {
        let named = reference["name"].as_str().is_some_and(|name| !name.is_empty());
        match (named, reference["selector"].is_object()) {
            (true, true) => errors.forbidden(&at.child("name"), "name and selector are mutually exclusive"),
            (false, false) => errors.required(&at, "one of name or selector must be specified"),
            _ => {}
        }
        match reference["parameterNotFoundAction"].as_str() {
            None => errors.required(&at.child("parameterNotFoundAction"), ""),
            Some(_) => one_of(reference, "parameterNotFoundAction", &at, &["Allow", "Deny"], errors),
        }
    }
    if spec["matchResources"].is_object() {
        validate_matched(&spec["matchResources"], &path.child("matchResources"), errors);
    }
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
    use super::*;
    use crate::field::told;

    #[test]
    fn policies_must_make_sense() {
        let rules =
            json!([{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
        let policy = |validation: Value| json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": [validation], "variables": [{"name": "x", "expression": "true"}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
        assert_eq!(
            told(
                validate_validating,
                &policy(json!({"expression": "object.spec.replicas <= params.max && variables.x"}))
            ),
            ""
        );
        let found =
            told(validate_validating, &policy(json!({"expression": "nothing == 1", "reason": "Mine"})));
        assert!(
            found.contains("spec.validations[0].expression: Invalid value")
                && found.contains("undeclared reference to 'nothing'"),
            "{found}"
        );
        assert!(found.contains("spec.validations[0].reason: Unsupported value"), "{found}");
        assert!(
            told(validate_validating, &json!({"spec": {}}))
                .starts_with("spec.matchConstraints: Required value")
        );
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"], "paramRef": {"parameterNotFoundAction": "Deny"}}});
        let found = told(validate_validating_binding, &binding);
        assert!(
            found.contains("spec.paramRef: Required value: one of name or selector must be specified"),
            "{found}"
        );
        assert!(found.contains("must not contain both Deny and Warn"), "{found}");
    }

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
            assert_eq!(told(validate_mutating, &object), "", "{object}");
        }
        let invalid = |at: &str| format!("spec.mutations[0].{at}: Invalid value: ");
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
            let found = told(validate_mutating, &object);
            assert!(found.starts_with(&at) && found.contains(wanted), "{object}: {found}");
        }
    }

    #[test]
    fn mutations_are_of_one_form_and_of_no_deletion() {
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
            let found = told(validate_mutating, &object);
            assert!(found.starts_with(wanted), "{change}: {found}");
        }
    }
}
