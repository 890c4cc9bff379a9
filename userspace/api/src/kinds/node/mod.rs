//! Nodes: pod ranges and taints.

use std::collections::HashSet;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::ip::{cidr_warning, parse_cidr};
use crate::kinds::kind::Strategy;
use crate::kinds::resource_requirements::validate_amount;
use crate::kinds::row::Row;
use crate::kinds::toleration::EFFECTS;
use crate::names::{NameForm, name_problems, validate_name};
use crate::table::cell::{joined, or_none, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{is_zero, items, require_one_of, set_default, set_zero_default, text};

/// What upstream's type of a node always says of it.
const NODE_INFO: [&str; 10] = [
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

pub(super) const ROW: Row = Row {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    subresources: &["proxy", "status"],
    schema: "api.core.v1.Node",
    selectable_fields: &["metadata.name", "spec.unschedulable"],
    columns: COLUMNS,
    strategy: Strategy {
        keeps_status: true,
        default,
        prepare_create: drop_config_source,
        prepare_update: |new, old| {
            if old["spec"]["configSource"].is_null() {
                drop_config_source(new);
            }
        },
        validate,
        warnings,
        ..Strategy::NONE
    },
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

/// `podCIDR` is the first of `podCIDRs`; what a node has is what its pods may use, if it says nothing else.
fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    let first = items(spec, "podCIDRs").next().cloned();
    if let Some(first) = first.filter(|first| !is_zero(first)) {
        set_zero_default(spec, "podCIDR", first);
    } else if !is_zero(&spec["podCIDR"]) {
        spec["podCIDRs"] = json!([spec["podCIDR"]]);
    }
    set_default(object, "status", json!({}));
    let status = &mut object["status"];
    let capacity = status["capacity"].clone();
    if capacity.is_object() {
        set_default(status, "allocatable", capacity);
    }
    set_default(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    set_default(status, "nodeInfo", json!({}));
    for field in NODE_INFO {
        set_default(&mut status["nodeInfo"], field, "");
    }
}

/// Upstream no longer takes this field.
fn drop_config_source(object: &mut Value) {
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("configSource");
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_taints(object, errors);
    for list in ["capacity", "allocatable"] {
        for (name, amount) in object["status"][list].as_object().into_iter().flatten() {
            let at = Path::new("status").child(list).child(name);
            validate_amount(name, amount, &at, errors);
        }
    }
    let at = Path::new("spec").child("podCIDRs");
    let ranges: Vec<IpNetwork> = items(&object["spec"], "podCIDRs")
        .enumerate()
        .filter_map(|(i, range)| parse_cidr(text(range), &at.index(i), errors))
        .collect();
    let is_pair = matches!(ranges.as_slice(), [one, other] if one.is_ipv4() != other.is_ipv4());
    if items(&object["spec"], "podCIDRs").count() > 1 && !is_pair {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.invalid(&at, &object["spec"]["podCIDRs"], detail);
    }
}

/// Taints are unique by key and effect. As upstream, they are reported below the metadata.
fn validate_taints(object: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, taint) in items(&object["spec"], "taints").enumerate() {
        let at = Path::new("metadata").child("taints").index(i);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        validate_name(key, NameForm::LabelKey, &at.child("key"), errors);
        let problems = name_problems(value, NameForm::LabelValue);
        if !problems.is_empty() {
            errors.invalid(&at.child("value"), &value.into(), &problems.join(";"));
        }
        require_one_of(taint, "effect", &at, &EFFECTS, errors);
        if !seen.insert((key, effect)) {
            let shown = json!({"Key": key, "Value": value, "Effect": effect, "TimeAdded": null});
            errors.duplicate_with(&at, &shown, "taints must be unique by key and effect pair");
        }
    }
}

fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = &object["spec"];
    let mut warnings = Vec::new();
    if spec["configSource"].is_object() {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !is_zero(&spec["externalID"]) {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    let at = Path::new("spec").child("podCIDRs");
    let ranges = items(spec, "podCIDRs").enumerate();
    warnings.extend(ranges.filter_map(|(i, range)| cidr_warning(text(range), &at.index(i))));
    warnings
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
