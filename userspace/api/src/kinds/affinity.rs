//! Where a pod may run: node selectors, affinity to nodes and pods, and the spread over topologies.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::label_selector::{validate_selector, validate_selector_with};
use crate::names::{NameForm, validate_name};
use crate::value::{items, items_mut, one_of, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks `affinity`.
pub(super) fn validate_affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    let (node, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if node[REQUIRED].is_object() {
        validate_node_selector(&node[REQUIRED], &at.child(REQUIRED), errors);
    }
    for (i, term) in items(node, PREFERRED).enumerate() {
        let at = at.child(PREFERRED).index(i);
        validate_weight(term, &at, errors);
        validate_node_term(&term["preference"], false, &at.child("preference"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (&affinity[field], path.child(field));
        for (i, term) in items(terms, REQUIRED).enumerate() {
            validate_pod_term(term, &at.child(REQUIRED).index(i), errors);
        }
        for (i, term) in items(terms, PREFERRED).enumerate() {
            let at = at.child(PREFERRED).index(i);
            validate_weight(term, &at, errors);
            validate_pod_term(&term["podAffinityTerm"], &at.child("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(term: &Value, path: &Path, errors: &mut Errors) {
    let weight = term["weight"].as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), &weight.into(), "must be in the range 1-100");
    }
}

/// Checks a node selector: of an affinity, or of a volume.
pub(super) fn validate_node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("nodeSelectorTerms");
    if items(selector, "nodeSelectorTerms").next().is_none() {
        return errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in items(selector, "nodeSelectorTerms").enumerate() {
        validate_node_term(term, true, &at.index(i), errors);
    }
}

fn validate_node_term(term: &Value, checks_values: bool, path: &Path, errors: &mut Errors) {
    for (i, requirement) in items(term, "matchExpressions").enumerate() {
        let at = path.child("matchExpressions").index(i);
        let count = items(requirement, "values").count();
        match text(&requirement["operator"]) {
            "In" | "NotIn" if count == 0 => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&at.child("values"), detail);
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&at.child("values"), detail);
            }
            "Gt" | "Lt" if count != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&at.child("values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(&at.child("operator"), &other.into(), "not a valid selector operator"),
        }
        validate_name(text(&requirement["key"]), NameForm::LabelKey, &at.child("key"), errors);
        for (j, value) in items(requirement, "values").enumerate().filter(|_| checks_values) {
            validate_name(text(value), NameForm::LabelValue, &at.child("values").index(j), errors);
        }
    }
    for (i, requirement) in items(term, "matchFields").enumerate() {
        validate_node_field(requirement, &path.child("matchFields").index(i), errors);
    }
}

fn validate_node_field(requirement: &Value, path: &Path, errors: &mut Errors) {
    match text(&requirement["operator"]) {
        "In" | "NotIn" => {
            if items(requirement, "values").count() != 1 {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&path.child("values"), detail);
            }
        }
        other => errors.invalid(&path.child("operator"), &other.into(), "not a valid selector operator"),
    }
    let key = text(&requirement["key"]);
    if key != "metadata.name" {
        return errors.invalid(&path.child("key"), &key.into(), "not a valid field selector key");
    }
    for (i, value) in items(requirement, "values").enumerate() {
        validate_name(text(value), NameForm::Subdomain, &path.child("values").index(i), errors);
    }
}

fn validate_pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        validate_selector(&term[field], &path.child(field), errors);
    }
    for name in items(term, "namespaces") {
        validate_name(text(name), NameForm::Label, &path.child("namespace"), errors);
    }
    validate_label_keys(term, path, errors);
    let (key, at) = (text(&term["topologyKey"]), path.child("topologyKey"));
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    validate_name(key, NameForm::LabelKey, &at, errors);
}

/// Checks `matchLabelKeys` and `mismatchLabelKeys` against the selector that they extend.
fn validate_label_keys(term: &Value, path: &Path, errors: &mut Errors) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = path.child(field);
        if selector.is_null() && items(term, field).next().is_some() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in items(term, field).enumerate() {
            validate_name(text(key), NameForm::LabelKey, &at.index(i), errors);
        }
    }
    let mut selected: HashSet<&str> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(&expression["key"]);
        let keys = items(term, "matchLabelKeys").enumerate();
        let position = keys.filter(|(_, label)| text(label) == key).map(|(i, _)| i).last();
        if let Some(i) = position
            && selected.contains(key)
        {
            errors.invalid(&path.index(i), &key.into(), "exists in both matchLabelKeys and labelSelector");
        }
        selected.insert(key);
    }
    let mismatched: HashSet<&str> = items(term, "mismatchLabelKeys").map(text).collect();
    for (i, key) in items(term, "matchLabelKeys").enumerate() {
        if mismatched.contains(text(key)) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&path.child("matchLabelKeys").index(i), key, detail);
        }
    }
}

/// Adds the requirements that `matchLabelKeys` and `mismatchLabelKeys` stand for: the values are those of the pod's labels.
pub(super) fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    if !labels.is_object() {
        return;
    }
    let mut merge = |term: &mut Value| {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = items(term, field).map(|key| text(key).to_owned()).collect();
            if term["labelSelector"].is_null() {
                continue;
            }
            for key in keys {
                let Some(value) = labels.get(&key) else { continue };
                let expression = json!({"key": key, "operator": operator, "values": [value]});
                match &mut term["labelSelector"]["matchExpressions"] {
                    Value::Array(all) => all.push(expression),
                    none => *none = json!([expression]),
                }
            }
        }
    };
    if let Some(affinity) = pod["spec"].get_mut("affinity") {
        for field in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = affinity.get_mut(field) else { continue };
            items_mut(terms, REQUIRED).for_each(&mut merge);
            items_mut(terms, PREFERRED)
                .filter_map(|term| term.get_mut("podAffinityTerm"))
                .for_each(&mut merge);
        }
    }
    items_mut(&mut pod["spec"], "topologySpreadConstraints").for_each(&mut merge);
}

/// Checks `topologySpreadConstraints`.
pub(super) fn validate_spread(spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("topologySpreadConstraints");
    for (i, constraint) in items(spec, "topologySpreadConstraints").enumerate() {
        let at = path.index(i);
        let skew = constraint["maxSkew"].as_i64().unwrap_or_default();
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), &skew.into(), "must be greater than zero");
        }
        let (key, action) = (text(&constraint["topologyKey"]), text(&constraint["whenUnsatisfiable"]));
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.not_supported(&at.child("whenUnsatisfiable"), &action.into(), &actions);
        }
        let is_same =
            |other: &Value| text(&other["topologyKey"]) == key && text(&other["whenUnsatisfiable"]) == action;
        if items(spec, "topologySpreadConstraints").skip(i + 1).any(is_same) {
            let shown = format!("{{{key}, {action}}}").into();
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &shown);
        }
        validate_domains(constraint, &at.child("minDomains"), errors);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(constraint, field, &at, &["Honor", "Ignore"], errors);
        }
        validate_label_keys(constraint, &at, errors);
        validate_selector_with(&constraint["labelSelector"], true, &at.child("labelSelector"), errors);
    }
}

fn validate_domains(constraint: &Value, path: &Path, errors: &mut Errors) {
    let Some(domains) = constraint["minDomains"].as_i64() else { return };
    if domains <= 0 {
        errors.invalid(path, &domains.into(), "must be greater than zero");
    }
    let action = text(&constraint["whenUnsatisfiable"]);
    if action != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.invalid(path, &domains.into(), &detail);
    }
}
