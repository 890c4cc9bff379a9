//! Nodes: pod ranges and taints.

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{joined, or_none, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    subresources: &["proxy", "status"],
    schema: "api.core.v1.Node",
    selectable_fields: &["metadata.name", "spec.unschedulable"],
    columns: COLUMNS,
    strategy: Strategy { validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Status", |object, _| node_state(object).into()),
    Column::text("Roles", node_roles),
    AGE,
    Column::text("Version", |object, _| text_cell(&object["status"]["nodeInfo"]["kubeletVersion"])),
    Column::wide("Internal-IP", |object, _| or_none(node_address(object, "InternalIP"))),
    Column::wide("External-IP", |object, _| or_none(node_address(object, "ExternalIP"))),
    Column::wide("OS-Image", |object, _| node_info(object, "osImage")),
    Column::wide("Kernel-Version", |object, _| node_info(object, "kernelVersion")),
    Column::wide("Container-Runtime", |object, _| node_info(object, "containerRuntimeVersion")),
];

fn validate(object: &Value, errors: &mut Errors) {
    for (i, cidr) in items(&object["spec"], "podCIDRs").enumerate() {
        if cidr.as_str().is_none_or(|text| text.parse::<IpNetwork>().is_err()) {
            errors.invalid(&Path::new("spec").child("podCIDRs").index(i), cidr, "must be a valid CIDR value");
        }
    }
    for (i, taint) in items(&object["spec"], "taints").enumerate() {
        if !matches!(taint["effect"].as_str(), Some("NoSchedule" | "PreferNoSchedule" | "NoExecute")) {
            let path = Path::new("spec").child("taints").index(i).child("effect");
            errors.not_supported(&path, &taint["effect"], &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

fn node_state(node: &Value) -> String {
    let ready = items(&node["status"], "conditions").find(|condition| condition["type"] == "Ready");
    let mut state = match ready.and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn node_info(node: &Value, field: &str) -> Value {
    match text_or(&node["status"]["nodeInfo"][field], "") {
        "" => "<unknown>".into(),
        known => known.into(),
    }
}

fn node_address(node: &Value, kind: &str) -> String {
    let address = items(&node["status"], "addresses").find(|address| address["type"] == kind);
    address.and_then(|address| address["address"].as_str()).unwrap_or_default().to_owned()
}

fn node_roles(object: &Value, _: Timestamp) -> Value {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    or_none(joined(labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))))
}
