//! DaemonSets.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::{count_or_percent, is_zero, not_negative};
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, SELECTOR};
use crate::kinds::pod_template::{
    default_template, validate_selector_update, validate_template_and_selector,
};
use crate::kinds::row::Row;
use crate::table::cell::{labels_text, number_cell, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{one_of, set_default};

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &["status"],
    schema: "api.apps.v1.DaemonSet",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        validate,
        validate_update: validate_selector_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::integer("Desired", |object, _| number_cell(&object["status"]["desiredNumberScheduled"])),
    Column::integer("Current", |object, _| number_cell(&object["status"]["currentNumberScheduled"])),
    Column::integer("Ready", |object, _| number_cell(&object["status"]["numberReady"])),
    Column::integer("Up-to-date", |object, _| number_cell(&object["status"]["updatedNumberScheduled"])),
    Column::integer("Available", |object, _| number_cell(&object["status"]["numberAvailable"])),
    Column::text("Node Selector", |object, _| {
        or_none(labels_text(&object["spec"]["template"]["spec"]["nodeSelector"]))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "updateStrategy", json!({}));
    set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    default_template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_template_and_selector(object, errors);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    one_of(strategy, "type", &at, &["OnDelete", "RollingUpdate"], errors);
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let (rolling, at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
    for field in ["maxUnavailable", "maxSurge"] {
        count_or_percent(&rolling[field], &at.child(field), errors);
    }
    match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&at.child("maxSurge"), &rolling["maxSurge"], detail);
        }
        (true, true) => errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
