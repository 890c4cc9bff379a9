//! Columns that PersistentVolumes and claims have in common.

use crate::table::cell::{UNSET, text_cell, text_or};
use crate::table::column::Column;

/// The class in the form that came before `storageClassName`.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) const STATUS: Column =
    Column::text("Status", |object, _| match object["metadata"]["deletionTimestamp"].is_string() {
        true => "Terminating".into(),
        false => text_cell(&object["status"]["phase"]),
    });
pub(super) const STORAGE_CLASS: Column = Column::text("StorageClass", |object, _| {
    let annotated = object["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    annotated.unwrap_or(text_or(&object["spec"]["storageClassName"], "")).into()
});
pub(super) const ATTRIBUTES_CLASS: Column = Column::text("VolumeAttributesClass", |object, _| {
    text_or(&object["spec"]["volumeAttributesClassName"], UNSET).into()
});
pub(super) const VOLUME_MODE: Column =
    Column::wide("VolumeMode", |object, _| text_or(&object["spec"]["volumeMode"], UNSET).into());
