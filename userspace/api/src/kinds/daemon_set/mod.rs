//! DaemonSets.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::{shown_selector, validate_selector};
use crate::kinds::numbers::{at_most_all, count, count_or_percent, not_negative};
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, SELECTOR};
use crate::kinds::pod_template::{
    default_template, is_empty_selector, validate_endless, validate_match, validate_selector_update,
    validate_template,
};
use crate::kinds::pod_warnings::template_warnings;
use crate::kinds::row::Row;
use crate::meta;
use crate::table::cell::{labels_text, number_cell, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{internal, set_default, set_zero_default, text};

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &["status"],
    schema: "api.apps.v1.DaemonSet",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        prepare_create,
        prepare_update,
        validate,
        own_required: true,
        warnings: template_warnings,
        validate_update: validate_selector_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::integer("Desired", |object, _| number_cell(&object["status"]["desiredNumberScheduled"])),
    Column::integer("Current", |object, _| number_cell(&object["status"]["currentNumberScheduled"])),
    Column::integer("Ready", |object, _| number_cell(&object["status"]["numberReady"])),
    Column::integer("Up-to-date", |object, _| number_cell(&object["status"]["updatedNumberScheduled"])),
    Column::integer("Available", |object, _| number_cell(&object["status"]["numberAvailable"])),
    Column::text("Node Selector", |object, _| {
        or_none(labels_text(&object["spec"]["template"]["spec"]["nodeSelector"]))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// The generation of the template as older versions of the API had it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_default(spec, "updateStrategy", json!({}));
    set_zero_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    default_template(spec);
    // The annotation is how this version writes a field.
    if generation_of(object).is_none() {
        set_template_generation(object, 1);
    }
}

fn generation_of(object: &Value) -> Option<i64> {
    object["metadata"]["annotations"][TEMPLATE_GENERATION].as_str()?.parse().ok()
}

fn prepare_create(object: &mut Value) {
    let generation = generation_of(object).unwrap_or_default().max(1);
    set_template_generation(object, generation);
}

/// The generation of the template follows the template; it is no field that a client sets.
fn prepare_update(new: &mut Value, old: &Value) {
    let generation = generation_of(old).unwrap_or_default();
    let changed = new["spec"]["template"] != old["spec"]["template"];
    set_template_generation(new, generation.saturating_add(i64::from(changed)));
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let metadata = meta::of_mut(object);
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (selector, at) = (&spec["selector"], path.child("selector"));
    let before = errors.0.len();
    validate_selector(selector, &at, errors);
    if errors.0.len() == before {
        validate_match(spec, &path, errors);
    }
    if is_empty_selector(selector) {
        errors.invalid(&at, &shown_selector(selector), "empty selector is invalid for daemonset");
    }
    validate_template(&spec["template"], &path.child("template"), errors);
    validate_endless(spec, "DaemonSet", &path, errors);
    not_negative(spec, &["minReadySeconds"], &path, errors);
    validate_strategy(&spec["updateStrategy"], &path.child("updateStrategy"), errors);
    not_negative(spec, &["revisionHistoryLimit"], &path, errors);
}

fn validate_strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    match text(&strategy["type"]) {
        "OnDelete" => return,
        "RollingUpdate" => {}
        _ => {
            // As upstream shows its internal type.
            let shown = json!({"Type": text(&strategy["type"]), "RollingUpdate": internal(&strategy["rollingUpdate"], &["maxUnavailable", "maxSurge"])});
            return errors.not_supported(path, &shown, &["OnDelete", "RollingUpdate"]);
        }
    }
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    for check in [count_or_percent, at_most_all] {
        for field in ["maxUnavailable", "maxSurge"] {
            check(&rolling[field], &at.child(field), errors);
        }
    }
    match (count(&rolling["maxUnavailable"]) == 0, count(&rolling["maxSurge"]) == 0) {
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&at.child("maxSurge"), &rolling["maxSurge"], detail);
        }
        (true, true) => errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
