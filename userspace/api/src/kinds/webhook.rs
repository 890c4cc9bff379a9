//! The webhooks of both webhook configurations: defaults, validation and columns.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::admission_rules::{
    FAILURE_POLICIES, MATCH_POLICIES, default_match, validate_conditions, validate_rules, validate_selectors,
};
use crate::kinds::client_config;
use crate::kinds::expression::Environment;
use crate::names;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, one_of, set_default};

pub(super) const COLUMNS: &[Column] =
    &[NAME, Column::integer("Webhooks", |object, _| items(object, "webhooks").count().into()), AGE];

pub(super) fn default_webhooks(object: &mut Value) {
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
        name => names::validate_name(name, names::NameForm::Subdomain, &path.child("name"), errors),
    }
    validate_rules(hook, "rules", path, errors);
    one_of(hook, "failurePolicy", path, &FAILURE_POLICIES, errors);
    one_of(hook, "matchPolicy", path, &MATCH_POLICIES, errors);
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
    validate_conditions(hook, path, &Environment::of_requests(), errors);
    let (versions, at) = (&hook["admissionReviewVersions"], path.child("admissionReviewVersions"));
    match items(hook, "admissionReviewVersions").next() {
        None => errors.required(&at, "must specify one of v1, v1beta1"),
        Some(_)
            if !items(hook, "admissionReviewVersions")
                .any(|version| version == "v1" || version == "v1beta1") =>
        {
            errors.invalid(&at, versions, "must include at least one of v1, v1beta1");
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

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
    fn webhooks_must_make_sense() {
        assert_eq!(error_texts(validate_webhooks, &hook(|_| {})), "");
        let set = |field: &'static str, value: Value| hook(move |hook| hook[field] = value);
        let mut failed = Vec::new();
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
            let found = error_texts(validate_webhooks, &object);
            if found != wanted {
                failed.push(format!("wanted {wanted}, found {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
        let bad = set(
            "matchConditions",
            json!([{"name": "a", "expression": "object. [] bad"}, {"name": "b", "expression": "'text'"}]),
        );
        let found = error_texts(validate_webhooks, &bad);
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
