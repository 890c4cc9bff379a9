//! ReplicaSets. ReplicationControllers share the defaults.

use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::pod_template::columns::{CONTAINERS, CURRENT, DESIRED, IMAGES, READY, SELECTOR};
use crate::kinds::pod_template::{
    default_template, validate_replicas_and_template, validate_selector_update,
};
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
        validate: validate_replicas_and_template,
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
