//! Namespaces: the name label, the finalizer and the phase that each has.

use serde_json::{Value, json};

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names::NameForm;
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::set_default;

pub(super) const ROW: Row = Row {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    subresources: &["finalize", "status"],
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: "api.core.v1.Namespace",
    selectable_fields: &["metadata.name", "status.phase"],
    columns: COLUMNS,
    strategy: Strategy { default, name: NameForm::Label, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("Status", |object, _| text_cell(&object["status"]["phase"])), AGE];

fn default(object: &mut Value) {
    let name = meta::name(object).to_owned();
    let metadata = meta::of_mut(object);
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_object() {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
    if object["metadata"]["deletionTimestamp"].is_null() {
        set_default(object, "spec", json!({}));
        set_default(&mut object["spec"], "finalizers", json!(["kubernetes"]));
    }
    set_default(object, "status", json!({"phase": "Active"}));
}
