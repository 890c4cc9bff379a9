//! The rules, selectors and conditions by which webhooks and admission policies choose requests.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::expression::{Environment, ExpectedType};
use crate::names;
use crate::selector::LabelSelector;
use crate::value::{items, items_mut, one_of, set_default, text};

pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Match conditions of one webhook or policy.
const MAX_CONDITIONS: usize = 64;

pub(super) fn default_match(matched: &mut Value, rules: &str) {
    set_default(matched, "matchPolicy", "Equivalent");
    set_default(matched, "namespaceSelector", json!({}));
    set_default(matched, "objectSelector", json!({}));
    items_mut(matched, rules).for_each(|rule| set_default(rule, "scope", "*"));
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
        validate_names(rule, &at.child("resourceNames"), errors);
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

/// Checks the names of objects; the rules of webhooks have none.
fn validate_names(rule: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, name) in items(rule, "resourceNames").enumerate() {
        names::validate_name(text(name), names::NameForm::PathSegment, &path.index(i), errors);
        if !seen.insert(text(name)) {
            errors.duplicate(&path.index(i), name);
        }
    }
}

fn validate_resources(rule: &Value, path: &Path, errors: &mut Errors) {
    let all: Vec<&str> = items(rule, "resources").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(path, "");
    }
    let mut before = HashSet::new();
    for (i, name) in all.iter().enumerate() {
        before.insert(*name);
        if name.is_empty() {
            errors.required(&path.index(i), "");
        }
        let Some((resource, part)) = name.split_once('/') else { continue };
        for wide in [format!("{resource}/*"), format!("*/{part}")] {
            if wide != *name && before.contains(wide.as_str()) {
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

pub(super) fn validate_conditions(owner: &Value, path: &Path, known: &Environment, errors: &mut Errors) {
    let at = path.child("matchConditions");
    let mut seen = BTreeSet::new();
    let count = items(owner, "matchConditions").count();
    if count > MAX_CONDITIONS {
        errors.0.push(crate::FieldError {
            field: at.to_string(),
            reason: "FieldValueTooMany",
            message: format!("Too many: {count}: must have at most {MAX_CONDITIONS} items"),
        });
    }
    for (i, condition) in items(owner, "matchConditions").enumerate() {
        let at = at.index(i);
        match condition["name"].as_str() {
            None | Some("") => errors.required(&at.child("name"), ""),
            Some(name) => {
                names::validate_name(name, names::NameForm::LabelKey, &at.child("name"), errors);
                if !seen.insert(name) {
                    errors.duplicate(&at.child("name"), &condition["name"]);
                }
            }
        }
        known.validate(&condition["expression"], &at.child("expression"), ExpectedType::Bool, errors);
    }
}
