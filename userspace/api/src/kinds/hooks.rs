//! Webhook configurations: what may be left out, and what they may not say. Policies share rules and conditions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client_config;
use super::containers::one_of;
use super::expressions::{Names, Wanted};
use crate::field::{Errors, Path};
use crate::names;
use crate::selector::LabelSelector;
use crate::value::{items, items_mut, set_default};

pub(super) const FAILURES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCHES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
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

pub(super) fn default_match(matched: &mut Value, rules: &str) {
    set_default(matched, "matchPolicy", "Equivalent");
    set_default(matched, "namespaceSelector", json!({}));
    set_default(matched, "objectSelector", json!({}));
    items_mut(matched, rules).for_each(|rule| set_default(rule, "scope", "*"));
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
            if let Some(problem) = names::name_problem(name, names::NameForm::Subdomain) {
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
    validate_conditions(hook, path, &Names::of_requests(), errors);
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

pub(super) fn validate_selectors(matched: &Value, path: &Path, errors: &mut Errors) {
    for field in ["namespaceSelector", "objectSelector"] {
        if let Err(error) = LabelSelector::from_object(&matched[field]) {
            errors.invalid(&path.child(field), &matched[field], &error.to_string());
        }
    }
}

pub(super) fn validate_rules(owner: &Value, field: &str, path: &Path, errors: &mut Errors) {
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

pub(super) fn validate_conditions(owner: &Value, path: &Path, known: &Names, errors: &mut Errors) {
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
    for (i, condition) in items(owner, "matchConditions").enumerate() {
        let at = at.index(i);
        match condition["name"].as_str() {
            None | Some("") => errors.required(&at.child("name"), ""),
            Some(name) => {
                if let Some(problem) = names::qualified_name_problem(name) {
                    errors.invalid(&at.child("name"), &condition["name"], problem);
                }
                if !seen.insert(name) {
                    errors.duplicate(&at.child("name"), &condition["name"]);
                }
            }
        }
        known.validate(&condition["expression"], &at.child("expression"), Wanted::Bool, errors);
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
}
