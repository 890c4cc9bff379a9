//! CSIStorageCapacities: what a driver can still provision.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_name};
use crate::resources::quantity;
use crate::table::cell::{UNSET, quantity_cell, text_cell};
use crate::table::column::{Column, NAME};
use crate::value::{immutable, text};

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    schema: "api.storage.v1.CSIStorageCapacity",
    columns: COLUMNS,
    strategy: Strategy { validate, own_required: true, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("StorageClassName", |object, _| text_cell(&object["storageClassName"])),
    Column::text("Capacity", |object, _| {
        if object["capacity"].is_null() { UNSET.into() } else { quantity_cell(&object["capacity"]) }
    }),
];

fn validate(object: &Value, errors: &mut Errors) {
    validate_selector(&object["nodeTopology"], &Path::new("nodeTopology"), errors);
    let class = text(&object["storageClassName"]);
    validate_name(class, NameForm::Subdomain, &Path::new("storageClassName"), errors);
    if quantity(&object["capacity"]).is_some_and(|capacity| capacity.millis() < 0) {
        let at = Path::new("capacity");
        errors.invalid(&at, &object["capacity"], "must be greater than or equal to 0");
    }
}

/// What was asked of the driver does not change, only its answer.
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["nodeTopology", "storageClassName"] {
        immutable(&new[field], &old[field], &Path::new(field), errors);
    }
}
