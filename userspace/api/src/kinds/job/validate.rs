//! Checks of a Job's specification; CronJobs hold one too.

use serde_json::{Value, json};

use super::selector;
use super::success_policy::validate_success_policy;
use crate::field::{Errors, Path};
use crate::kinds::label_selector::validate_selector;
use crate::kinds::numbers::not_negative;
use crate::kinds::pod_template::{validate_match, validate_template};
use crate::kinds::prefixed_path::validate_prefixed_path;
use crate::meta;
use crate::names;
use crate::value::{immutable, internal, items, one_of, text};

/// Parallelism of an indexed Job.
const MAX_PARALLELISM: i64 = 100_000;
/// Above this many completions, [`MAX_PARALLELISM_OF_MANY`] applies with a backoff limit per index.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_FAILURE_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
const MAX_MANAGER_LENGTH: usize = 63;

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    selector::validate(object, errors);
    validate_job_spec(spec, &path, errors);
    let at = path.child("selector");
    if spec["selector"].is_null() {
        errors.required(&at, "");
    }
    let before = errors.0.len();
    validate_selector(&spec["selector"], &at, errors);
    if errors.0.len() == before {
        validate_match(spec, &path, errors);
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

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
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
    // An indexed Job may change its completions together with its parallelism (elastic Jobs).
    let elastic = new["completionMode"] == "Indexed" && new["completions"] == new["parallelism"];
    if !elastic {
        immutable(&new["completions"], &old["completions"], &path.child("completions"), errors);
    }
    if old["suspend"] != true {
        immutable(&new["template"], &old["template"], &path.child("template"), errors);
    }
}

pub(crate) fn validate_job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
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
    if let Some(manager) = spec["managedBy"].as_str() {
        let at = path.child("managedBy");
        validate_prefixed_path(manager, &at, errors);
        if manager.len() > MAX_MANAGER_LENGTH {
            errors.too_long(&at, MAX_MANAGER_LENGTH);
        }
    }
    one_of(spec, "completionMode", path, &["NonIndexed", "Indexed"], errors);
    match spec["completionMode"].as_str() {
        Some("Indexed") => validate_indexed(spec, path, errors),
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    errors.invalid(&path.child(field), &spec[field], "requires indexed completion mode");
                }
            }
        }
        Some(_) => {}
    }
    validate_failure_policy(spec, &path.child("podFailurePolicy"), errors);
    if spec["completionMode"] == "Indexed" {
        validate_success_policy(spec, &path.child("successPolicy"), errors);
    } else if spec["successPolicy"].is_object() {
        let shown = json!({"Rules": items(&spec["successPolicy"], "rules").map(|rule| internal(rule, &["succeededIndexes", "succeededCount"])).collect::<Vec<_>>()});
        errors.invalid(&path.child("successPolicy"), &shown, "requires indexed completion mode");
    }
    let replacement: &[&str] =
        if spec["podFailurePolicy"].is_null() { &["Failed", "TerminatingOrFailed"] } else { &["Failed"] };
    one_of(spec, "podReplacementPolicy", path, replacement, errors);
    validate_template(&spec["template"], &path.child("template"), errors);
    validate_restart(spec, &path.child("template").child("spec").child("restartPolicy"), errors);
}

/// The pods of a Job end.
fn validate_restart(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match policy.as_str() {
        None | Some("" | "Always") => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        Some("OnFailure") if !spec["podFailurePolicy"].is_null() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(path, policy, detail);
        }
        Some("OnFailure" | "Never") => {}
        Some(_) => errors.not_supported(path, policy, &["OnFailure", "Never"]),
    }
}

fn validate_indexed(spec: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| spec[field].as_i64();
    if number("completions").is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if number("parallelism").is_some_and(|count| count > MAX_PARALLELISM) {
        let detail =
            format!("must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed");
        errors.invalid(&path.child("parallelism"), &spec["parallelism"], &detail);
    }
    if let (Some(failed), Some(all)) = (number("maxFailedIndexes"), number("completions"))
        && failed > all
    {
        let detail = "must be less than or equal to completions";
        errors.invalid(&path.child("maxFailedIndexes"), &spec["maxFailedIndexes"], detail);
    }
    let many = number("completions").is_some_and(|count| count > MANY_COMPLETIONS)
        && number("backoffLimitPerIndex").is_some();
    if many && number("maxFailedIndexes").is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(&path.child("maxFailedIndexes"), &detail);
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        if many && number(field).is_some_and(|count| count > MAX_PARALLELISM_OF_MANY) {
            let detail = format!(
                "must be less than or equal to {MAX_PARALLELISM_OF_MANY} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            errors.invalid(&path.child(field), &spec[field], &detail);
        }
    }
}

fn validate_failure_policy(spec: &Value, path: &Path, errors: &mut Errors) {
    let rules = path.child("rules");
    let count = items(&spec["podFailurePolicy"], "rules").count();
    if count > MAX_FAILURE_RULES {
        errors.too_many(&rules, count, MAX_FAILURE_RULES);
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
        if rule["onExitCodes"].is_object() {
            validate_exit_codes(spec, &rule["onExitCodes"], &at.child("onExitCodes"), errors);
        }
        validate_conditions(rule, &at.child("onPodConditions"), errors);
        match (rule["onExitCodes"].is_object(), conditions) {
            (true, true) => {
                errors.invalid_whole(&at, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, false) => {
                errors.invalid_whole(&at, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

fn validate_conditions(rule: &Value, path: &Path, errors: &mut Errors) {
    let count = items(rule, "onPodConditions").count();
    if count > MAX_CONDITIONS {
        errors.too_many(path, count, MAX_CONDITIONS);
    }
    for (i, pattern) in items(rule, "onPodConditions").enumerate() {
        let at = path.index(i);
        names::validate_name(text(&pattern["type"]), names::NameForm::LabelKey, &at.child("type"), errors);
        match text(&pattern["status"]) {
            "" => errors.required(&at.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
            _ => one_of(pattern, "status", &at, &["False", "True", "Unknown"], errors),
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
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(&at, values.len(), MAX_EXIT_CODES);
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
