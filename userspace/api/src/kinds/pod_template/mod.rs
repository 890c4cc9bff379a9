//! PodTemplates, and what every workload does with its template: defaults, checks against the selector, columns.

pub(super) mod columns;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::pod_spec::{default_pod_spec, validate_pod_spec};
use crate::kinds::row::Row;
use crate::names;
use crate::selector::LabelSelector;
use crate::table::cell::{container_images, container_names, labels_text, or_none};
use crate::table::column::{Column, NAME};
use crate::value::{immutable, items};

pub(super) const ROW: Row = Row {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "api.core.v1.PodTemplate",
    columns: COLUMNS,
    strategy: Strategy { default, validate, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Containers", |object, _| container_names(&object["template"]["spec"])),
    Column::text("Images", |object, _| container_images(&object["template"]["spec"])),
    Column::text("Pod Labels", |object, _| or_none(labels_text(&object["template"]["metadata"]["labels"]))),
];

fn default(object: &mut Value) {
    default_pod_spec(&mut object["template"]["spec"]);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("template").child("spec");
    validate_template_spec(&object["template"]["spec"], &path, &["Always", "OnFailure", "Never"], errors);
}

pub(super) fn default_template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template").and_then(|template| template.get_mut("spec")) {
        default_pod_spec(template);
    }
}

pub(super) fn validate_replicas_and_template(object: &Value, errors: &mut Errors) {
    let replicas = &object["spec"]["replicas"];
    if replicas.as_i64().is_some_and(|n| n < 0) {
        let at = Path::new("spec").child("replicas");
        errors.invalid(&at, replicas, "must be greater than or equal to 0");
    }
    validate_template_and_selector(object, errors);
}

/// The selector must match the template's labels.
pub(super) fn validate_template_and_selector(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let template = path.child("template");
    let labels = &spec["template"]["metadata"]["labels"];
    match LabelSelector::from_object(&spec["selector"]) {
        Ok(None) => {}
        Ok(Some(selector)) if selector.is_empty() => {
            let kind = object["kind"].as_str().unwrap_or("Deployment").to_lowercase();
            let detail = format!("empty selector is invalid for {kind}");
            errors.invalid(&path.child("selector"), &spec["selector"], &detail);
        }
        Ok(Some(selector)) if !selector.matches(labels) => {
            let at = template.child("metadata").child("labels");
            errors.invalid(&at, labels, "`selector` does not match template `labels`");
        }
        Ok(Some(_)) => {}
        Err(bad) => errors.invalid(&path.child("selector"), &spec["selector"], &bad.0),
    }
    names::validate_labels(labels, &template.child("metadata").child("labels"), errors);
    if spec["template"]["spec"].is_null() {
        errors.required(&template.child("spec").child("containers"), "");
    }
    validate_template_spec(&spec["template"]["spec"], &template.child("spec"), &["Always"], errors);
}

/// Checks the specification of a template; `restart` lists the allowed restart policies.
pub(super) fn validate_template_spec(spec: &Value, path: &Path, restart: &[&str], errors: &mut Errors) {
    validate_pod_spec(spec, path, restart, errors);
    if items(spec, "ephemeralContainers").next().is_some() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("ephemeralContainers"), detail);
    }
}

pub(super) fn validate_selector_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("selector");
    immutable(&new["spec"]["selector"], &old["spec"]["selector"], &path, errors);
}
