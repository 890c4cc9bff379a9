//! ResourceSlices: the devices of a driver.

use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    schema: "api.resource.v1.ResourceSlice",
    columns: COLUMNS,
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Node", |object, _| text_cell(&object["spec"]["nodeName"])),
    Column::text("Driver", |object, _| text_cell(&object["spec"]["driver"])),
    Column::text("Pool", |object, _| text_cell(&object["spec"]["pool"]["name"])),
    AGE,
];
