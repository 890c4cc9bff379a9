//! The cells of policies, quotas, autoscalers, ingresses and all that configures.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{NONE, cells, images_of, labels, list_of, names_of, number, selector_text, text, text_or};
use super::{age_of, short};
use crate::meta;
use crate::value::items;

const UNSET: &str = "<unset>";

cells! {
    template_containers = |o| names_of(&o["template"]["spec"]);
    template_images = |o| images_of(&o["template"]["spec"]);
    template_labels = |o| labels_or_none(&o["template"]["metadata"]["labels"]);
    quota_requests = |o| quota(o, false).into();
    quota_limits = |o| quota(o, true).into();
    component_status = |o| match component(o)["status"].as_str() {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    }.into();
    component_message = |o| text(&component(o)["message"]);
    component_error = |o| text(&component(o)["error"]);
    controller = |o| match items(&o["metadata"], "ownerReferences").find(|owner| owner["controller"] == true) {
        Some(owner) => {
            let kind = text_or(&owner["kind"], "").to_lowercase();
            let group = text_or(&owner["apiVersion"], "").rsplit_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text_or(&owner["name"], "")).into()
        }
        None => NONE.into(),
    };
    revision = |o| number(&o["revision"]);
    schedule = |o| text(&o["spec"]["schedule"]);
    time_zone = |o| text_or(&o["spec"]["timeZone"], NONE).into();
    suspend = |o| match o["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    }.into();
    active = |o| items(&o["status"], "active").count().into();
    job_containers = |o| names_of(&o["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
    job_images = |o| images_of(&o["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
    job_selector = |o| match selector_text(&o["spec"]["jobTemplate"]["spec"]["selector"]) {
        text if text.is_empty() => NONE.into(),
        text => text.into(),
    };
    ingress_class = |o| text_or(&o["spec"]["ingressClassName"], NONE).into();
    hosts = |o| {
        let rules = items(&o["spec"], "rules").count();
        let hosts: Vec<&str> = items(&o["spec"], "rules").filter_map(|rule| rule["host"].as_str()).filter(|host| !host.is_empty()).collect();
        match hosts.as_slice() {
            [] => "*".into(),
            [a, b, c, ..] if rules > 3 => format!("{a},{b},{c} + {} more...", rules - 3).into(),
            all => all.join(",").into(),
        }
    };
    ingress_address = |o| {
        let all = items(&o["status"]["loadBalancer"], "ingress");
        let mut all: Vec<&str> = all.filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str())).collect();
        all.sort_unstable();
        all.dedup();
        all.join(",").into()
    };
    ingress_ports = |o| if items(&o["spec"], "tls").next().is_some() { "80, 443" } else { "80" }.into();
    ingress_class_name = |o| {
        let default = o["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
        format!("{}{}", meta::name(o), if default { " (default)" } else { "" }).into()
    };
    ingress_controller = |o| text(&o["spec"]["controller"]);
    parameters = |o| match &o["spec"]["parameters"] {
        Value::Null => NONE.into(),
        found => {
            let group = text_or(&found["apiGroup"], "");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text_or(&found["kind"], ""), text_or(&found["name"], "")).into()
        }
    };
    parent = |o| {
        let parent = &o["spec"]["parentRef"];
        let part = |field: &str| text_or(&parent[field], "").to_owned();
        let mut out = part("resource");
        if !part("group").is_empty() { out += &format!(".{}", part("group")); }
        out.make_ascii_lowercase();
        if !part("namespace").is_empty() { out += &format!("/{}", part("namespace")); }
        format!("{out}/{}", part("name")).into()
    };
    cidrs = |o| list_of(&o["spec"], "cidrs", "");
    users = |o| subjects(o, "User").into();
    groups = |o| subjects(o, "Group").into();
    service_accounts = |o| subjects(o, "ServiceAccount").into();
    requested_duration = |o| match o["spec"]["expirationSeconds"].as_i64() {
        Some(seconds) => short(seconds).into(),
        None => NONE.into(),
    };
    preemption_policy = |o| text(&o["preemptionPolicy"]);
    handler = |o| text(&o["handler"]);
    min_available = |o| or_not_available(&o["spec"]["minAvailable"]);
    max_unavailable = |o| or_not_available(&o["spec"]["maxUnavailable"]);
    allowed_disruptions = |o| number(&o["status"]["disruptionsAllowed"]);
    scale_target = |o| {
        let target = &o["spec"]["scaleTargetRef"];
        format!("{}/{}", text_or(&target["kind"], ""), text_or(&target["name"], "")).into()
    };
    metrics = |o| {
        let current = |at: usize| o["status"]["currentMetrics"].get(at).unwrap_or(&Value::Null);
        let all: Vec<String> = items(&o["spec"], "metrics").enumerate().map(|(at, spec)| metric(spec, current(at))).collect();
        match all.as_slice() {
            [] => NONE.into(),
            [a, b, rest @ ..] if !rest.is_empty() => format!("{a}, {b} + {} more...", rest.len()).into(),
            all => all.join(", ").into(),
        }
    };
    min_replicas = |o| match o["spec"]["minReplicas"].as_i64() {
        Some(count) => count.to_string().into(),
        None => UNSET.into(),
    };
    max_replicas = |o| number(&o["spec"]["maxReplicas"]);
    current_replicas = |o| number(&o["status"]["currentReplicas"]);
    webhooks = |o| items(o, "webhooks").count().into();
    validations = |o| items(&o["spec"], "validations").count().into();
    mutations = |o| items(&o["spec"], "mutations").count().into();
    param_kind = |o| match &o["spec"]["paramKind"] {
        Value::Null => UNSET.into(),
        kind => format!("{}/{}", text_or(&kind["apiVersion"], ""), text_or(&kind["kind"], "")).into(),
    };
    policy = |o| text(&o["spec"]["policyName"]);
    param = |o| {
        let reference = &o["spec"]["paramRef"];
        match (reference["name"].as_str(), reference["namespace"].as_str()) {
            (Some(name), namespace) if !name.is_empty() => format!("{}/{name}", namespace.unwrap_or("*")).into(),
            _ if reference["selector"].is_object() => selector_text(&reference["selector"]).into(),
            _ => UNSET.into(),
        }
    };
    claim_state = |o| {
        let mut states = Vec::new();
        let deleted = o["metadata"]["deletionTimestamp"].is_string();
        if deleted { states.push("deleted"); }
        if o["status"]["allocation"].is_null() {
            if !deleted { states.push("pending"); }
        } else {
            states.push("allocated");
            if items(&o["status"], "reservedFor").next().is_some() { states.push("reserved"); }
        }
        states.join(",").into()
    };
    slice_node = |o| text(&o["spec"]["nodeName"]);
    slice_driver = |o| text(&o["spec"]["driver"]);
    slice_pool = |o| text(&o["spec"]["pool"]["name"]);
    priority_level = |o| text(&o["spec"]["priorityLevelConfiguration"]["name"]);
    precedence = |o| number(&o["spec"]["matchingPrecedence"]);
    distinguisher = |o| text_or(&o["spec"]["distinguisherMethod"]["type"], NONE).into();
    dangling = |o| {
        let found = items(&o["status"], "conditions").find(|condition| condition["type"] == "Dangling");
        text_or(found.map_or(&Value::Null, |condition| &condition["status"]), "?").into()
    };
    level_type = |o| text(&o["spec"]["type"]);
    shares = |o| limited(&o["spec"]["limited"]["nominalConcurrencyShares"]);
    queues = |o| limited(&o["spec"]["limited"]["limitResponse"]["queuing"]["queues"]);
    hand_size = |o| limited(&o["spec"]["limited"]["limitResponse"]["queuing"]["handSize"]);
    queue_length = |o| limited(&o["spec"]["limited"]["limitResponse"]["queuing"]["queueLengthLimit"]);
    api_service = |o| match &o["spec"]["service"] {
        Value::Null => "Local".into(),
        service => format!("{}/{}", text_or(&service["namespace"], ""), text_or(&service["name"], "")).into(),
    };
    api_available = |o| match items(&o["status"], "conditions").find(|condition| condition["type"] == "Available") {
        Some(condition) if condition["status"] == "True" => "True".into(),
        Some(condition) => format!("{} ({})", text_or(&condition["status"], ""), text_or(&condition["reason"], "")).into(),
        None => "Unknown".into(),
    };
}

pub(super) fn last_schedule(object: &Value, now: Timestamp) -> Value {
    match &object["status"]["lastScheduleTime"] {
        Value::Null => NONE.into(),
        time => age_of(time, now).into(),
    }
}

fn labels_or_none(value: &Value) -> Value {
    match labels(value) {
        text if text.is_empty() => NONE.into(),
        text => text.into(),
    }
}

fn limited(value: &Value) -> Value {
    if value.is_null() { NONE.into() } else { value.clone() }
}

fn or_not_available(value: &Value) -> Value {
    if value.is_null() { "N/A".into() } else { text(value) }
}

fn component(object: &Value) -> &Value {
    items(object, "conditions").find(|condition| condition["type"] == "Healthy").unwrap_or(&Value::Null)
}

fn quota(object: &Value, limits: bool) -> String {
    let status = &object["status"];
    let mut names: Vec<&String> =
        status["hard"].as_object().into_iter().flat_map(|hard| hard.keys()).collect();
    names.retain(|name| name.starts_with("limits.") == limits);
    names.sort_unstable();
    let shown = |value: &Value| text_or(value, "0").to_owned();
    let all = names
        .iter()
        .map(|name| format!("{name}: {}/{}", shown(&status["used"][*name]), shown(&status["hard"][*name])));
    all.collect::<Vec<_>>().join(", ")
}

fn subjects(object: &Value, kind: &str) -> String {
    let of_kind = items(object, "subjects").filter(|subject| subject["kind"] == kind);
    let names = of_kind.map(|subject| {
        let name = text_or(&subject["name"], "");
        match subject["namespace"].as_str() {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

/// `cpu: 10%/80%` and the like.
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
