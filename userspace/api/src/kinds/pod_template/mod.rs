//! PodTemplates, and what every workload does with its template: defaults, checks against the selector, columns.

pub(super) mod columns;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::{shown_selector, validate_selector};
use crate::kinds::pod_annotations::{validate_agreement, validate_pod_annotations};
use crate::kinds::pod_spec::{default_pod_spec, validate_pod_spec};
use crate::kinds::pod_warnings::pod_warnings;
use crate::kinds::row::Row;
use crate::meta::validate_annotations;
use crate::names::validate_labels;
use crate::schema;
use crate::selector::LabelSelector;
use crate::table::cell::{container_images, container_names, labels_text, or_none};
use crate::table::column::{Column, NAME};
use crate::value::{immutable, is_zero, items, set_default, text};

pub(super) const ROW: Row = Row {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "api.core.v1.PodTemplate",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        validate,
        own_required: true,
        warnings: |object, _| pod_warnings(&object["template"], &Path::new("template")),
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Containers", |object, _| container_names(&object["template"]["spec"])),
    Column::text("Images", |object, _| container_images(&object["template"]["spec"])),
    Column::text("Pod Labels", |object, _| or_none(labels_text(&object["template"]["metadata"]["labels"]))),
];

fn default(object: &mut Value) {
    default_template(object);
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_template(&object["template"], &Path::new("template"), errors);
}

/// Brings the template of an object that an older version stored into the form of today.
pub fn restore_template(template: &mut Value) {
    schema::check("api.core.v1.PodTemplateSpec", template);
    default_pod_spec(&mut template["spec"]);
}

/// Defaults of the template of a workload. Upstream's type always has it.
pub(super) fn default_template(spec: &mut Value) {
    let template = &mut spec["template"];
    if template.is_null() {
        *template = json!({"metadata": {}});
    }
    if template.is_object() {
        set_default(template, "spec", json!({"containers": null}));
        default_pod_spec(&mut template["spec"]);
    }
}

/// Checks a template: its metadata and its specification.
pub(super) fn validate_template(template: &Value, path: &Path, errors: &mut Errors) {
    let (metadata, at) = (&template["metadata"], path.child("annotations"));
    validate_labels(&metadata["labels"], &path.child("labels"), errors);
    validate_annotations(&metadata["annotations"], &at, errors);
    let spec = path.child("spec");
    validate_pod_annotations(template, &spec, &at, errors);
    validate_pod_spec(&template["spec"], &Value::Null, &spec, errors);
    validate_agreement(template, &spec, errors);
    if items(&template["spec"], "ephemeralContainers").next().is_some() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&spec.child("ephemeralContainers"), detail);
    }
}

/// How the kind of a workload is named in messages about its selector.
pub(super) struct Workload {
    /// In "empty selector is invalid for deployment".
    pub(super) kind: &'static str,
    /// The detail of a selector that cannot be read.
    pub(super) unreadable: &'static str,
}

/// Checks a selector and, if it can be read, the template that it must select.
pub(super) fn validate_selected_template(
    spec: &Value,
    workload: &Workload,
    path: &Path,
    errors: &mut Errors,
) {
    let at = path.child("selector");
    let before = errors.0.len();
    if spec["selector"].is_null() {
        errors.required(&at, "");
    } else {
        validate_selector(&spec["selector"], &at, errors);
    }
    let is_readable = spec["selector"].is_null() || errors.0.len() == before;
    if is_empty_selector(&spec["selector"]) {
        let detail = format!("empty selector is invalid for {}", workload.kind);
        errors.invalid(&at, &shown_selector(&spec["selector"]), &detail);
    }
    if is_readable {
        validate_match(spec, path, errors);
        validate_template(&spec["template"], &path.child("template"), errors);
    } else {
        errors.invalid(&at, &shown_selector(&spec["selector"]), workload.unreadable);
    }
}

/// Whether a selector is there and asks for nothing.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    selector.is_object() && ["matchLabels", "matchExpressions"].iter().all(|field| is_zero(&selector[*field]))
}

/// Refuses a template whose labels the selector does not select.
pub(super) fn validate_match(spec: &Value, path: &Path, errors: &mut Errors) {
    let labels = &spec["template"]["metadata"]["labels"];
    let selects = match LabelSelector::from_object(&spec["selector"]) {
        Ok(Some(selector)) => selector.is_empty() || selector.matches(labels),
        Ok(None) => false,
        Err(_) => return,
    };
    if !selects {
        let at = path.child("template").child("metadata").child("labels");
        errors.invalid(&at, labels, "`selector` does not match template `labels`");
    }
}

/// Refuses a template whose pods would end: those of a workload restart always. `kind` is that of the message.
pub(super) fn validate_endless(spec: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let (pod, at) = (&spec["template"]["spec"], path.child("template").child("spec"));
    let policy = text(&pod["restartPolicy"]);
    if policy != "Always" {
        errors.not_supported(&at.child("restartPolicy"), &policy.into(), &["Always"]);
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&at.child("activeDeadlineSeconds"), &detail);
    }
}

pub(super) fn validate_selector_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("selector");
    immutable(&new["spec"]["selector"], &old["spec"]["selector"], &path, errors);
}
