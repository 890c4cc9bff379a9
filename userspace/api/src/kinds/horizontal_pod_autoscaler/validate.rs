//! Checks of an autoscaler: bounds, metrics and scaling rules.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::names;
use crate::resources::quantity;
use crate::value::{items, one_of, text};

const MAX_WINDOW_SECONDS: i64 = 3_600;
const MAX_PERIOD_SECONDS: i64 = 1_800;
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
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
    for (i, metric) in items(spec, "metrics").enumerate() {
        validate_metric(metric, &path.child("metrics").index(i), errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        validate_rules(&spec["behavior"][direction], &path.child("behavior").child(direction), errors);
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
                if let Some(problem) = names::name_problem(name, names::NameForm::PathSegment) {
                    errors.invalid(&path.child(field), &reference[field], problem);
                }
            }
        }
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut Errors) {
    let kinds = SOURCES.map(|(kind, _)| kind);
    let Some((_, source_field)) = SOURCES.iter().find(|(kind, _)| metric["type"] == *kind) else {
        if metric["type"].as_str().is_none_or(str::is_empty) {
            errors.required(&path.child("type"), "must specify a metric source type");
        }
        errors.not_supported(&path.child("type"), &metric["type"], &kinds);
        return;
    };
    let (source, at) = (&metric[*source_field], path.child(source_field));
    if source.is_null() {
        errors.required(&at, "must populate information for the given metric source");
    } else {
        validate_source(source_field, source, &at, errors);
    }
    for (_, other) in SOURCES.iter().filter(|(_, field)| field != source_field) {
        if !metric[*other].is_null() {
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
    if name.0.as_str().is_none_or(str::is_empty) {
        let what = if of_resource { "must specify a resource name" } else { "must specify a metric name" };
        errors.required(&name.1, what);
    }
    if field == "containerResource" && source["container"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("container"), "must specify a container");
    }
    if field == "object" {
        validate_reference(&source["describedObject"], &path.child("describedObject"), errors);
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
}
