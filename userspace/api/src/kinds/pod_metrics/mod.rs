//! PodMetrics: what a pod's containers use now. Read only, and never stored.

use serde_json::Value;

use crate::kinds::row::Row;
use crate::quantity::Quantity;
use crate::table::cell::text_cell;
use crate::table::column::{Column, NAME};
use crate::value::items;

/// The group of NodeMetrics and PodMetrics.
pub const METRICS_GROUP: &str = "metrics.k8s.io";

pub(super) const ROW: Row = Row {
    group: METRICS_GROUP,
    version: "v1beta1",
    kind: "PodMetrics",
    plural: "pods",
    verbs: &["get", "list"],
    schema: "metrics.pkg.apis.metrics.v1beta1.PodMetrics",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

/// As metrics-server prints them.
const COLUMNS: &[Column] = &[
    NAME,
    Column::text("cpu", |object, _| sum(object, "cpu")),
    Column::text("memory", |object, _| sum(object, "memory")),
    Column::text("Window", |object, _| text_cell(&object["window"])),
];

/// What all containers use of a resource.
fn sum(object: &Value, resource: &str) -> Value {
    let usages = items(object, "containers").filter_map(|container| container["usage"][resource].as_str());
    let quantities = usages.filter_map(|usage| usage.parse::<Quantity>().ok());
    quantities.fold(Quantity::default(), Quantity::saturating_add).to_string().into()
}
