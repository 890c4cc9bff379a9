//! VolumeAttributesClasses.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::immutable;

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    schema: "api.storage.v1.VolumeAttributesClass",
    columns: COLUMNS,
    strategy: Strategy { validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("DriverName", |object, _| text_cell(&object["driverName"])), AGE];

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["driverName", "parameters"] {
        immutable(&new[field], &old[field], &Path::new(field), errors);
    }
}
