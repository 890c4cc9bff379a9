//! Jobs.

mod selector;
mod success_policy;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::kind::Strategy;
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, SELECTOR};
use crate::kinds::pod_template::default_template;
use crate::kinds::row::Row;
use crate::meta;
use crate::table::column::{AGE, Column, NAME, short};
use crate::value::{items, items_mut, set_default, set_zero_default};

pub(super) use validate::validate_job_spec;
use validate::{validate, validate_update};

pub(super) const ROW: Row = Row {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: &["status"],
    schema: "api.batch.v1.Job",
    selectable_fields: &["metadata.name", "metadata.namespace", "status.successful"],
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        prepare_create,
        validate,
        own_required: true,
        validate_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Status", job_status),
    Column::text("Completions", completions),
    Column::text("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// A Job without labels has those of its template.
fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    default_spec(spec);
    set_default(spec, "suspend", false);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "manualSelector", false);
    let policy = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    set_default(spec, "podReplacementPolicy", policy);
    default_template(spec);
    // A new Job gets them with those of its selector.
    if !meta::uid(object).is_empty() {
        copy_labels(object);
    }
}

fn copy_labels(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["metadata"]["labels"].as_object().is_none_or(serde_json::Map::is_empty) {
        meta::of_mut(object).insert("labels".into(), labels);
    }
}

/// A Job without a selector gets one with its own uid, so that it can never adopt another Job's pods.
fn prepare_create(object: &mut Value) {
    let (uid, name) = (meta::uid(object).to_owned(), meta::name(object).to_owned());
    if object["spec"]["manualSelector"] != true && !uid.is_empty() {
        selector::generate(&mut object["spec"], &uid, &name);
    }
    copy_labels(object);
}

/// Defaults of completions, parallelism and the backoff limit.
fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
    set_default(spec, "backoffLimit", limit);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            items_mut(rule, "onPodConditions")
                .for_each(|pattern| set_zero_default(pattern, "status", "True"));
        }
    }
}

fn job_duration(object: &Value, now: Timestamp) -> Value {
    let time = |field: &str| object["status"][field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    match (time("startTime"), time("completionTime")) {
        (Some(start), end) => short((end.unwrap_or(now).as_second() - start.as_second()).max(0)).into(),
        _ => "".into(),
    }
}

fn job_status(object: &Value, _: Timestamp) -> Value {
    let state = |kind: &str| {
        items(&object["status"], "conditions").any(|c| c["type"] == kind && c["status"] == "True")
    };
    let states = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    ];
    states.iter().find(|(kind, _)| state(kind)).map_or("Running", |(_, shown)| shown).into()
}

fn completions(object: &Value, _: Timestamp) -> Value {
    let succeeded = object["status"]["succeeded"].as_i64().unwrap_or(0);
    match (object["spec"]["completions"].as_i64(), object["spec"]["parallelism"].as_i64().unwrap_or(1)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, 2..) => format!("{succeeded}/1 of {}", object["spec"]["parallelism"]),
        (None, _) => format!("{succeeded}/1"),
    }
    .into()
}
