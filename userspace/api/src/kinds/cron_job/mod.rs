//! CronJobs.

use jiff::Timestamp;
use jiff::tz::TimeZone;
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
    strategy: Strategy {
        generation: true,
        default,
        validate,
        own_required: true,
        validate_create: |object, errors| validate_time_zone(object, &Value::Null, errors),
        validate_update: validate_time_zone,
        ..Strategy::NONE
    },
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
    one_of(spec, "concurrencyPolicy", &path, &["Allow", "Forbid", "Replace"], errors);
    let template = path.child("jobTemplate");
    if !spec["jobTemplate"]["spec"]["selector"].is_null() {
        let at = template.child("spec").child("selector");
        errors.invalid(&at, &spec["jobTemplate"]["spec"]["selector"], "`selector` will be auto-generated");
    }
    job::validate_job_spec(&spec["jobTemplate"]["spec"], &template.child("spec"), errors);
}

/// An unknown zone that a CronJob has already may stay.
fn validate_time_zone(new: &Value, old: &Value, errors: &mut Errors) {
    let (zone, path) = (&new["spec"]["timeZone"], Path::new("spec").child("timeZone"));
    let Some(name) = zone.as_str().filter(|_| *zone != old["spec"]["timeZone"]) else { return };
    let part = |part: &str| {
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'+');
        (1..=14).contains(&part.len())
            && part.bytes().all(is_allowed)
            && !part.starts_with('-')
            && !matches!(part, "." | "..")
    };
    if name.is_empty() {
        errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(&path, zone, detail);
    } else if !name.split('/').all(part) || !is_zone(name) {
        errors.invalid(&path, zone, &format!("unknown time zone {name}"));
    }
}

/// Whether the machine's database has the zone by this very name; one without a database knows none, and refuses none.
fn is_zone(name: &str) -> bool {
    let found = TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name));
    found || jiff::tz::db().is_definitively_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(new: &Value, old: &Value) -> Vec<String> {
        let mut errors = Errors::default();
        validate_time_zone(new, old, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_time_zone_is_one_of_the_database() {
        let cron = |zone: &str| json!({"spec": {"timeZone": zone}});
        for zone in ["UTC", "Etc/UTC", "Europe/Berlin", "Etc/GMT+5", "America/Argentina/Buenos_Aires"] {
            assert_eq!(problems(&cron(zone), &Value::Null), [""; 0], "{zone}");
        }
        for zone in [
            "bad-time-zone",
            "europe/berlin",
            "Europe/../UTC",
            "Europe//Berlin",
            "-UTC",
            "Europe/BerlinBerlinBer",
        ] {
            let expected = format!("spec.timeZone: Invalid value: {zone:?}: unknown time zone {zone}");
            assert_eq!(problems(&cron(zone), &Value::Null), [expected]);
            assert_eq!(problems(&cron(zone), &cron(zone)), [""; 0], "{zone} stays");
        }
        assert_eq!(problems(&cron("LOCAL"), &cron("UTC")).len(), 1);
    }
}
