//! ReplicationControllers.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::not_negative;
use crate::kinds::pod_template::columns::{CONTAINERS, CURRENT, DESIRED, IMAGES, READY};
use crate::kinds::pod_template::{default_template, validate_endless, validate_template};
use crate::kinds::pod_warnings::template_warnings;
use crate::kinds::row::Row;
use crate::names::NameForm;
use crate::table::cell::{labels_text, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{is_zero, set_default, set_zero_default};

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
    strategy: Strategy {
        generation: true,
        default,
        validate,
        own_required: true,
        warnings: template_warnings,
        name: NameForm::DeclaredSubdomain,
        ..Strategy::NONE
    },
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

/// The labels of the template are those of the controller, and what it selects.
fn default(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        set_zero_default(&mut object["metadata"], "labels", labels.clone());
        set_zero_default(&mut object["spec"], "selector", labels);
    }
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "replicas", 1);
        if !spec["template"].is_null() {
            default_template(spec);
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &["minReadySeconds"], &path, errors);
    let is_empty = is_zero(&spec["selector"]);
    if is_empty {
        errors.required(&path.child("selector"), "");
    }
    not_negative(spec, &["replicas"], &path, errors);
    if spec["template"].is_null() {
        return errors.required(&path.child("template"), "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let selected =
        spec["selector"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    if !selected {
        let at = path.child("template").child("metadata").child("labels");
        errors.invalid(&at, labels, "`selector` does not match template `labels`");
    }
    validate_template(&spec["template"], &path.child("template"), errors);
    validate_endless(spec, "ReplicationController", &path, errors);
}
