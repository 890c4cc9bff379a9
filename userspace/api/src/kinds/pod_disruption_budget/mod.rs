//! PodDisruptionBudgets.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::count_or_percent;
use crate::kinds::row::Row;
use crate::selector::LabelSelector;
use crate::table::cell::{number_cell, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::one_of;

pub(super) const ROW: Row = Row {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &["status"],
    schema: "api.policy.v1.PodDisruptionBudget",
    columns: COLUMNS,
    strategy: Strategy { generation: true, validate, ..Strategy::NONE },
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
        errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        count_or_percent(&spec[field], &path.child(field), errors);
    }
    if let Err(bad) = LabelSelector::from_object(&spec["selector"]) {
        errors.invalid(&path.child("selector"), &spec["selector"], &bad.0);
    }
    one_of(spec, "unhealthyPodEvictionPolicy", &path, &["AlwaysAllow", "IfHealthyBudget"], errors);
}

fn or_not_available(value: &Value) -> Value {
    if value.is_null() { "N/A".into() } else { text_cell(value) }
}
