//! CronJobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cron::Schedule;
use crate::field::{Errors, Path};
use crate::kinds::job;
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::not_negative;
use crate::kinds::pod_template::default_template;
use crate::kinds::row::Row;
use crate::meta;
use crate::table::cell::{NONE, UNSET, container_images, container_names, selector_text, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME, age_of};
use crate::value::{items, one_of, set_default};

/// A Job's name is its CronJob's name plus eleven characters.
const MAX_NAME_LENGTH: usize = 52;

pub(super) const ROW: Row = Row {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    subresources: &["status"],
    schema: "api.batch.v1.CronJob",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, own_required: true, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Schedule", |object, _| text_cell(&object["spec"]["schedule"])),
    Column::text("Timezone", |object, _| text_or(&object["spec"]["timeZone"], NONE).into()),
    Column::boolean("Suspend", suspend),
    Column::integer("Active", |object, _| items(&object["status"], "active").count().into()),
    Column::text("Last Schedule", last_schedule),
    AGE,
    Column::wide("Containers", |object, _| {
        container_names(&object["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    }),
    Column::wide("Images", |object, _| {
        container_images(&object["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    }),
    Column::wide("Selector", job_selector),
];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_default(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(spec) = spec.get_mut("jobTemplate").and_then(|template| template.get_mut("spec")) {
        default_template(spec);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if meta::name(object).len() > MAX_NAME_LENGTH {
        let at = Path::new("metadata").child("name");
        errors.invalid(&at, &object["metadata"]["name"], "must be no more than 52 characters");
    }
    let schedule = spec["schedule"].as_str().unwrap_or_default();
    if schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else if let Err(problem) = Schedule::parse(schedule) {
        errors.invalid(&path.child("schedule"), &spec["schedule"], &problem.to_string());
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
    job::validate_job_spec(&spec["jobTemplate"]["spec"], &template.child("spec"), errors);
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

fn last_schedule(object: &Value, now: Timestamp) -> Value {
    match &object["status"]["lastScheduleTime"] {
        Value::Null => NONE.into(),
        time => age_of(time, now).into(),
    }
}

fn suspend(object: &Value, _: Timestamp) -> Value {
    match object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    }
    .into()
}

fn job_selector(object: &Value, _: Timestamp) -> Value {
    match selector_text(&object["spec"]["jobTemplate"]["spec"]["selector"]) {
        text if text.is_empty() => NONE.into(),
        text => text.into(),
    }
}
