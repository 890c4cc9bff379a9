//! DeviceClasses.

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    schema: "api.resource.v1.DeviceClass",
    columns: COLUMNS,
    strategy: Strategy { generation: true, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[NAME, AGE];
