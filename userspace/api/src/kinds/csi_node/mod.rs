//! CSINodes: the storage drivers of a node.

use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    schema: "api.storage.v1.CSINode",
    columns: COLUMNS,
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::integer("Drivers", |object, _| items(&object["spec"], "drivers").count().into()), AGE];
