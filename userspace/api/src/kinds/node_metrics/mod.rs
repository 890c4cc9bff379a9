//! NodeMetrics: what a node uses now. Read only, and never stored.

use crate::kinds::pod_metrics::METRICS_GROUP;
use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{Column, NAME};

pub(super) const ROW: Row = Row {
    group: METRICS_GROUP,
    version: "v1beta1",
    kind: "NodeMetrics",
    plural: "nodes",
    verbs: &["get", "list"],
    schema: "metrics.pkg.apis.metrics.v1beta1.NodeMetrics",
    selectable_fields: &["metadata.name"],
    columns: COLUMNS,
    ..Row::CLUSTER
};

/// As metrics-server prints them.
const COLUMNS: &[Column] = &[
    NAME,
    Column::text("cpu", |object, _| text_cell(&object["usage"]["cpu"])),
    Column::text("memory", |object, _| text_cell(&object["usage"]["memory"])),
    Column::text("Window", |object, _| text_cell(&object["window"])),
];
