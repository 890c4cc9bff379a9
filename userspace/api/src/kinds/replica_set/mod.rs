//! ReplicaSets. ReplicationControllers share the defaults.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::not_negative;
use crate::kinds::pod_template::columns::{CONTAINERS, CURRENT, DESIRED, IMAGES, READY, SELECTOR};
use crate::kinds::pod_template::{
    Workload, default_template, validate_endless, validate_selected_template, validate_selector_update,
};
use crate::kinds::pod_warnings::template_warnings;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::set_default;

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &["scale", "status"],
    schema: "api.apps.v1.ReplicaSet",
    selectable_fields: &["metadata.name", "metadata.namespace", "status.replicas"],
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        validate,
        own_required: true,
        warnings: template_warnings,
        validate_update: validate_selector_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

pub(super) fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "replicas", 1);
        default_template(spec);
    }
}

const WORKLOAD: Workload = Workload { kind: "replicaset", unreadable: "invalid label selector" };

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    validate_selected_template(spec, &WORKLOAD, &path, errors);
    validate_endless(spec, "ReplicaSet", &path, errors);
}
