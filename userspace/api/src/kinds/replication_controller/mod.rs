//! ReplicationControllers.

use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::pod_template::columns::{CONTAINERS, CURRENT, DESIRED, IMAGES, READY};
use crate::kinds::replica_set;
use crate::kinds::row::Row;
use crate::table::cell::{labels_text, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::set_default;

pub(super) const ROW: Row = Row {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    subresources: &["scale", "status"],
    schema: "api.core.v1.ReplicationController",
    selectable_fields: &["metadata.name", "metadata.namespace", "status.replicas"],
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    DESIRED,
    CURRENT,
    READY,
    AGE,
    CONTAINERS,
    IMAGES,
    Column::wide("Selector", |object, _| or_none(labels_text(&object["spec"]["selector"]))),
];

fn default(object: &mut Value) {
    replica_set::default(object);
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["spec"].is_object() {
        set_default(&mut object["spec"], "selector", labels);
    }
}
