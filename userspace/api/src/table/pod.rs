//! A pod's cells: what it is doing, in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::age_of;
use crate::kinds::items;

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["status"], "containerStatuses")
}

fn restartable_inits(pod: &Value) -> Vec<&Value> {
    let sidecars: Vec<&Value> = items(&pod["spec"], "initContainers")
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| &container["name"])
        .collect();
    items(&pod["status"], "initContainerStatuses")
        .filter(|status| sidecars.contains(&&status["name"]))
        .collect()
}

pub(super) fn ready(pod: &Value, _: Timestamp) -> Value {
    let sidecars = restartable_inits(pod);
    let total = items(&pod["spec"], "containers").count()
        + items(&pod["spec"], "initContainers").filter(|c| c["restartPolicy"] == "Always").count();
    let ready = statuses(pod).chain(sidecars).filter(|status| status["ready"] == true).count();
    format!("{ready}/{total}").into()
}

pub(super) fn status(pod: &Value, _: Timestamp) -> Value {
    let mut reason = ["reason", "phase"]
        .iter()
        .find_map(|field| pod["status"][*field].as_str().filter(|text| !text.is_empty()))
        .unwrap_or_default()
        .to_owned();
    let initialising = initialising(pod);
    if let Some(init) = &initialising {
        reason.clone_from(init);
    } else {
        let mut running = false;
        for status in statuses(pod) {
            let state = &status["state"];
            if let Some(waiting) = state["waiting"]["reason"].as_str() {
                reason = waiting.to_owned();
            } else if !state["terminated"].is_null() {
                reason = terminated(&state["terminated"]);
            } else if status["ready"] == true && !state["running"].is_null() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = if is_ready(pod) { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        reason = if pod["status"]["reason"] == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
    }
    reason.into()
}

fn terminated(state: &Value) -> String {
    match (state["reason"].as_str(), state["signal"].as_i64()) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", state["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// `Init:1/2` and the like while init containers are at work.
fn initialising(pod: &Value) -> Option<String> {
    let total = items(&pod["spec"], "initContainers").count();
    for (i, status) in items(&pod["status"], "initContainerStatuses").enumerate() {
        let state = &status["state"];
        if state["terminated"]["exitCode"] == 0 || (status["started"] == true && restarts_always(pod, status))
        {
            continue;
        }
        if !state["terminated"].is_null() {
            return Some(format!("Init:{}", terminated(&state["terminated"])));
        }
        return Some(match state["waiting"]["reason"].as_str() {
            Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{i}/{total}"),
        });
    }
    None
}

fn restarts_always(pod: &Value, status: &Value) -> bool {
    items(&pod["spec"], "initContainers")
        .any(|container| container["name"] == status["name"] && container["restartPolicy"] == "Always")
}

fn is_ready(pod: &Value) -> bool {
    items(&pod["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub(super) fn restarts(pod: &Value, now: Timestamp) -> Value {
    let sidecars = restartable_inits(pod);
    let all: Vec<&Value> = statuses(pod).chain(sidecars).collect();
    let count: i64 = all.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
    let last = all
        .iter()
        .filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str())
        .max()
        .map(|at| age_of(&Value::from(at), now));
    match last {
        Some(age) if count > 0 => format!("{count} ({age} ago)").into(),
        _ => count.to_string().into(),
    }
}

fn or_none(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

pub(super) fn ip(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["status"]["podIP"])
}

pub(super) fn node(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["spec"]["nodeName"])
}

pub(super) fn nominated(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["status"]["nominatedNodeName"])
}

pub(super) fn gates(pod: &Value, _: Timestamp) -> Value {
    let gates: Vec<&Value> =
        items(&pod["spec"], "readinessGates").map(|gate| &gate["conditionType"]).collect();
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = || items(&pod["status"], "conditions");
    let true_ones = gates
        .iter()
        .filter(|gate| conditions().any(|c| &&c["type"] == *gate && c["status"] == "True"))
        .count();
    format!("{true_ones}/{}", gates.len()).into()
}
