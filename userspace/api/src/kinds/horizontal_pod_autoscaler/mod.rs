//! HorizontalPodAutoscalers. Objects of autoscaling/v1 are converted to v2 before defaults and validation apply.

mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, UNSET, number_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, set_default};

use validate::validate;

pub(super) const ROW: Row = Row {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &["status"],
    schema: "api.autoscaling.v2.HorizontalPodAutoscaler",
    columns: COLUMNS,
    strategy: Strategy { default, validate, own_required: true, ..Strategy::NONE },
    ..Row::NAMESPACED
};

pub(super) const V1_ROW: Row = Row {
    version: "v1",
    schema: "api.autoscaling.v1.HorizontalPodAutoscaler",
    strategy: Strategy::NONE,
    ..ROW
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Reference", scale_target),
    Column::text("Targets", metrics),
    Column::text("MinPods", min_replicas),
    Column::text("MaxPods", |object, _| number_cell(&object["spec"]["maxReplicas"])),
    Column::text("Replicas", |object, _| number_cell(&object["status"]["currentReplicas"])),
    AGE,
];

fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "minReplicas", 1);
    if items(spec, "metrics").next().is_none() {
        spec["metrics"] = json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
        }}]);
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
    set_default(behavior, "scaleUp", json!({}));
    set_default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
    set_default(&mut behavior["scaleUp"], "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    set_default(behavior, "scaleDown", json!({}));
    set_default(&mut behavior["scaleDown"], "policies", json!([policy("Percent", 100)]));
    for direction in ["scaleUp", "scaleDown"] {
        set_default(&mut behavior[direction], "selectPolicy", "Max");
    }
}

/// `cpu: 10%/80%`: the current value and the target.
fn metric(spec: &Value, current: &Value) -> String {
    const UNKNOWN: &str = "<unknown>";
    let field = match spec["type"].as_str() {
        Some("External") => "external",
        Some("Pods") => "pods",
        Some("Object") => "object",
        Some("Resource") => "resource",
        Some("ContainerResource") => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (source, now) = (&spec[field], &current[field]["current"]);
    let of_resource = matches!(field, "resource" | "containerResource");
    let name = if of_resource { format!("{}: ", text_or(&source["name"], "")) } else { String::new() };
    let target = &source["target"];
    if !target["averageValue"].is_null() {
        let average = if of_resource || field == "pods" { "" } else { " (avg)" };
        return format!(
            "{name}{}/{}{average}",
            text_or(&now["averageValue"], UNKNOWN),
            text_or(&target["averageValue"], "")
        );
    }
    if of_resource {
        let percent = |value: &Value, none: &str| value.as_i64().map_or(none.to_owned(), |n| format!("{n}%"));
        let (now, target) =
            (percent(&now["averageUtilization"], UNKNOWN), percent(&target["averageUtilization"], "<auto>"));
        return format!("{name}{now}/{target}");
    }
    format!("{}/{}", text_or(&now["value"], UNKNOWN), text_or(&target["value"], ""))
}

fn scale_target(object: &Value, _: Timestamp) -> Value {
    let target = &object["spec"]["scaleTargetRef"];
    format!("{}/{}", text_or(&target["kind"], ""), text_or(&target["name"], "")).into()
}

fn metrics(object: &Value, _: Timestamp) -> Value {
    let current = |at: usize| object["status"]["currentMetrics"].get(at).unwrap_or(&Value::Null);
    let all: Vec<String> =
        items(&object["spec"], "metrics").enumerate().map(|(at, spec)| metric(spec, current(at))).collect();
    match all.as_slice() {
        [] => NONE.into(),
        [a, b, rest @ ..] if !rest.is_empty() => format!("{a}, {b} + {} more...", rest.len()).into(),
        all => all.join(", ").into(),
    }
}

fn min_replicas(object: &Value, _: Timestamp) -> Value {
    match object["spec"]["minReplicas"].as_i64() {
        Some(count) => count.to_string().into(),
        None => UNSET.into(),
    }
}
