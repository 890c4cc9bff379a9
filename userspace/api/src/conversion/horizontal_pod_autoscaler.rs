//! Converts HorizontalPodAutoscalers of autoscaling/v1 to v2, which is stored, and back.
//!
//! v1 has one metric, the CPU utilization. The other fields are kept as JSON in annotations, so that a round trip loses nothing.

use crate::value::items;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Metric sources: the field, and the v1 names of the target fields in [`TARGET_FIELDS`]; empty if v1 has none.
const SOURCES: [(&str, [&str; 3]); 5] = [
    ("object", ["targetValue", "averageValue", ""]),
    ("pods", ["", "targetAverageValue", ""]),
    ("resource", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("containerResource", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("external", ["targetValue", "targetAverageValue", ""]),
];
const TARGET_FIELDS: [&str; 3] = ["value", "averageValue", "averageUtilization"];

pub(super) fn from_storage(mut object: Value) -> Value {
    object["apiVersion"] = "autoscaling/v1".into();
    let metrics: Vec<Value> = items(&object["spec"], "metrics").cloned().collect();
    let current: Vec<Value> = items(&object["status"], "currentMetrics").cloned().collect();
    let conditions = object["status"]["conditions"].clone();
    let behavior = object["spec"]["behavior"].clone();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("metrics");
        spec.remove("behavior");
        if let Some(at) = metrics.iter().position(is_cpu) {
            let percent = metrics[at]["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentMetrics");
        status.remove("conditions");
        status.entry("currentReplicas").or_insert_with(|| 0.into());
        let cpu = current.iter().find(|metric| metric["resource"]["name"] == "cpu");
        if let Some(percent) = cpu.map(|metric| &metric["resource"]["current"]["averageUtilization"])
            && !percent.is_null()
        {
            status.insert("currentCPUUtilizationPercentage".into(), percent.clone());
        }
    }
    let first = metrics.iter().position(is_cpu);
    let others: Vec<Value> = metrics
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != first)
        .map(|(_, m)| v1_metric(m, "target"))
        .collect();
    let current: Vec<Value> = current.iter().map(|metric| v1_metric(metric, "current")).collect();
    set_annotation(&mut object, METRICS, (!others.is_empty()).then(|| json!(others)));
    set_annotation(&mut object, CURRENT, (!current.is_empty()).then(|| json!(current)));
    set_annotation(&mut object, BEHAVIOR, behavior.is_object().then_some(behavior));
    let has_conditions = conditions.as_array().is_some_and(|all| !all.is_empty());
    set_annotation(&mut object, CONDITIONS, has_conditions.then_some(conditions));
    object
}

fn is_cpu(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource"
        && resource["name"] == "cpu"
        && !resource["target"]["averageUtilization"].is_null()
}

fn set_annotation(object: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        let annotations = crate::meta::of_mut(object).entry("annotations").or_insert_with(|| json!({}));
        annotations[name] = value.to_string().into();
    }
}

/// Removes an annotation and parses its JSON value.
fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = crate::meta::of_mut(object);
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text?.as_str()?).ok()
}

pub(super) fn to_storage(mut object: Value) -> Value {
    object["apiVersion"] = "autoscaling/v2".into();
    let others = take_annotation(&mut object, METRICS);
    let behavior = take_annotation(&mut object, BEHAVIOR);
    let current = take_annotation(&mut object, CURRENT);
    let conditions = take_annotation(&mut object, CONDITIONS);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics: Vec<Value> = others
            .iter()
            .flat_map(|all| all.as_array().into_iter().flatten())
            .map(|m| v2_metric(m, "target"))
            .collect();
        if let Some(percent) =
            spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null())
        {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let all = current.as_ref().and_then(Value::as_array);
        let metrics = match (all, percent) {
            (Some(all), _) => all.iter().map(|metric| v2_metric(metric, "current")).collect(),
            (None, Some(percent)) => {
                let current = json!({"averageUtilization": percent});
                vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": current}})]
            }
            (None, None) => Vec::new(),
        };
        if !metrics.is_empty() {
            status.insert("currentMetrics".into(), metrics.into());
        }
        if let Some(conditions) = conditions.filter(Value::is_array) {
            status.insert("conditions".into(), conditions);
        }
    }
    object
}

/// The v1 name of a field of a target, or of a current value.
fn v1_field(name: &str, side: &str) -> String {
    if side == "target" {
        return name.to_owned();
    }
    match name.strip_prefix("target") {
        Some(rest) => format!("current{rest}"),
        None => name.to_owned(),
    }
}

/// Converts a v2 metric to v1. `side` is `target` or `current`.
fn v1_metric(metric: &Value, side: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (field, names) in SOURCES {
        let Some(source) = metric[field].as_object() else { continue };
        let mut old = Map::new();
        for name in ["name", "container"] {
            old.extend(source.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if let Some(object) = source.get("describedObject") {
            old.insert("target".into(), object.clone());
        }
        if let Some(metric) = source.get("metric") {
            let selector = if field == "external" { "metricSelector" } else { "selector" };
            old.insert("metricName".into(), metric["name"].clone());
            old.extend(metric.get("selector").map(|value| (selector.to_owned(), value.clone())));
        }
        for (part, name) in TARGET_FIELDS.iter().zip(names).filter(|(_, name)| !name.is_empty()) {
            old.extend(
                source
                    .get(side)
                    .and_then(|target| target.get(part))
                    .map(|v| (v1_field(name, side), v.clone())),
            );
        }
        out[field] = old.into();
    }
    out
}

/// Converts a v1 metric to v2. `side` is `target` or `current`.
fn v2_metric(metric: &Value, side: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (field, names) in SOURCES {
        let Some(old) = metric[field].as_object() else { continue };
        let mut source = Map::new();
        for name in ["name", "container"] {
            source.extend(old.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if let Some(object) = old.get("target") {
            source.insert("describedObject".into(), object.clone());
        }
        if let Some(name) = old.get("metricName") {
            let selector = old.get("metricSelector").or_else(|| old.get("selector"));
            source.insert("metric".into(), json!({"name": name}));
            if let Some(selector) = selector {
                source["metric"]["selector"] = selector.clone();
            }
        }
        let mut target = Map::new();
        for (part, name) in TARGET_FIELDS.iter().zip(names).filter(|(_, name)| !name.is_empty()) {
            target.extend(old.get(&v1_field(name, side)).map(|value| ((*part).to_owned(), value.clone())));
        }
        if side == "target" {
            let kind = match (target.contains_key("averageUtilization"), target.contains_key("averageValue"))
            {
                (true, _) => "Utilization",
                (false, true) => "AverageValue",
                (false, false) => "Value",
            };
            target.insert("type".into(), kind.into());
        }
        source.insert(side.into(), target.into());
        out[field] = source.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_utilization_is_a_field_and_the_other_metrics_survive_in_annotations() {
        let target = |kind: &str, part: &str, value: Value| json!({"type": kind, part: value});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target("Utilization", "averageUtilization", json!(50))}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": target("AverageValue", "averageValue", json!("10"))}});
        let object = json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
            "metric": {"name": "hits", "selector": {"matchLabels": {"a": "b"}}}, "target": target("Value", "value", json!("5"))}});
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": [pods, object, cpu], "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let shown = from_storage(stored.clone());
        assert_eq!(shown["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(shown["status"], json!({"currentReplicas": 1}));
        let noted = shown["metadata"]["annotations"][METRICS].as_str().unwrap();
        assert!(noted.contains("\"metricName\":\"rps\",\"targetAverageValue\":\"10\""), "{noted}");
        assert_eq!(to_storage(shown), stored);
    }

    #[test]
    fn a_plain_v1_object_gets_one_metric() {
        let object = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 70}});
        let stored = to_storage(object);
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        assert!(stored["spec"].get("targetCPUUtilizationPercentage").is_none());
    }
}
