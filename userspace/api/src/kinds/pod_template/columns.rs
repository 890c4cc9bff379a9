//! Columns that workloads share: replicas, containers and selectors.

use serde_json::Value;

use crate::table::cell::{container_images, container_names, number_cell, or_none, selector_text};
use crate::table::column::Column;

pub(crate) const DESIRED: Column =
    Column::integer("Desired", |object, _| number_cell(&object["spec"]["replicas"]));
pub(crate) const CURRENT: Column =
    Column::integer("Current", |object, _| number_cell(&object["status"]["replicas"]));
pub(crate) const READY: Column =
    Column::integer("Ready", |object, _| number_cell(&object["status"]["readyReplicas"]));
/// `2/3`
pub(crate) const READY_REPLICAS: Column = Column::text("Ready", |object, _| {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    format!("{}/{}", number(&object["status"]["readyReplicas"]), number(&object["spec"]["replicas"])).into()
});
pub(crate) const CONTAINERS: Column =
    Column::wide("Containers", |object, _| container_names(&object["spec"]["template"]["spec"]));
pub(crate) const IMAGES: Column =
    Column::wide("Images", |object, _| container_images(&object["spec"]["template"]["spec"]));
pub(crate) const SELECTOR: Column =
    Column::wide("Selector", |object, _| or_none(selector_text(&object["spec"]["selector"])));
