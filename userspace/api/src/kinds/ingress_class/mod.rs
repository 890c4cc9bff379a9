//! IngressClasses.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ingress;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names;
use crate::table::cell::{NONE, text_cell, text_or};
use crate::table::column::{AGE, Column};
use crate::value::{immutable, set_default};

const MAX_CONTROLLER_LENGTH: usize = 250;

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    schema: "api.networking.v1.IngressClass",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    Column::text("Name", ingress_class_name),
    Column::text("Controller", |object, _| text_cell(&object["spec"]["controller"])),
    Column::text("Parameters", parameters),
    AGE,
];

fn default(object: &mut Value) {
    if object["spec"]["parameters"].is_object() {
        set_default(&mut object["spec"]["parameters"], "scope", "Cluster");
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (controller, at) = (spec["controller"].as_str().unwrap_or_default(), path.child("controller"));
    if controller.len() > MAX_CONTROLLER_LENGTH {
        errors.too_long(&at, MAX_CONTROLLER_LENGTH);
    }
    let valid = controller
        .split_once('/')
        .is_some_and(|(domain, rest)| names::is_subdomain(domain) && !rest.is_empty());
    if controller.is_empty() {
        errors.required(&at, "");
    } else if !valid {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.invalid(&at, &spec["controller"], detail);
    }
    let (parameters, at) = (&spec["parameters"], path.child("parameters"));
    if !parameters.is_object() {
        return;
    }
    ingress::validate_reference(parameters, &at, errors);
    let namespaced = !parameters["namespace"].is_null();
    match parameters["scope"].as_str() {
        Some("Namespace") if !namespaced => {
            errors.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        Some("Cluster") if namespaced => {
            errors.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        Some("Namespace" | "Cluster") => {}
        _ => errors.not_supported(&at.child("scope"), &parameters["scope"], &["Cluster", "Namespace"]),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("controller");
    immutable(&new["spec"]["controller"], &old["spec"]["controller"], &path, errors);
}

fn ingress_class_name(object: &Value, _: Timestamp) -> Value {
    let default = object["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
    format!("{}{}", meta::name(object), if default { " (default)" } else { "" }).into()
}

fn parameters(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["parameters"] {
        Value::Null => NONE.into(),
        found => {
            let group = text_or(&found["apiGroup"], "");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text_or(&found["kind"], ""), text_or(&found["name"], "")).into()
        }
    }
}
