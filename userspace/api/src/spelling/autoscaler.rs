//! HorizontalPodAutoscalers of autoscaling/v1 and of v2, which is stored.
//!
//! v1 has one target, the use of CPU; all else stands in annotations, as JSON, so that nothing is lost on the way and back.

use serde_json::{Map, Value, json};

use crate::kinds::items;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// A metric's sources: the field, and how v1 names the parts of its target: value, average, use.
const SOURCES: [(&str, [&str; 3]); 5] = [
    ("object", ["targetValue", "averageValue", ""]),
    ("pods", ["", "targetAverageValue", ""]),
    ("resource", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("containerResource", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("external", ["targetValue", "targetAverageValue", ""]),
];
const PARTS: [&str; 3] = ["value", "averageValue", "averageUtilization"];

pub(super) fn from_stored(mut object: Value) -> Value {
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
        .map(|(_, m)| old_metric(m, "target"))
        .collect();
    let current: Vec<Value> = current.iter().map(|metric| old_metric(metric, "current")).collect();
    note(&mut object, METRICS, (!others.is_empty()).then(|| json!(others)));
    note(&mut object, CURRENT, (!current.is_empty()).then(|| json!(current)));
    note(&mut object, BEHAVIOR, behavior.is_object().then_some(behavior));
    let has_conditions = conditions.as_array().is_some_and(|all| !all.is_empty());
    note(&mut object, CONDITIONS, has_conditions.then_some(conditions));
    object
}

fn is_cpu(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource"
        && resource["name"] == "cpu"
        && !resource["target"]["averageUtilization"].is_null()
}

fn note(object: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        let annotations = crate::meta::of_mut(object).entry("annotations").or_insert_with(|| json!({}));
        annotations[name] = value.to_string().into();
    }
}

/// What an annotation held; it is taken away.
fn noted(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = crate::meta::of_mut(object);
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text?.as_str()?).ok()
}

pub(super) fn to_stored(mut object: Value) -> Value {
    object["apiVersion"] = "autoscaling/v2".into();
    let others = noted(&mut object, METRICS);
    let behavior = noted(&mut object, BEHAVIOR);
    let current = noted(&mut object, CURRENT);
    let conditions = noted(&mut object, CONDITIONS);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics: Vec<Value> = others
            .iter()
            .flat_map(|all| all.as_array().into_iter().flatten())
            .map(|m| new_metric(m, "target"))
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
            (Some(all), _) => all.iter().map(|metric| new_metric(metric, "current")).collect(),
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

/// How v1 names a part of a target, or of a present value.
fn old_name(name: &str, side: &str) -> String {
    if side == "target" {
        return name.to_owned();
    }
    match name.strip_prefix("target") {
        Some(rest) => format!("current{rest}"),
        None => name.to_owned(),
    }
}

/// A metric of v2 in v1's words. `side` is `target` or `current`.
fn old_metric(metric: &Value, side: &str) -> Value {
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
        for (part, name) in PARTS.iter().zip(names).filter(|(_, name)| !name.is_empty()) {
            old.extend(
                source
                    .get(side)
                    .and_then(|target| target.get(part))
                    .map(|v| (old_name(name, side), v.clone())),
            );
        }
        out[field] = old.into();
    }
    out
}

/// The way back.
fn new_metric(metric: &Value, side: &str) -> Value {
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
        for (part, name) in PARTS.iter().zip(names).filter(|(_, name)| !name.is_empty()) {
            target.extend(old.get(&old_name(name, side)).map(|value| ((*part).to_owned(), value.clone())));
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
    fn the_use_of_cpu_is_a_field_and_the_rest_comes_back_from_annotations() {
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
        let shown = from_stored(stored.clone());
        assert_eq!(shown["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(shown["status"], json!({"currentReplicas": 1}));
        let noted = shown["metadata"]["annotations"][METRICS].as_str().unwrap();
        assert!(noted.contains("\"metricName\":\"rps\",\"targetAverageValue\":\"10\""), "{noted}");
        assert_eq!(to_stored(shown), stored);
    }

    #[test]
    fn a_plain_v1_object_gets_one_metric() {
        let object = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 70}});
        let stored = to_stored(object);
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        assert!(stored["spec"].get("targetCPUUtilizationPercentage").is_none());
    }
}
