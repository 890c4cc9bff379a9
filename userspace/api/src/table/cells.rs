//! The cells of all other kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::{age_of, short};
use crate::meta;
use crate::value::items;

pub(super) const NONE: &str = "<none>";

pub(super) fn text(value: &Value) -> Value {
    match value {
        Value::Null => "".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// A text field, or what stands for none.
pub(super) fn text_or<'a>(value: &'a Value, none: &'a str) -> &'a str {
    value.as_str().unwrap_or(none)
}

/// The texts of a list, with commas between.
pub(super) fn list_of(object: &Value, field: &str, none: &str) -> Value {
    match joined(items(object, field).filter_map(Value::as_str)) {
        text if text.is_empty() => none.into(),
        text => text.into(),
    }
}

pub(super) fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

pub(super) fn names_of(spec: &Value) -> Value {
    joined(items(spec, "containers").filter_map(|c| c["name"].as_str())).into()
}

pub(super) fn images_of(spec: &Value) -> Value {
    joined(items(spec, "containers").filter_map(|c| c["image"].as_str())).into()
}

fn or_none(joined: String) -> Value {
    if joined.is_empty() { NONE.into() } else { joined.into() }
}

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

macro_rules! cells {
    ($($name:ident = |$object:ident| $value:expr;)+) => {$(
        pub(super) fn $name($object: &Value, _: Timestamp) -> Value {
            $value
        }
    )+};
}
pub(super) use cells;

cells! {
    name = |o| meta::name(o).into();
    phase = |o| text(&o["status"]["phase"]);
    created = |o| text(&o["metadata"]["creationTimestamp"]);
    desired = |o| number(&o["spec"]["replicas"]);
    current = |o| number(&o["status"]["replicas"]);
    ready = |o| number(&o["status"]["readyReplicas"]);
    updated = |o| number(&o["status"]["updatedReplicas"]);
    available = |o| number(&o["status"]["availableReplicas"]);
    ready_of_replicas = |o| {
        let of = |value: &Value| value.as_i64().unwrap_or(0);
        format!("{}/{}", of(&o["status"]["readyReplicas"]), of(&o["spec"]["replicas"])).into()
    };
    daemon_desired = |o| number(&o["status"]["desiredNumberScheduled"]);
    daemon_current = |o| number(&o["status"]["currentNumberScheduled"]);
    daemon_ready = |o| number(&o["status"]["numberReady"]);
    daemon_updated = |o| number(&o["status"]["updatedNumberScheduled"]);
    daemon_available = |o| number(&o["status"]["numberAvailable"]);
    node_selector = |o| or_none(labels(&o["spec"]["template"]["spec"]["nodeSelector"]));
    containers = |o| names_of(&o["spec"]["template"]["spec"]);
    images = |o| images_of(&o["spec"]["template"]["spec"]);
    selector = |o| or_none(selector_text(&o["spec"]["selector"]));
    plain_selector = |o| or_none(labels(&o["spec"]["selector"]));
    pod_selector = |o| or_none(selector_text(&o["spec"]["podSelector"]));
    config_data = |o| (size(&o["data"]) + size(&o["binaryData"])).into();
    data = |o| size(&o["data"]).into();
    kind_of_secret = |o| text(&o["type"]);
    service_type = |o| text(&o["spec"]["type"]);
    cluster_ip = |o| or_none(o["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned());
    external_ip = |o| external_addresses(o).into();
    service_ports = |o| or_none(ports(&o["spec"]));
    address_type = |o| text(&o["addressType"]);
    slice_ports = |o| {
        let ports: Vec<String> = items(o, "ports").filter_map(|p| p["port"].as_i64()).map(|p| p.to_string()).collect();
        if ports.is_empty() { "<unset>".into() } else { ports.join(",").into() }
    };
    slice_endpoints = |o| {
        let all: Vec<&str> = items(o, "endpoints").flat_map(|e| items(e, "addresses")).filter_map(Value::as_str).collect();
        if all.is_empty() { "<unset>".into() } else { some_of(&all).into() }
    };
    endpoints = |o| {
        let mut all = Vec::new();
        for subset in items(o, "subsets") {
            for address in items(subset, "addresses").filter_map(|a| a["ip"].as_str()) {
                all.extend(items(subset, "ports").map(|port| format!("{address}:{}", port["port"])));
            }
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        or_none(some_of(&all))
    };
    node_status = |o| node_state(o).into();
    node_roles = |o| {
        let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
        or_none(joined(labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))))
    };
    node_version = |o| text(&o["status"]["nodeInfo"]["kubeletVersion"]);
    internal_ip = |o| or_none(node_address(o, "InternalIP"));
    node_external_ip = |o| or_none(node_address(o, "ExternalIP"));
    os_image = |o| node_info(o, "osImage");
    kernel = |o| node_info(o, "kernelVersion");
    runtime = |o| node_info(o, "containerRuntimeVersion");
    event_type = |o| text(&o["type"]);
    reason = |o| text(&o["reason"]);
    message = |o| text(&o["message"]).as_str().unwrap_or_default().trim().into();
    subobject = |o| text(&o["involvedObject"]["fieldPath"]);
    event_object = |o| {
        let object = &o["involvedObject"];
        let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
        format!("{kind}/{}", object["name"].as_str().unwrap_or_default()).into()
    };
    source = |o| {
        let component = o["source"]["component"].as_str().or(o["reportingComponent"].as_str()).unwrap_or_default();
        let host = o["source"]["host"].as_str().or(o["reportingInstance"].as_str()).unwrap_or_default();
        joined([component, host].into_iter().filter(|part| !part.is_empty())).replace(',', ", ").into()
    };
    count = |o| number(&o["count"]);
    holder = |o| text(&o["spec"]["holderIdentity"]);
    role = |o| format!("{}/{}", o["roleRef"]["kind"].as_str().unwrap_or_default(), o["roleRef"]["name"].as_str().unwrap_or_default()).into();
    signer = |o| text(&o["spec"]["signerName"]);
    requestor = |o| text(&o["spec"]["username"]);
    csr_condition = |o| {
        let has = |wanted: &str| items(&o["status"], "conditions").any(|c| c["type"] == wanted);
        let mut states = vec![if has("Denied") { "Denied" } else if has("Approved") { "Approved" } else { "Pending" }];
        if has("Failed") { states.push("Failed"); }
        if !o["status"]["certificate"].is_null() { states.push("Issued"); }
        states.join(",").into()
    };
    value = |o| number(&o["value"]);
    global_default = |o| (o["globalDefault"] == true).into();
    job_status = |o| {
        let state = |kind: &str| items(&o["status"], "conditions").any(|c| c["type"] == kind && c["status"] == "True");
        let states = [("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"), ("FailureTarget", "FailureTarget")];
        states.iter().find(|(kind, _)| state(kind)).map_or("Running", |(_, shown)| shown).into()
    };
    completions = |o| {
        let succeeded = o["status"]["succeeded"].as_i64().unwrap_or(0);
        match (o["spec"]["completions"].as_i64(), o["spec"]["parallelism"].as_i64().unwrap_or(1)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, 2..) => format!("{succeeded}/1 of {}", o["spec"]["parallelism"]),
            (None, _) => format!("{succeeded}/1"),
        }.into()
    };
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    age_of(&object["metadata"]["creationTimestamp"], now).into()
}

/// The first of the times that is set; newer clients set `eventTime` and a series instead of the old pair.
fn first_time<'a>(times: &[&'a Value], object: &'a Value) -> &'a Value {
    times.iter().copied().find(|time| time.is_string()).unwrap_or(&object["metadata"]["creationTimestamp"])
}

pub(super) fn last_seen(object: &Value, now: Timestamp) -> Value {
    let times = [&object["series"]["lastObservedTime"], &object["lastTimestamp"], &object["eventTime"]];
    age_of(first_time(&times, object), now).into()
}

pub(super) fn first_seen(object: &Value, now: Timestamp) -> Value {
    age_of(first_time(&[&object["firstTimestamp"], &object["eventTime"]], object), now).into()
}

pub(super) fn job_duration(object: &Value, now: Timestamp) -> Value {
    let time = |field: &str| object["status"][field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    match (time("startTime"), time("completionTime")) {
        (Some(start), end) => short((end.unwrap_or(now).as_second() - start.as_second()).max(0)).into(),
        _ => "".into(),
    }
}

pub(super) fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

pub(super) fn selector_text(selector: &Value) -> String {
    let mut parts = vec![labels(&selector["matchLabels"])];
    for expression in items(selector, "matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = joined(items(expression, "values").filter_map(Value::as_str));
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.retain(|part| !part.is_empty());
    parts.join(",")
}

fn ports(spec: &Value) -> String {
    let ports = items(spec, "ports").map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_i64() {
            Some(node) if node != 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

fn external_addresses(object: &Value) -> String {
    let spec = &object["spec"];
    let mut all: Vec<&str> = items(&object["status"]["loadBalancer"], "ingress")
        .filter_map(|ingress| ingress["ip"].as_str().or(ingress["hostname"].as_str()))
        .collect();
    all.extend(items(spec, "externalIPs").filter_map(Value::as_str));
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        Some("LoadBalancer") if all.is_empty() => "<pending>".to_owned(),
        _ if all.is_empty() => NONE.to_owned(),
        _ => all.join(","),
    }
}

/// Three at most, and how many more.
fn some_of(all: &[&str]) -> String {
    match all {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        all => all.join(","),
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
