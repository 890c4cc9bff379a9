//! ResourceClaimTemplates.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::device_claim::{default_devices, validate_device_claim};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta::validate_annotations;
use crate::names::validate_labels;
use crate::table::column::{AGE, Column, NAME};
use crate::value::immutable;

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    schema: "api.resource.v1.ResourceClaimTemplate",
    columns: COLUMNS,
    strategy: Strategy {
        default: |template| default_devices(template.pointer_mut("/spec/spec/devices")),
        own_required: true,
        validate_create,
        validate_update: |new, old, errors| immutable(&new["spec"], &old["spec"], &Path::new("spec"), errors),
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, AGE];

fn validate_create(template: &Value, errors: &mut Errors) {
    let (spec, path) = (&template["spec"], Path::new("spec"));
    let (metadata, at) = (&spec["metadata"], path.child("metadata"));
    validate_annotations(&metadata["annotations"], &at.child("annotations"), errors);
    validate_labels(&metadata["labels"], &at.child("labels"), errors);
    validate_device_claim(&spec["spec"]["devices"], &path.child("spec").child("devices"), errors);
}
