//! Questions about a Service's specification that depend on several fields, and small edits of it.

use serde_json::{Value, json};

use crate::value::items;

pub(super) fn externally_accessible(spec: &Value) -> bool {
    needs_node_ports(spec) || spec["type"] == "ClusterIP" && items(spec, "externalIPs").next().is_some()
}

pub(super) fn needs_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

pub(super) fn needs_node_ports(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

pub(super) fn needs_cluster_ip(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

pub(super) fn is_headless(spec: &Value) -> bool {
    let mut all = strings(spec, "clusterIPs");
    all.next() == Some("None") && all.next().is_none()
}

/// Whether a string is absent or empty; the API treats both alike.
pub(super) fn is_empty(text: &Value) -> bool {
    text.as_str().is_none_or(str::is_empty)
}

pub(super) fn strings<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    items(spec, field).filter_map(Value::as_str)
}

/// Sets a list field; removes it if it is empty.
pub(super) fn set_strings(spec: &mut Value, field: &str, values: &[&str]) {
    if values.is_empty() {
        remove(spec, field);
    } else {
        spec[field] = json!(values);
    }
}

pub(super) fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Whether a text is one of the IP family policies.
pub(super) fn is_family_policy(policy: &str) -> bool {
    matches!(policy, "SingleStack" | "PreferDualStack" | "RequireDualStack")
}
