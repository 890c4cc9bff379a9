//! Deployments, ReplicaSets, StatefulSets, DaemonSets: what keeps pods of a template.

use serde_json::{Value, json};

use super::containers::{default_spec, one_of, validate_spec};
use super::numbers::{count_or_percent, is_zero, not_negative};
use crate::field::{Errors, Path};
use crate::names;
use crate::selector::LabelSelector;
use crate::value::{immutable, set_default};

pub(super) fn default_deployment(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "replicas", 1);
    set_default(spec, "strategy", json!({}));
    set_default(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["strategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    default_template(spec);
}

pub(super) fn default_replica_set(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "replicas", 1);
        default_template(spec);
    }
}

pub(super) fn default_replication_controller(object: &mut Value) {
    default_replica_set(object);
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["spec"].is_object() {
        set_default(&mut object["spec"], "selector", labels);
    }
}

pub(super) fn default_stateful_set(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "replicas", 1);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "updateStrategy", json!({}));
    set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    set_default(spec, "persistentVolumeClaimRetentionPolicy", retain);
    default_template(spec);
}

pub(super) fn default_daemon_set(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "updateStrategy", json!({}));
    set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    default_template(spec);
}

pub(super) fn default_template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template").and_then(|template| template.get_mut("spec")) {
        default_spec(template);
    }
}

pub(super) fn validate_deployment(object: &Value, errors: &mut Errors) {
    validate_replicas_and_template(object, errors);
    let (strategy, path) = (&object["spec"]["strategy"], Path::new("spec").child("strategy"));
    one_of(strategy, "type", &path, &["Recreate", "RollingUpdate"], errors);
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        errors.forbidden(
            &path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        );
    }
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    for field in ["maxUnavailable", "maxSurge"] {
        // More than all may be added.
        if field == "maxUnavailable" || !rolling[field].is_string() {
            count_or_percent(&rolling[field], &at.child(field), errors);
        }
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&at.child("maxUnavailable"), &rolling["maxUnavailable"], detail);
    }
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(
        spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        &path,
        errors,
    );
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64());
    if deadline.is_some_and(|deadline| deadline <= ready.unwrap_or(0)) {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid(&at, &spec["progressDeadlineSeconds"], "must be greater than minReadySeconds");
    }
}

pub(super) fn validate_stateful_set(object: &Value, errors: &mut Errors) {
    validate_replicas_and_template(object, errors);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let policy = &spec["podManagementPolicy"];
    if !matches!(policy.as_str(), Some("OrderedReady" | "Parallel")) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid(&path.child("podManagementPolicy"), policy, detail);
    }
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match strategy["type"].as_str() {
        Some("OnDelete") if !strategy["rollingUpdate"].is_null() => errors.invalid(
            &at.child("rollingUpdate"),
            &strategy["rollingUpdate"],
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        Some("OnDelete") => {}
        Some("RollingUpdate") => {
            let (rolling, at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
            not_negative(rolling, &["partition"], &at, errors);
            count_or_percent(&rolling["maxUnavailable"], &at.child("maxUnavailable"), errors);
            if is_zero(&rolling["maxUnavailable"]) {
                errors.invalid(&at.child("maxUnavailable"), &rolling["maxUnavailable"], "cannot be 0");
            }
        }
        _ => errors.invalid(&at, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        one_of(
            &spec["persistentVolumeClaimRetentionPolicy"],
            field,
            &retention,
            &["Delete", "Retain"],
            errors,
        );
    }
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    not_negative(&spec["ordinals"], &["start"], &path.child("ordinals"), errors);
}

/// What may change of a StatefulSet.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn validate_stateful_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |object: &Value| {
        let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&Path::new("spec"), detail);
    }
}

pub(super) fn validate_daemon_set(object: &Value, errors: &mut Errors) {
    validate_template_and_selector(object, errors);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    one_of(strategy, "type", &at, &["OnDelete", "RollingUpdate"], errors);
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let (rolling, at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
    for field in ["maxUnavailable", "maxSurge"] {
        count_or_percent(&rolling[field], &at.child(field), errors);
    }
    match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&at.child("maxSurge"), &rolling["maxSurge"], detail);
        }
        (true, true) => errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
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

/// The selector must select what the template makes.
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
    validate_spec(&spec["template"]["spec"], &template.child("spec"), &["Always"], errors);
}

pub(super) fn validate_selector_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("selector");
    immutable(&new["spec"]["selector"], &old["spec"]["selector"], &path, errors);
}
