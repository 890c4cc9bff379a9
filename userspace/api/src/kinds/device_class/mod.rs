//! DeviceClasses.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::device_claim::MAX_CONFIGS;
use crate::kinds::device_names::within;
use crate::kinds::device_selector::{validate_configuration, validate_selectors};
use crate::kinds::kind::Strategy;
use crate::kinds::resource_requirements::is_extended;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    schema: "api.resource.v1.DeviceClass",
    columns: COLUMNS,
    strategy: Strategy { generation: true, validate, own_required: true, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[NAME, AGE];

fn validate(class: &Value, errors: &mut Errors) {
    let (spec, path) = (&class["spec"], Path::new("spec"));
    validate_selectors(spec, &path, errors);
    if within(spec, "config", MAX_CONFIGS, &path, errors) {
        for (i, config) in items(spec, "config").enumerate() {
            validate_configuration(config, &path.child("config").index(i), errors);
        }
    }
    let name = &spec["extendedResourceName"];
    if name.as_str().is_some_and(|name| !is_extended(name)) {
        errors.invalid(&path.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
}
