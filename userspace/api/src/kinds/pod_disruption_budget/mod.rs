//! PodDisruptionBudgets.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::numbers::{at_most_all, count_or_percent};
use crate::kinds::row::Row;
use crate::table::cell::{number_cell, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{internal, one_of, set_default};

pub(super) const ROW: Row = Row {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &["status"],
    schema: "api.policy.v1.PodDisruptionBudget",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Min Available", |object, _| or_not_available(&object["spec"]["minAvailable"])),
    Column::text("Max Unavailable", |object, _| or_not_available(&object["spec"]["maxUnavailable"])),
    Column::integer("Allowed Disruptions", |object, _| number_cell(&object["status"]["disruptionsAllowed"])),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let fields = ["minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy"];
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(&path, &internal(spec, &fields), detail);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        count_or_percent(&spec[field], &path.child(field), errors);
        at_most_all(&spec[field], &path.child(field), errors);
    }
    validate_selector(&spec["selector"], &path.child("selector"), errors);
    one_of(spec, "unhealthyPodEvictionPolicy", &path, &["AlwaysAllow", "IfHealthyBudget"], errors);
}

/// A new budget allows nothing until its controller has counted.
fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    set_default(object, "status", json!({}));
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        set_default(&mut object["status"], field, 0);
    }
}

fn or_not_available(value: &Value) -> Value {
    if value.is_null() { "N/A".into() } else { text_cell(value) }
}
