//! VolumeAttachments.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::immutable;

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    subresources: &["status"],
    schema: "api.storage.v1.VolumeAttachment",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Attacher", |object, _| text_cell(&object["spec"]["attacher"])),
    Column::text("PV", |object, _| text_cell(&object["spec"]["source"]["persistentVolumeName"])),
    Column::text("Node", |object, _| text_cell(&object["spec"]["nodeName"])),
    Column::boolean("Attached", |object, _| (object["status"]["attached"] == true).into()),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let (source, path) = (&object["spec"]["source"], Path::new("spec").child("source"));
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["persistentVolumeName"].as_str(), source["inlineVolumeSpec"].is_object()) {
        (None, false) => errors.required(&path, detail),
        (Some(_), true) => errors.forbidden(&path, detail),
        (Some(""), false) => {
            errors
                .required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        _ => {}
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["spec"], &old["spec"], &Path::new("spec"), errors);
}
