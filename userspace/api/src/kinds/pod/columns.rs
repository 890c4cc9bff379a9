//! A Pod's columns: its state in one word, its restarts, its address.

use jiff::Timestamp;
use serde_json::Value;

use crate::table::cell::NONE;
use crate::table::column::{AGE, Column, NAME, age_of};
use crate::value::items;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Ready", ready),
    Column::text("Status", status),
    Column::text("Restarts", restarts),
    AGE,
    Column::wide("IP", ip),
    Column::wide("Node", node),
    Column::wide("Nominated Node", nominated_node),
    Column::wide("Readiness Gates", readiness_gates),
];

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

fn ready(pod: &Value, _: Timestamp) -> Value {
    let sidecars = restartable_inits(pod);
    let total = items(&pod["spec"], "containers").count()
        + items(&pod["spec"], "initContainers").filter(|c| c["restartPolicy"] == "Always").count();
    let ready = statuses(pod).chain(sidecars).filter(|status| status["ready"] == true).count();
    format!("{ready}/{total}").into()
}

fn status(pod: &Value, _: Timestamp) -> Value {
    let status = &pod["status"];
    let mut reason = ["reason", "phase"]
        .iter()
        .find_map(|field| status[*field].as_str().filter(|text| !text.is_empty()))
        .unwrap_or_default()
        .to_owned();
    if condition(pod, "PodScheduled").is_some_and(|found| found["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let initialising = initialising(pod);
    if let Some(init) = &initialising {
        reason.clone_from(init);
    }
    if initialising.is_none() || is_true(pod, "Initialized") {
        of_containers(pod, &mut reason);
    }
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !ended {
            reason = "Terminating".to_owned();
        }
    }
    reason.into()
}

/// The state of the first container that is not simply running; a pod with a running container is not completed.
fn of_containers(pod: &Value, reason: &mut String) {
    let (mut running, mut failure) = (false, None);
    let all: Vec<&Value> = statuses(pod).collect();
    for status in all.into_iter().rev() {
        let state = &status["state"];
        if let Some(waiting) = state["waiting"]["reason"].as_str().filter(|text| !text.is_empty()) {
            *reason = waiting.to_owned();
        } else if !state["terminated"].is_null() {
            *reason = terminated(&state["terminated"]);
            if state["terminated"]["exitCode"] != 0 {
                failure = Some(reason.clone());
            }
        } else if status["ready"] == true && !state["running"].is_null() {
            running = true;
        }
    }
    if *reason == "Completed" {
        match failure {
            _ if running && is_true(pod, "Ready") => *reason = "Running".to_owned(),
            Some(failure) => *reason = failure,
            None if running => *reason = "NotReady".to_owned(),
            None => {}
        }
    }
}

fn terminated(state: &Value) -> String {
    match (state["reason"].as_str(), state["signal"].as_i64()) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", state["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// `Init:1/2` and its like, while init containers run.
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

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&pod["status"], "conditions").find(|condition| condition["type"] == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|found| found["status"] == "True")
}

fn restarts(pod: &Value, now: Timestamp) -> Value {
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

fn ip(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["status"]["podIP"])
}

fn node(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["spec"]["nodeName"])
}

fn nominated_node(pod: &Value, _: Timestamp) -> Value {
    or_none(&pod["status"]["nominatedNodeName"])
}

fn readiness_gates(pod: &Value, _: Timestamp) -> Value {
    let readiness_gates: Vec<&Value> =
        items(&pod["spec"], "readinessGates").map(|gate| &gate["conditionType"]).collect();
    if readiness_gates.is_empty() {
        return NONE.into();
    }
    let conditions = || items(&pod["status"], "conditions");
    let true_ones = readiness_gates
        .iter()
        .filter(|gate| conditions().any(|c| &&c["type"] == *gate && c["status"] == "True"))
        .count();
    format!("{true_ones}/{}", readiness_gates.len()).into()
}

fn or_none(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(NONE).into()
}
