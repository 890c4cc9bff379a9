//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs: what owns pod templates.

use serde_json::{Value, json};

use super::containers::{default_spec, one_of, validate_spec};
use super::{immutable, set_default};
use crate::field::{Errors, Path};
use crate::meta;
use crate::selector::LabelSelector;

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

/// A Job without a selector gets one of its own uid, so that it can never adopt another's pods.
pub(super) fn default_job(object: &mut Value) {
    let (uid, name) = (meta::uid(object).to_owned(), meta::name(object).to_owned());
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    set_default(spec, "backoffLimit", 6);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    if spec["manualSelector"] != true && spec["selector"].is_null() && !uid.is_empty() {
        spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        let labels = &mut spec["template"]["metadata"]["labels"];
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            labels[key] = value.as_str().into();
        }
    }
    default_template(spec);
}

pub(super) fn default_cron_job(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    default_template(&mut spec["jobTemplate"]["spec"]);
}

fn default_template(spec: &mut Value) {
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
    let zero = |value: &Value| matches!(value.as_i64(), Some(0)) || value == "0%";
    let rolling = &strategy["rollingUpdate"];
    if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let at = path.child("rollingUpdate").child("maxUnavailable");
        errors.invalid(&at, &rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0");
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
            errors.invalid(
                &path.child("selector"),
                &spec["selector"],
                "empty selector is invalid for deployment",
            );
        }
        Ok(Some(selector)) if !selector.matches(labels) => {
            let at = template.child("metadata").child("labels");
            errors.invalid(&at, labels, "`selector` does not match template `labels`");
        }
        Ok(Some(_)) => {}
        Err(bad) => errors.invalid(&path.child("selector"), &spec["selector"], &bad.0),
    }
    meta::validate_labels(labels, &template.child("metadata").child("labels"), errors);
    if spec["template"]["spec"].is_null() {
        errors.required(&template.child("spec").child("containers"), "");
    }
    validate_spec(&spec["template"]["spec"], &template.child("spec"), &["Always"], errors);
}

pub(super) fn validate_selector_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("selector");
    immutable(&new["spec"]["selector"], &old["spec"]["selector"], &path, errors);
}

pub(super) fn validate_job(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    for field in
        ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"]
    {
        if spec[field].as_i64().is_some_and(|n| n < 0) {
            errors.invalid(&path.child(field), &spec[field], "must be greater than or equal to 0");
        }
    }
    validate_spec(
        &spec["template"]["spec"],
        &path.child("template").child("spec"),
        &["OnFailure", "Never"],
        errors,
    );
    if spec["template"]["spec"]["restartPolicy"].is_null() && spec["template"]["spec"].is_object() {
        let at = path.child("template").child("spec").child("restartPolicy");
        errors.required(&at, "valid values: \"OnFailure\", \"Never\"");
    }
}

pub(super) fn validate_job_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_selector_update(new, old, errors);
    let path = Path::new("spec");
    immutable(
        &new["spec"]["completionMode"],
        &old["spec"]["completionMode"],
        &path.child("completionMode"),
        errors,
    );
    if old["spec"]["suspend"] != true {
        immutable(&new["spec"]["template"], &old["spec"]["template"], &path.child("template"), errors);
    }
}
