//! CSIStorageCapacities: what a driver can still provision.

use crate::kinds::row::Row;
use crate::table::cell::{UNSET, quantity_cell, text_cell};
use crate::table::column::{Column, NAME};

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    schema: "api.storage.v1.CSIStorageCapacity",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("StorageClassName", |object, _| text_cell(&object["storageClassName"])),
    Column::text("Capacity", |object, _| {
        if object["capacity"].is_null() { UNSET.into() } else { quantity_cell(&object["capacity"]) }
    }),
];
