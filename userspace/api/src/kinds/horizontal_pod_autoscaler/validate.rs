//! Checks of an autoscaler: bounds, metrics and scaling rules.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::names;
use crate::resources::quantity;
use crate::value::{items, one_of, text};

const MAX_WINDOW_SECONDS: i64 = 3_600;
const MAX_PERIOD_SECONDS: i64 = 1_800;
/// Types of metrics and their fields, in the order of upstream's checks.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (min, max) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    if min.is_some_and(|min| min < 1) {
        errors.invalid(
            &path.child("minReplicas"),
            &spec["minReplicas"],
            "must be greater than or equal to 1",
        );
    }
    match max {
        0 => errors.required(&path.child("maxReplicas"), "must be set and greater than 0"),
        ..0 => {
            errors.invalid(
                &path.child("maxReplicas"),
                &spec["maxReplicas"],
                "must be greater than or equal to 1",
            );
        }
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.invalid(&path.child("maxReplicas"), &json!(max), detail);
    }
    validate_reference(&spec["scaleTargetRef"], &path.child("scaleTargetRef"), errors);
    validate_group(&spec["scaleTargetRef"], &path.child("scaleTargetRef"), errors);
    validate_metrics(spec, min, &path.child("metrics"), errors);
    for direction in ["scaleUp", "scaleDown"] {
        validate_rules(&spec["behavior"][direction], &path.child("behavior").child(direction), errors);
    }
}

fn validate_metrics(spec: &Value, min: Option<i64>, path: &Path, errors: &mut Errors) {
    for (i, metric) in items(spec, "metrics").enumerate() {
        validate_metric(metric, &path.index(i), errors);
    }
    // Without pods there is nothing to measure but what is outside of them.
    let is_outside = |metric: &Value| metric["type"] == "Object" || metric["type"] == "External";
    if min == Some(0) && !items(spec, "metrics").any(is_outside) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(path, detail);
    }
}

/// What is scaled belongs to a group.
fn validate_group(reference: &Value, path: &Path, errors: &mut Errors) {
    let version = text(&reference["apiVersion"]);
    let problem = match version.matches('/').count() {
        1 if !version.starts_with('/') => return,
        0 | 1 => "apiVersion must specify API group".to_owned(),
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.invalid(&path.child("apiVersion"), &version.into(), &problem);
}

fn validate_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        match reference[field].as_str() {
            None | Some("") => errors.required(&path.child(field), ""),
            Some(name) => {
                names::validate_name(name, names::NameForm::PathSegment, &path.child(field), errors);
            }
        }
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut Errors) {
    let (kind, at) = (text(&metric["type"]), path.child("type"));
    let mut kinds = SOURCES.map(|(kind, _)| kind);
    kinds.sort_unstable();
    if kind.is_empty() {
        errors.required(&at, "must specify a metric source type");
    }
    let wanted = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    if wanted.is_none() {
        errors.not_supported(&at, &kind.into(), &kinds);
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = present.first() {
        validate_source(first, &metric[*first], &path.child(first), errors);
    }
    match wanted {
        Some(field) if metric[field].is_null() => {
            errors.required(&path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
        // As upstream, which reports it twice.
        None => errors.not_supported(&at, &kind.into(), &kinds),
    }
    if present.len() > 1 {
        for other in present.into_iter().filter(|field| Some(*field) != wanted) {
            errors.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn validate_source(field: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let (target, at) = (&source["target"], path.child("target"));
    let of_resource = matches!(field, "resource" | "containerResource");
    let name = if of_resource {
        (&source["name"], path.child("name"))
    } else {
        (&source["metric"]["name"], path.child("metric").child("name"))
    };
    if field == "object" {
        validate_reference(&source["describedObject"], &path.child("describedObject"), errors);
    }
    match text(name.0) {
        "" if of_resource => errors.required(&name.1, "must specify a resource name"),
        "" => errors.required(&name.1, "must specify a metric name"),
        metric if !of_resource => names::validate_name(metric, names::NameForm::PathSegment, &name.1, errors),
        _ => {}
    }
    if field == "containerResource" && source["container"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("container"), "must specify a container");
    }
    validate_target(target, &at, errors);
    let has = |field: &str| !target[field].is_null();
    let (value, average, percent) = (has("value"), has("averageValue"), has("averageUtilization"));
    match field {
        "pods" if !average => {
            errors.required(&at.child("averageValue"), "must specify a positive target averageValue");
        }
        "object" if !value && !average => {
            errors.required(&at.child("averageValue"), "must set either a target value or averageValue");
        }
        "external" if !value && !average => errors.required(
            &at.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        "external" if value && average => errors
            .forbidden(&at.child("value"), "may not set both a target value for metric and a per-pod target"),
        _ if of_resource && !average && !percent => errors.required(
            &at.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        _ if of_resource && average && percent => errors.forbidden(
            &at.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

fn validate_target(target: &Value, path: &Path, errors: &mut Errors) {
    let kind = target["type"].as_str().unwrap_or_default();
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&path.child("type"), &json!(kind), detail);
    }
    for field in ["value", "averageValue"] {
        if quantity(&target[field]).is_some_and(|quantity| quantity.millis() <= 0) {
            errors.invalid(&path.child(field), &target[field], "must be positive");
        }
    }
    if target["averageUtilization"].as_i64().is_some_and(|percent| percent < 1) {
        let at = path.child("averageUtilization");
        errors.invalid(&at, &target["averageUtilization"], "must be greater than 0");
    }
}

fn validate_rules(rules: &Value, path: &Path, errors: &mut Errors) {
    if !rules.is_object() {
        return;
    }
    let (window, at) = (&rules["stabilizationWindowSeconds"], path.child("stabilizationWindowSeconds"));
    match window.as_i64() {
        Some(..0) => errors.invalid(&at, window, "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_WINDOW_SECONDS => {
            errors.invalid(&at, window, &format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
        }
        _ => {}
    }
    one_of(rules, "selectPolicy", path, &["Disabled", "Max", "Min"], errors);
    let policies = path.child("policies");
    if items(rules, "policies").next().is_none() {
        errors.required(&policies, "must specify at least one Policy");
    }
    for (i, policy) in items(rules, "policies").enumerate() {
        let at = policies.index(i);
        one_of(policy, "type", &at, &["Percent", "Pods"], errors);
        for field in ["value", "periodSeconds"] {
            if policy[field].as_i64().unwrap_or(0) <= 0 {
                errors.invalid(&at.child(field), &policy[field], "must be greater than zero");
            }
        }
        if policy["periodSeconds"].as_i64().is_some_and(|seconds| seconds > MAX_PERIOD_SECONDS) {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.invalid(&at.child("periodSeconds"), &policy["periodSeconds"], &detail);
        }
    }
    if quantity(&rules["tolerance"]).is_some_and(|tolerance| tolerance.millis() < 0) {
        let at = path.child("tolerance");
        errors.invalid(&at, &rules["tolerance"], "must be greater than or equal to 0");
    }
}
