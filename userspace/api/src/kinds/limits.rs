//! LimitRanges and ResourceQuotas: what they say of resources must make sense.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::quantity::Quantity;
use crate::resources::Resources;
use crate::value::{items, items_mut, set_default};

/// A limit that is not said is the greatest; a request that is not said is the limit, or else the least.
pub(super) fn default_limit_range(object: &mut Value) {
    for limit in items_mut(&mut object["spec"], "limits").filter(|limit| limit["type"] == "Container") {
        for (field, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let values = limit[from].clone();
            for (name, value) in values.as_object().into_iter().flatten() {
                set_default(limit, field, json!({}));
                set_default(&mut limit[field], name, value.clone());
            }
        }
    }
}

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub(super) fn validate_limit_range(object: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, limit) in items(&object["spec"], "limits").enumerate() {
        let path = Path::new("spec").child("limits").index(i);
        let kind = limit["type"].as_str().unwrap_or_default();
        if !seen.insert(kind) {
            errors.duplicate(&path.child("type"), &limit["type"]);
        }
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if limit[list].as_object().is_some_and(|list| !list.is_empty()) {
                    errors.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && limit["min"]["storage"].is_null()
            && limit["max"]["storage"].is_null()
        {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&path.child("limits"), why);
        }
        let lists = LISTS.map(|list| Resources::of(&limit[list]));
        let names: BTreeSet<&String> = lists.iter().flat_map(|list| list.0.keys()).collect();
        for name in names {
            validate_bounds(name, lists.each_ref().map(|list| list.get(name)), &path, errors);
        }
    }
}

/// The values of one resource in [`LISTS`], held against each other.
fn validate_bounds(
    name: &str,
    [max, min, default, request, ratio]: [Option<Quantity>; 5],
    path: &Path,
    errors: &mut Errors,
) {
    let mut order = |list: &str,
                     low: (&str, Option<Quantity>),
                     high: (&str, Option<Quantity>),
                     shown: Option<Quantity>| {
        if let (Some(less), Some(more), Some(shown)) = (low.1, high.1, shown)
            && less > more
        {
            let why = format!("{} value {less} is greater than {} value {more}", low.0, high.0);
            errors.invalid(&path.child(list).key(name), &json!(shown.to_string()), &why);
        }
    };
    order("min", ("min", min), ("max", max), min);
    order("defaultRequest", ("min", min), ("default request", request), request);
    order("defaultRequest", ("default request", request), ("max", max), request);
    order("defaultRequest", ("default request", request), ("default limit", default), request);
    order("default", ("min", min), ("default", default), min);
    order("default", ("default", default), ("max", max), max);
    let Some(ratio) = ratio else { return };
    let at = path.child("maxLimitRequestRatio").key(name);
    if ratio < Quantity::from_millis(1000) {
        errors.invalid(&at, &json!(ratio.to_string()), &format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.millis() as f64 / min.millis() as f64;
        if ratio.millis() as f64 / 1000.0 > most {
            let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errors.invalid(&at, &json!(ratio.to_string()), &why);
        }
    }
}

/// Names that quotas know without a domain.
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

fn is_standard(name: &str) -> bool {
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    COMPUTE.contains(&name) || CLAIMS.contains(&name) || COUNTS.contains(&name) || huge
}

pub(super) fn validate_quota(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    for (name, value) in spec["hard"].as_object().into_iter().flatten() {
        let at = path.child("hard").key(name);
        if !name.contains('/') && !is_standard(name) {
            errors.invalid(&at, &json!(name), "must be a standard resource for quota");
        }
        let Some(amount) = crate::resources::quantity(value) else { continue };
        if amount < Quantity::default() {
            errors.invalid(&at, value, "must be greater than or equal to 0");
        }
        if COUNTS.contains(&name.as_str()) && amount.millis() % 1000 != 0 {
            errors.invalid(&at, value, "must be an integer");
        }
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

/// A scope must be known, and for every resource that the quota counts.
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

pub(super) fn validate_quota_update(new: &Value, old: &Value, errors: &mut Errors) {
    let scopes = |quota: &Value| -> BTreeSet<String> {
        items(&quota["spec"], "scopes").filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
    };
    if scopes(new) != scopes(old) {
        errors.invalid(&Path::new("spec").child("scopes"), &new["spec"]["scopes"], "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::told;

    #[test]
    fn a_range_fills_itself() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}, {"type": "Pod", "max": {"cpu": "2"}}]}});
        default_limit_range(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(range["spec"]["limits"][1]["default"].is_null());
    }

    #[test]
    fn ranges_must_make_sense() {
        for (limit, wanted) in [
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}}),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is greater than default limit value 1",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}), ""),
        ] {
            assert_eq!(told(validate_limit_range, &json!({"spec": {"limits": [limit]}})), wanted);
        }
    }

    #[test]
    fn quotas_must_make_sense() {
        for (spec, wanted) in [
            (json!({"hard": {"pods": "1", "count/deployments.apps": "2", "example.com/x": "1"}}), ""),
            (
                json!({"hard": {"nonsense": "1"}}),
                "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota",
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
            assert_eq!(told(validate_quota, &json!({"spec": spec})), wanted);
        }
    }
}
