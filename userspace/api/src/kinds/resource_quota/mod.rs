//! ResourceQuotas: which resources and scopes they may name. What objects count for is in `quota`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::resource_requirements::{Owner, validate_amount, validate_resource_name};
use crate::kinds::row::Row;
use crate::table::cell::text_or;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

/// Resource names that are valid without a domain.
const COMPUTE: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const COUNTS: [&str; 9] = [
    "pods",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

pub(super) const ROW: Row = Row {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    subresources: &["status"],
    schema: "api.core.v1.ResourceQuota",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Request", |object, _| usage(object, false).into()),
    Column::text("Limit", |object, _| usage(object, true).into()),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    for (name, value) in spec["hard"].as_object().into_iter().flatten() {
        let at = path.child("hard").key(name);
        validate_resource_name(name, Owner::Quota, &at, errors);
        validate_amount(name, value, &at, errors);
    }
    let scopes: Vec<&str> = items(spec, "scopes").filter_map(Value::as_str).collect();
    for scope in &scopes {
        validate_scope(scope, spec, &path.child("scopes"), &spec["scopes"], &spec["scopes"], errors);
    }
    validate_conflict(&scopes, &path.child("scopes"), spec, errors);
    let selected = path.child("scopeSelector").child("matchExpressions");
    let mut scopes = Vec::new();
    for term in items(&spec["scopeSelector"], "matchExpressions") {
        let scope = term["scopeName"].as_str().unwrap_or_default();
        let whole = &spec["scopeSelector"];
        validate_scope(scope, spec, &selected, whole, &term["scopeName"], errors);
        validate_term(scope, term, &selected, errors);
        scopes.push(scope);
    }
    validate_conflict(&scopes, &selected, spec, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let scopes = |quota: &Value| -> BTreeSet<String> {
        items(&quota["spec"], "scopes").filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
    };
    if scopes(new) != scopes(old) {
        errors.invalid(&Path::new("spec").child("scopes"), &new["spec"]["scopes"], "field is immutable");
    }
}

fn is_standard(name: &str) -> bool {
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    COMPUTE.contains(&name) || CLAIMS.contains(&name) || COUNTS.contains(&name) || huge
}

/// A scope must be known and apply to every resource of the quota.
fn validate_scope(scope: &str, spec: &Value, path: &Path, whole: &Value, shown: &Value, errors: &mut Errors) {
    let valid: fn(&str) -> bool = match scope {
        "BestEffort" => |name| name == "pods",
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => |name| name == "pods" || COMPUTE.contains(&name),
        "VolumeAttributesClass" => |name| CLAIMS.contains(&name),
        _ => {
            errors.invalid(path, shown, "unsupported scope");
            return;
        }
    };
    let names = spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    for _ in names.filter(|name| is_standard(name) && !valid(name)) {
        errors.invalid(path, whole, "unsupported scope applied to resource");
    }
}

fn validate_term(scope: &str, term: &Value, path: &Path, errors: &mut Errors) {
    let some = items(term, "values").next().is_some();
    let operator = term["operator"].as_str().unwrap_or_default();
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" {
        let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&path.child("operator"), &term["operator"], why);
    }
    match operator {
        "In" | "NotIn" if !some => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(&path.child("values"), why);
        }
        "Exists" | "DoesNotExist" if some => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(&path.child("values"), &term["values"], why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(&path.child("operator"), &term["operator"], "not a valid selector operator"),
    }
}

fn validate_conflict(scopes: &[&str], path: &Path, spec: &Value, errors: &mut Errors) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(path, &spec["scopes"], "conflicting scopes");
        }
    }
}

fn usage(object: &Value, limits: bool) -> String {
    let status = &object["status"];
    let mut names: Vec<&String> =
        status["hard"].as_object().into_iter().flat_map(|hard| hard.keys()).collect();
    names.retain(|name| name.starts_with("limits.") == limits);
    names.sort_unstable();
    let shown = |value: &Value| text_or(value, "0").to_owned();
    let all = names
        .iter()
        .map(|name| format!("{name}: {}/{}", shown(&status["used"][*name]), shown(&status["hard"][*name])));
    all.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn quotas_must_make_sense() {
        let mut failed = Vec::new();
        for (spec, wanted) in [
            (json!({"hard": {"pods": "1", "count/deployments.apps": "2", "example.com/x": "1"}}), ""),
            (
                json!({"hard": {"nonsense": "1"}}),
                "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource type or fully qualified; spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota",
            ),
            (
                json!({"hard": {"pods": "-1"}}),
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"hard": {"pods": "500m"}}),
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
            ),
            (
                json!({"hard": {"services": "1"}, "scopes": ["Terminating"]}),
                "spec.scopes: Invalid value: [\"Terminating\"]: unsupported scope applied to resource",
            ),
            (
                json!({"scopes": ["BestEffort", "NotBestEffort"]}),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            (json!({"scopes": ["x"]}), "spec.scopes: Invalid value: [\"x\"]: unsupported scope"),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
        ] {
            let found = error_texts(validate, &json!({"spec": spec}));
            if found != wanted {
                failed.push(format!("wanted {wanted}, found {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
