//! Timestamps and durations: their notations, arithmetic and parts.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::args::{go_quoted, text};
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::moment::Moment;
use crate::cel::types::Type;
use crate::cel::values::{Value, failed, no_overload};

type Made<'a> = Result<Value<'a>, CelError>;

pub(super) fn declare(table: &mut Table) {
    let parts: [(&str, &str, &str, Implementation); 10] = [
        ("getFullYear", "timestamp_to_year", "timestamp_to_year_with_tz", |args| {
            part(args, |at| i64::from(at.year()))
        }),
        ("getMonth", "timestamp_to_month", "timestamp_to_month_with_tz", |args| {
            part(args, |at| i64::from(at.month()) - 1)
        }),
        ("getDayOfYear", "timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz", |args| {
            part(args, |at| i64::from(at.day_of_year()) - 1)
        }),
        ("getDayOfMonth", "timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz", |args| {
            part(args, |at| i64::from(at.day()) - 1)
        }),
        (
            "getDate",
            "timestamp_to_day_of_month_1_based",
            "timestamp_to_day_of_month_1_based_with_tz",
            |args| part(args, |at| i64::from(at.day())),
        ),
        ("getDayOfWeek", "timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz", |args| {
            part(args, |at| i64::from(at.weekday().to_sunday_zero_offset()))
        }),
        ("getHours", "timestamp_to_hours", "timestamp_to_hours_with_tz", |args| {
            part(args, |at| i64::from(at.hour()))
        }),
        ("getMinutes", "timestamp_to_minutes", "timestamp_to_minutes_with_tz", |args| {
            part(args, |at| i64::from(at.minute()))
        }),
        ("getSeconds", "timestamp_to_seconds", "timestamp_to_seconds_tz", |args| {
            part(args, |at| i64::from(at.second()))
        }),
        ("getMilliseconds", "timestamp_to_milliseconds", "timestamp_to_milliseconds_with_tz", |args| {
            part(args, |at| i64::from(at.millisecond()))
        }),
    ];
    for (function, plain, with_zone, call) in parts {
        table.member(function, plain, [Type::Timestamp], Type::Int, call);
        table.member(function, with_zone, [Type::Timestamp, Type::String], Type::Int, call);
    }
    let spans: [(&str, &str, Implementation); 4] = [
        ("getHours", "duration_to_hours", |args| whole(args, 3_600_000_000_000)),
        ("getMinutes", "duration_to_minutes", |args| whole(args, 60_000_000_000)),
        ("getSeconds", "duration_to_seconds", |args| whole(args, 1_000_000_000)),
        ("getMilliseconds", "duration_to_milliseconds", |args| whole(args, 1_000_000)),
    ];
    for (function, id, call) in spans {
        table.member(function, id, [Type::Duration], Type::Int, call);
    }
}

fn part<'a>(args: &[Value<'a>], read: fn(DateTime) -> i64) -> Made<'a> {
    let Some(Value::Timestamp(at)) = args.first() else { return no_overload() };
    let zone = match args {
        [_] => TimeZone::UTC,
        _ => zone(text(args, 1)?)?,
    };
    Ok(Value::Int(read(at.in_zone(&zone))))
}

fn whole<'a>(args: &[Value<'a>], unit: i64) -> Made<'a> {
    match args {
        [Value::Duration(span)] => Ok(Value::Int(span / unit)),
        _ => no_overload(),
    }
}

/// A zone by its name, or an offset such as `+02:30`.
fn zone(name: &str) -> Result<TimeZone, CelError> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return match name {
            "" | "UTC" => Ok(TimeZone::UTC),
            name => TimeZone::get(name).or_else(|_| failed(format!("unknown time zone {name}"))),
        };
    };
    let number = |text: &str| -> Result<i32, CelError> {
        text.parse().or_else(|_| failed(format!("strconv.Atoi: parsing {}: invalid syntax", go_quoted(text))))
    };
    let (hour, minute) = (number(hours)?, number(minutes)?);
    let minutes = hour.saturating_mul(60);
    let minutes =
        if hours.starts_with('-') { minutes.saturating_sub(minute) } else { minutes.saturating_add(minute) };
    match Offset::from_seconds(minutes.saturating_mul(60)) {
        Ok(offset) => Ok(TimeZone::fixed(offset)),
        Err(_) => failed(format!("unknown time zone {name}")),
    }
}

/// A moment and a span later.
pub(super) fn later<'a>(at: Moment, nanos: i64) -> Made<'a> {
    match Moment::of_nanos(at.nanos() + i128::from(nanos)) {
        Some(at) => Ok(Value::Timestamp(at)),
        None => failed("timestamp overflow"),
    }
}

/// A duration in seconds: `5400s`, `1.5s`.
pub(super) fn seconds_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    match rest {
        0 => format!("{sign}{seconds}s"),
        rest => format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0')),
    }
}
