//! Events, in the core group and in their own; both are stored in one form.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::row::Row;
use crate::meta;
use crate::table::cell::{joined, number_cell, text_cell};
use crate::table::column::{Column, age_of};

pub(super) const CORE_ROW: Row = Row {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "api.core.v1.Event",
    selectable_fields: &[
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    columns: COLUMNS,
    ..Row::NAMESPACED
};

pub(super) const ROW: Row = Row {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "api.events.v1.Event",
    selectable_fields: CORE_ROW.selectable_fields,
    field_names: &[
        ("metadata.name", "metadata.name"),
        ("metadata.namespace", "metadata.namespace"),
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reason", "reason"),
        ("reportingController", "reportingComponent"),
        ("type", "type"),
    ],
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    Column::text("Last Seen", last_seen),
    Column::text("Type", |object, _| text_cell(&object["type"])),
    Column::text("Reason", |object, _| text_cell(&object["reason"])),
    Column::text("Object", event_object),
    Column::wide("Subobject", |object, _| text_cell(&object["involvedObject"]["fieldPath"])),
    Column::wide("Source", source),
    Column::text("Message", |object, _| {
        text_cell(&object["message"]).as_str().unwrap_or_default().trim().into()
    }),
    Column::wide("First Seen", first_seen),
    Column::wide("Count", |object, _| number_cell(&object["count"])),
    Column::wide("Name", |object, _| meta::name(object).into()),
];

/// The first time that is set; newer clients set `eventTime` and `series` instead of `firstTimestamp` and
/// `lastTimestamp`.
fn first_time<'a>(times: &[&'a Value], object: &'a Value) -> &'a Value {
    times.iter().copied().find(|time| time.is_string()).unwrap_or(&object["metadata"]["creationTimestamp"])
}

fn last_seen(object: &Value, now: Timestamp) -> Value {
    let times = [&object["series"]["lastObservedTime"], &object["lastTimestamp"], &object["eventTime"]];
    age_of(first_time(&times, object), now).into()
}

fn first_seen(object: &Value, now: Timestamp) -> Value {
    age_of(first_time(&[&object["firstTimestamp"], &object["eventTime"]], object), now).into()
}

fn event_object(object: &Value, _: Timestamp) -> Value {
    let object = &object["involvedObject"];
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    format!("{kind}/{}", object["name"].as_str().unwrap_or_default()).into()
}

fn source(object: &Value, _: Timestamp) -> Value {
    let component =
        object["source"]["component"].as_str().or(object["reportingComponent"].as_str()).unwrap_or_default();
    let host = object["source"]["host"].as_str().or(object["reportingInstance"].as_str()).unwrap_or_default();
    joined([component, host].into_iter().filter(|part| !part.is_empty())).replace(',', ", ").into()
}
