//! Webhook configurations and admission policies: what may be left out, and what they may not say.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::containers::one_of;
use super::{client_config, items, items_mut, set_default};
use crate::cel::{self, Program, Type};
use crate::field::{Errors, Path};
use crate::meta;
use crate::selector::LabelSelector;

const FAILURES: [&str; 2] = ["Fail", "Ignore"];
const MATCHES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
const REASONS: [&str; 4] = ["Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge"];
/// Conditions of one webhook or policy at most.
const CONDITIONS_MAX: usize = 64;

pub(super) fn default_validating_webhooks(object: &mut Value) {
    for hook in items_mut(object, "webhooks") {
        set_default(hook, "failurePolicy", "Fail");
        set_default(hook, "timeoutSeconds", 10);
        default_match(hook, "rules");
        if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|service| service.is_object())
        {
            set_default(service, "port", 443);
        }
    }
}

pub(super) fn default_mutating_webhooks(object: &mut Value) {
    default_validating_webhooks(object);
    items_mut(object, "webhooks").for_each(|hook| set_default(hook, "reinvocationPolicy", "Never"));
}

fn default_match(matched: &mut Value, rules: &str) {
    set_default(matched, "matchPolicy", "Equivalent");
    set_default(matched, "namespaceSelector", json!({}));
    set_default(matched, "objectSelector", json!({}));
    items_mut(matched, rules).for_each(|rule| set_default(rule, "scope", "*"));
}

pub(super) fn default_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "failurePolicy", "Fail");
        default_resources(spec, "matchConstraints");
    }
}

pub(super) fn default_policy_binding(object: &mut Value) {
    default_resources(&mut object["spec"], "matchResources");
}

fn default_resources(spec: &mut Value, field: &str) {
    if let Some(matched) = spec.get_mut(field).filter(|matched| matched.is_object()) {
        default_match(matched, "resourceRules");
        items_mut(matched, "excludeResourceRules").for_each(|rule| set_default(rule, "scope", "*"));
    }
}

pub(super) fn validate_webhooks(object: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, hook) in items(object, "webhooks").enumerate() {
        let path = Path::new("webhooks").index(i);
        validate_webhook(hook, &path, errors);
        let name = hook["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&path.child("name"), &hook["name"]);
        }
    }
}

fn validate_webhook(hook: &Value, path: &Path, errors: &mut Errors) {
    let name = hook["name"].as_str().unwrap_or_default();
    match name {
        "" => errors.required(&path.child("name"), ""),
        name if name.split('.').count() < 3 => {
            let why = "should be a domain with at least three segments separated by dots";
            errors.invalid(&path.child("name"), &hook["name"], why);
        }
        name => {
            if let Some(problem) = meta::name_problem(name, meta::NameForm::Subdomain) {
                errors.invalid(&path.child("name"), &hook["name"], problem);
            }
        }
    }
    validate_rules(hook, "rules", path, errors);
    one_of(hook, "failurePolicy", path, &FAILURES, errors);
    one_of(hook, "matchPolicy", path, &MATCHES, errors);
    one_of(hook, "reinvocationPolicy", path, &["IfNeeded", "Never"], errors);
    if hook["sideEffects"].is_null() {
        errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    one_of(hook, "sideEffects", path, &["None", "NoneOnDryRun"], errors);
    if hook["timeoutSeconds"].as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), &hook["timeoutSeconds"], why);
    }
    validate_selectors(hook, path, errors);
    client_config::validate(&hook["clientConfig"], &path.child("clientConfig"), errors);
    validate_conditions(hook, path, errors);
    let (versions, at) = (&hook["admissionReviewVersions"], path.child("admissionReviewVersions"));
    match items(hook, "admissionReviewVersions").next() {
        None => errors.required(&at, "must specify one of v1, v1beta1"),
        // This server asks in v1 only.
        Some(_) if !items(hook, "admissionReviewVersions").any(|version| version == "v1") => {
            errors.invalid(&at, versions, "must include at least one of v1");
        }
        Some(_) => {}
    }
}

fn validate_selectors(matched: &Value, path: &Path, errors: &mut Errors) {
    for field in ["namespaceSelector", "objectSelector"] {
        if let Err(error) = LabelSelector::from_object(&matched[field]) {
            errors.invalid(&path.child(field), &matched[field], &error.to_string());
        }
    }
}

fn validate_rules(owner: &Value, field: &str, path: &Path, errors: &mut Errors) {
    for (i, rule) in items(owner, field).enumerate() {
        let at = path.child(field).index(i);
        for (list, what) in
            [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
        {
            let all: Vec<&Value> = items(rule, list).collect();
            if all.is_empty() {
                errors.required(&at.child(list), "");
            }
            if all.len() > 1 && all.iter().any(|item| *item == "*") {
                let why = format!("if '*' is present, must not specify other {what}");
                errors.invalid(&at.child(list), &rule[list], &why);
            }
        }
        for (n, operation) in items(rule, "operations").enumerate() {
            if !OPERATIONS.contains(&operation.as_str().unwrap_or_default()) {
                errors.not_supported(&at.child("operations").index(n), operation, &OPERATIONS);
            }
        }
        validate_resources(rule, &at.child("resources"), errors);
        one_of(rule, "scope", &at, &["*", "Cluster", "Namespaced"], errors);
    }
}

fn validate_resources(rule: &Value, path: &Path, errors: &mut Errors) {
    let all: Vec<&str> = items(rule, "resources").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(path, "");
    }
    for (i, name) in all.iter().enumerate() {
        if name.is_empty() {
            errors.required(&path.index(i), "");
        }
        let Some((resource, part)) = name.split_once('/') else { continue };
        for wide in [format!("{resource}/*"), format!("*/{part}")] {
            if all[..i].contains(&wide.as_str()) {
                let why = format!("if '{wide}' is present, must not specify {name}");
                errors.invalid(&path.index(i), &json!(name), &why);
            }
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        errors.invalid(path, &rule["resources"], "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && all.iter().any(|name| *name != "*" && !name.contains('/')) {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, &rule["resources"], why);
    }
}

/// What expressions of conditions, and what those of policies, can speak of.
const KNOWN: [&str; 4] = ["object", "oldObject", "request", "authorizer"];
const KNOWN_TO_POLICIES: [&str; 7] =
    ["object", "oldObject", "request", "authorizer", "params", "namespaceObject", "variables"];

fn validate_conditions(owner: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("matchConditions");
    let mut seen = BTreeSet::new();
    let count = items(owner, "matchConditions").count();
    if count > CONDITIONS_MAX {
        errors.0.push(crate::FieldError {
            field: at.to_string(),
            reason: "FieldValueTooMany",
            message: format!("Too many: {count}: must have at most {CONDITIONS_MAX} items"),
        });
    }
    let known: &[&str] = if owner["clientConfig"].is_null() { &KNOWN_TO_POLICIES } else { &KNOWN };
    for (i, condition) in items(owner, "matchConditions").enumerate() {
        let at = at.index(i);
        match condition["name"].as_str() {
            None | Some("") => errors.required(&at.child("name"), ""),
            Some(name) => {
                if let Some(problem) = meta::qualified_name_problem(name) {
                    errors.invalid(&at.child("name"), &condition["name"], problem);
                }
                if !seen.insert(name) {
                    errors.duplicate(&at.child("name"), &condition["name"]);
                }
            }
        }
        validate_expression(&condition["expression"], &at.child("expression"), known, Some("bool"), errors);
    }
}

/// An expression must compile, speak of what is known, and be of the type that is wanted.
fn validate_expression(
    expression: &Value,
    path: &Path,
    known: &[&str],
    wanted: Option<&str>,
    errors: &mut Errors,
) {
    let Some(source) = expression.as_str().map(str::trim).filter(|source| !source.is_empty()) else {
        errors.required(path, "");
        return;
    };
    let scope = known.iter().map(|name| (*name, Type::Dyn)).collect();
    match Program::compile(source).and_then(|program| cel::check(&program, &scope)) {
        Err(error) => errors.invalid(path, expression, &format!("compilation failed: {error}")),
        Ok(checked) => {
            let fits = match wanted {
                Some("bool") => matches!(checked.of, Type::Bool | Type::Dyn),
                Some(_) => matches!(checked.of, Type::String(_) | Type::Dyn | Type::Null),
                None => true,
            };
            if !fits {
                errors.invalid(path, expression, &format!("must evaluate to {}", wanted.unwrap_or_default()));
            }
        }
    }
}

pub(super) fn validate_policy(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    one_of(spec, "failurePolicy", &path, &FAILURES, errors);
    let at = path.child("matchConstraints");
    if !spec["matchConstraints"].is_object() {
        errors.required(&at, "");
    } else {
        if items(&spec["matchConstraints"], "resourceRules").next().is_none() {
            errors.required(&at.child("resourceRules"), "");
        }
        validate_matched(&spec["matchConstraints"], &at, errors);
    }
    if spec["paramKind"].is_object() {
        for field in ["apiVersion", "kind"] {
            if spec["paramKind"][field].as_str().is_none_or(str::is_empty) {
                errors.required(&path.child("paramKind").child(field), "");
            }
        }
    }
    validate_conditions(spec, &path, errors);
    let some = |list: &str| items(spec, list).next().is_some();
    if !some("validations") && !some("auditAnnotations") {
        let why = "validations or auditAnnotations must be non-empty";
        errors.required(&path.child("validations"), why);
    }
    validate_expressions(spec, &path, errors);
}

/// What a policy computes, asks and notes.
fn validate_expressions(spec: &Value, path: &Path, errors: &mut Errors) {
    let known = &KNOWN_TO_POLICIES;
    for (i, variable) in items(spec, "variables").enumerate() {
        let at = path.child("variables").index(i);
        if variable["name"].as_str().is_none_or(str::is_empty) {
            errors.required(&at.child("name"), "name is required");
        }
        validate_expression(&variable["expression"], &at.child("expression"), known, None, errors);
    }
    for (i, validation) in items(spec, "validations").enumerate() {
        let at = path.child("validations").index(i);
        validate_expression(&validation["expression"], &at.child("expression"), known, Some("bool"), errors);
        if !validation["messageExpression"].is_null() {
            let at = at.child("messageExpression");
            validate_expression(&validation["messageExpression"], &at, known, Some("string"), errors);
        }
        if validation["message"].as_str().is_some_and(|message| message.contains('\n')) {
            errors.invalid(
                &at.child("message"),
                &validation["message"],
                "message must not contain line breaks",
            );
        }
        one_of(validation, "reason", &at, &REASONS, errors);
    }
    for (i, annotation) in items(spec, "auditAnnotations").enumerate() {
        let at = path.child("auditAnnotations").index(i);
        if annotation["key"].as_str().is_none_or(str::is_empty) {
            errors.required(&at.child("key"), "");
        }
        let value = &annotation["valueExpression"];
        validate_expression(value, &at.child("valueExpression"), known, Some("string"), errors);
    }
}

fn validate_matched(matched: &Value, path: &Path, errors: &mut Errors) {
    validate_selectors(matched, path, errors);
    one_of(matched, "matchPolicy", path, &MATCHES, errors);
    validate_rules(matched, "resourceRules", path, errors);
    validate_rules(matched, "excludeResourceRules", path, errors);
}

pub(super) fn validate_policy_binding(object: &Value, errors: &mut Errors) {
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
    validate_actions(spec, &path.child("validationActions"), errors);
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

    fn hook(change: impl FnOnce(&mut Value)) -> Value {
        let mut hook = json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://host/path"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        });
        change(&mut hook);
        json!({"webhooks": [hook]})
    }

    #[test]
    fn webhooks_get_their_defaults() {
        let mut object = json!({"webhooks": [{"clientConfig": {"service": {}}, "rules": [{}]}]});
        default_mutating_webhooks(&mut object);
        let hook = &object["webhooks"][0];
        for (pointer, wanted) in [
            ("/failurePolicy", json!("Fail")),
            ("/matchPolicy", json!("Equivalent")),
            ("/timeoutSeconds", json!(10)),
            ("/namespaceSelector", json!({})),
            ("/rules/0/scope", json!("*")),
            ("/clientConfig/service/port", json!(443)),
            ("/reinvocationPolicy", json!("Never")),
        ] {
            assert_eq!(hook.pointer(pointer), Some(&wanted), "{pointer}");
        }
    }

    #[test]
    fn webhooks_must_make_sense() {
        assert_eq!(told(validate_webhooks, &hook(|_| {})), "");
        let set = |field: &'static str, value: Value| hook(move |hook| hook[field] = value);
        for (object, wanted) in [
            (
                set("name", json!("a.b")),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                set("sideEffects", json!("Some")),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                set("timeoutSeconds", json!(31)),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                set("clientConfig", json!({})),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                set("clientConfig", json!({"url": "http://host"})),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                set("admissionReviewVersions", json!([])),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                set(
                    "rules",
                    json!([{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*", "pods/status"]}]),
                ),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations; webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ),
        ] {
            assert_eq!(told(validate_webhooks, &object), wanted);
        }
        let bad = set(
            "matchConditions",
            json!([{"name": "a", "expression": "object. [] bad"}, {"name": "b", "expression": "'text'"}]),
        );
        let found = told(validate_webhooks, &bad);
        assert!(
            found.contains("matchConditions[0].expression: Invalid value")
                && found.contains("compilation failed"),
            "{found}"
        );
        assert!(
            found.contains("matchConditions[1].expression: Invalid value: \"'text'\": must evaluate to bool"),
            "{found}"
        );
    }

    #[test]
    fn policies_must_make_sense() {
        let rules =
            json!([{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
        let policy = |validation: Value| json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": [validation]}});
        assert_eq!(
            told(
                validate_policy,
                &policy(json!({"expression": "object.spec.replicas <= params.max && variables.x"}))
            ),
            ""
        );
        let found = told(validate_policy, &policy(json!({"expression": "nothing == 1", "reason": "Mine"})));
        assert!(
            found.contains("spec.validations[0].expression: Invalid value")
                && found.contains("undeclared reference to 'nothing'"),
            "{found}"
        );
        assert!(found.contains("spec.validations[0].reason: Unsupported value"), "{found}");
        assert!(
            told(validate_policy, &json!({"spec": {}})).starts_with("spec.matchConstraints: Required value")
        );
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"], "paramRef": {"parameterNotFoundAction": "Deny"}}});
        let found = told(validate_policy_binding, &binding);
        assert!(
            found.contains("spec.paramRef: Required value: one of name or selector must be specified"),
            "{found}"
        );
        assert!(found.contains("must not contain both Deny and Warn"), "{found}");
    }
}
