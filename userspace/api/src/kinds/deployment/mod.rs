//! Deployments.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::{count_or_percent, is_zero, not_negative};
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, READY_REPLICAS, SELECTOR};
use crate::kinds::pod_template::{
    default_template, validate_replicas_and_template, validate_selector_update,
};
use crate::kinds::row::Row;
use crate::table::cell::number_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{one_of, set_default};

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &["scale", "status"],
    schema: "api.apps.v1.Deployment",
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
    READY_REPLICAS,
    Column::text("Up-to-date", |object, _| number_cell(&object["status"]["updatedReplicas"])),
    Column::text("Available", |object, _| number_cell(&object["status"]["availableReplicas"])),
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
    set_default(spec, "replicas", 1);
    set_default(spec, "strategy", json!({}));
    set_default(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["strategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    default_template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_replicas_and_template(object, errors);
    let (strategy, path) = (&object["spec"]["strategy"], Path::new("spec").child("strategy"));
    one_of(strategy, "type", &path, &["Recreate", "RollingUpdate"], errors);
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        errors.forbidden(
            &path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        );
    }
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    for field in ["maxUnavailable", "maxSurge"] {
        // A surge above 100 % is allowed.
        if field == "maxUnavailable" || !rolling[field].is_string() {
            count_or_percent(&rolling[field], &at.child(field), errors);
        }
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&at.child("maxUnavailable"), &rolling["maxUnavailable"], detail);
    }
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(
        spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        &path,
        errors,
    );
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64());
    if deadline.is_some_and(|deadline| deadline <= ready.unwrap_or(0)) {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid(&at, &spec["progressDeadlineSeconds"], "must be greater than minReadySeconds");
    }
}
