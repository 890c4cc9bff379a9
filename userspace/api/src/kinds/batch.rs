//! Jobs and CronJobs.

use serde_json::{Value, json};

use super::containers::{one_of, validate_spec};
use super::numbers::not_negative;
use super::{cron, workload};
use crate::field::{Errors, Path};
use crate::meta;
use crate::names;
use crate::selector::LabelSelector;
use crate::value::{immutable, items, items_mut, set_default};

/// Of an indexed Job, and of one with more completions than this.
const PARALLEL_MAX: i64 = 100_000;
const MANY: i64 = 100_000;
const PARALLEL_OF_MANY: i64 = 10_000;
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
/// A Job's name is its CronJob's and eleven characters more.
const CRON_NAME_MAX: usize = 52;

/// A Job without a selector gets one of its own uid, so that it can never adopt another's pods.
pub(super) fn default_job(object: &mut Value) {
    let (uid, name) = (meta::uid(object).to_owned(), meta::name(object).to_owned());
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["metadata"]["labels"].as_object().is_none_or(serde_json::Map::is_empty) {
        meta::of_mut(object).insert("labels".into(), labels);
    }
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    default_spec(spec);
    set_default(spec, "suspend", false);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "manualSelector", false);
    let policy = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    set_default(spec, "podReplacementPolicy", policy);
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
    workload::default_template(spec);
}

/// How often and how many at once, where the author left it open.
fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
    set_default(spec, "backoffLimit", limit);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            items_mut(rule, "onPodConditions").for_each(|pattern| set_default(pattern, "status", "True"));
        }
    }
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
    if let Some(spec) = spec.get_mut("jobTemplate").and_then(|template| template.get_mut("spec")) {
        workload::default_template(spec);
    }
}

pub(super) fn validate_job(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    validate_job_spec(spec, &path, errors);
    if spec["selector"].is_null() {
        errors.required(&path.child("selector"), "");
    } else if let Ok(Some(selector)) = LabelSelector::from_object(&spec["selector"]) {
        let labels = &spec["template"]["metadata"]["labels"];
        if !selector.matches(labels) {
            let at = path.child("template").child("metadata").child("labels");
            errors.invalid(&at, labels, "`selector` does not match template `labels`");
        }
    }
    let indexed = spec["completionMode"] == "Indexed";
    if let Some(count) = spec["completions"].as_i64().filter(|count| indexed && *count > 0) {
        let last = format!("{}-{}", meta::name(object), count - 1);
        if names::name_problem(&last, names::NameForm::Label).is_some() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::new("metadata").child("name"), &object["metadata"]["name"], &detail);
        }
    }
}

fn validate_job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    not_negative(spec, &counts, path, errors);
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    one_of(spec, "completionMode", path, &["Indexed", "NonIndexed"], errors);
    if spec["completionMode"] == "Indexed" {
        validate_indexed(spec, path, errors);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if !spec[field].is_null() {
                errors.invalid(&path.child(field), &spec[field], "requires indexed completion mode");
            }
        }
    }
    validate_failure_policy(spec, &path.child("podFailurePolicy"), errors);
    let replacement: &[&str] =
        if spec["podFailurePolicy"].is_null() { &["Failed", "TerminatingOrFailed"] } else { &["Failed"] };
    one_of(spec, "podReplacementPolicy", path, replacement, errors);
    validate_template(spec, path, errors);
}

fn validate_template(spec: &Value, path: &Path, errors: &mut Errors) {
    let (pod, at) = (&spec["template"]["spec"], path.child("template").child("spec"));
    let all = &["Always", "OnFailure", "Never"];
    validate_spec(pod, &at, all, errors);
    match pod["restartPolicy"].as_str() {
        None | Some("Always") => {
            errors.required(&at.child("restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
        }
        Some("OnFailure") if !spec["podFailurePolicy"].is_null() => errors.invalid(
            &at.child("restartPolicy"),
            &pod["restartPolicy"],
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        Some(_) => {}
    }
}

fn validate_indexed(spec: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| spec[field].as_i64();
    if number("completions").is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if number("parallelism").is_some_and(|count| count > PARALLEL_MAX) {
        let detail = format!("must be less than or equal to {PARALLEL_MAX} when completion mode is Indexed");
        errors.invalid(&path.child("parallelism"), &spec["parallelism"], &detail);
    }
    if let (Some(failed), Some(all)) = (number("maxFailedIndexes"), number("completions"))
        && failed > all
    {
        let detail = "must be less than or equal to completions";
        errors.invalid(&path.child("maxFailedIndexes"), &spec["maxFailedIndexes"], detail);
    }
    let many =
        number("completions").is_some_and(|count| count > MANY) && number("backoffLimitPerIndex").is_some();
    if many && number("maxFailedIndexes").is_none() {
        let detail = format!("must be specified when completions is above {MANY}");
        errors.required(&path.child("maxFailedIndexes"), &detail);
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        if many && number(field).is_some_and(|count| count > PARALLEL_OF_MANY) {
            let detail = format!(
                "must be less than or equal to {PARALLEL_OF_MANY} when completions are above {MANY} and used with backoff limit per index"
            );
            errors.invalid(&path.child(field), &spec[field], &detail);
        }
    }
    let policy = &spec["successPolicy"];
    if policy.is_object() && items(policy, "rules").next().is_none() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&path.child("successPolicy").child("rules"), detail);
    }
    for (i, rule) in items(policy, "rules").enumerate() {
        if rule["succeededCount"].is_null() && rule["succeededIndexes"].is_null() {
            let at = path.child("successPolicy").child("rules").index(i);
            errors.required(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
    }
}

fn validate_failure_policy(spec: &Value, path: &Path, errors: &mut Errors) {
    let rules = path.child("rules");
    let count = items(&spec["podFailurePolicy"], "rules").count();
    if count > RULES_MAX {
        errors.too_many(&rules, count, RULES_MAX);
    }
    for (i, rule) in items(&spec["podFailurePolicy"], "rules").enumerate() {
        let at = rules.index(i);
        match rule["action"].as_str() {
            None | Some("") => errors.required(
                &at.child("action"),
                "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            ),
            Some("FailIndex") if spec["backoffLimitPerIndex"].is_null() => errors.invalid(
                &at.child("action"),
                &rule["action"],
                "requires the backoffLimitPerIndex to be set",
            ),
            Some(_) => one_of(rule, "action", &at, &["Count", "FailIndex", "FailJob", "Ignore"], errors),
        }
        let conditions = items(rule, "onPodConditions").next().is_some();
        match (rule["onExitCodes"].is_object(), conditions) {
            (true, true) => {
                errors.invalid_whole(&at, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, false) => {
                errors.invalid_whole(&at, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
        if rule["onExitCodes"].is_object() {
            validate_exit_codes(spec, &rule["onExitCodes"], &at.child("onExitCodes"), errors);
        }
    }
}

fn validate_exit_codes(spec: &Value, codes: &Value, path: &Path, errors: &mut Errors) {
    match codes["operator"].as_str() {
        None | Some("") => errors.required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]"),
        Some(_) => one_of(codes, "operator", path, &["In", "NotIn"], errors),
    }
    let pod = &spec["template"]["spec"];
    let mut containers = items(pod, "containers").chain(items(pod, "initContainers"));
    if codes["containerName"].is_string() && !containers.any(|c| c["name"] == codes["containerName"]) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), &codes["containerName"], detail);
    }
    let values: Vec<i64> = items(codes, "values").filter_map(Value::as_i64).collect();
    let at = path.child("values");
    if values.is_empty() {
        errors.invalid(&at, &codes["values"], "at least one value is required");
    } else if values.len() > CODES_MAX {
        errors.too_many(&at, values.len(), CODES_MAX);
    }
    for (i, value) in values.iter().enumerate() {
        if *value == 0 && codes["operator"] == "In" {
            errors.invalid(&at.index(i), &json!(0), "must not be 0 for the In operator");
        }
        if values[..i].contains(value) {
            errors.duplicate(&at.index(i), &json!(value));
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at, &codes["values"], "must be ordered");
    }
}

pub(super) fn validate_job_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(&new[field], &old[field], &path.child(field), errors);
    }
    // An indexed Job may change its completions together with its parallelism.
    let elastic = new["completionMode"] == "Indexed" && new["completions"] == new["parallelism"];
    if !elastic {
        immutable(&new["completions"], &old["completions"], &path.child("completions"), errors);
    }
    if old["suspend"] != true {
        immutable(&new["template"], &old["template"], &path.child("template"), errors);
    }
}

pub(super) fn validate_cron_job(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if meta::name(object).len() > CRON_NAME_MAX {
        let at = Path::new("metadata").child("name");
        errors.invalid(&at, &object["metadata"]["name"], "must be no more than 52 characters");
    }
    let schedule = spec["schedule"].as_str().unwrap_or_default();
    if schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else if let Some(problem) = cron::problem(schedule) {
        errors.invalid(&path.child("schedule"), &spec["schedule"], &problem);
    } else if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&path.child("schedule"), &spec["schedule"], detail);
    }
    not_negative(
        spec,
        &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
        &path,
        errors,
    );
    validate_time_zone(&spec["timeZone"], &path.child("timeZone"), errors);
    one_of(spec, "concurrencyPolicy", &path, &["Allow", "Forbid", "Replace"], errors);
    let template = path.child("jobTemplate");
    if !spec["jobTemplate"]["spec"]["selector"].is_null() {
        let at = template.child("spec").child("selector");
        errors.invalid(&at, &spec["jobTemplate"]["spec"]["selector"], "`selector` will be auto-generated");
    }
    validate_job_spec(&spec["jobTemplate"]["spec"], &template.child("spec"), errors);
}

fn validate_time_zone(zone: &Value, path: &Path, errors: &mut Errors) {
    let Some(name) = zone.as_str() else { return };
    let part = |part: &str| {
        part.len() <= 14
            && part.bytes().enumerate().all(|(i, c)| {
                c.is_ascii_alphabetic()
                    || matches!(c, b'.' | b'_')
                    || i > 0 && matches!(c, b'-' | b'+' | b'0'..=b'9')
            })
    };
    if name.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if !name.split('/').all(part) || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        errors.invalid(path, zone, &format!("unknown time zone {name}"));
    } else if name.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
}
