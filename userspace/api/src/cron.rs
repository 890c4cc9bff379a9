//! Schedules of CronJobs: five fields, a descriptor or `@every`, with the errors of upstream's parser (robfig/cron v3), and the
//! next time that one means.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit, Zoned};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: &MONTHS },
    Bounds { min: 0, max: 6, names: &DAYS },
];
/// A schedule that means no time in so many years means none at all, such as the 30th of February.
const MAX_YEARS: i16 = 5;

/// The numbers of a field and their names; the first name is that of `min`.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

/// Why a text is no schedule, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSchedule(String);

/// When a CronJob runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The zone that the schedule itself names: `TZ=Europe/Berlin 0 4 * * *`.
    zone: Option<String>,
    times: Times,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    /// Whole seconds, at least one.
    Every(Duration),
    At(Fields),
}

/// Bit `n` of a field is set if it holds the number `n`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month and of the week are both restricted: then either is enough.
    either_day: bool,
}

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule, BadSchedule> {
        if text.is_empty() {
            return Err(BadSchedule("empty spec string".to_owned()));
        }
        let (zone, spec) = match text.split_once(' ') {
            Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => {
                (zone.split_once('=').map(|(_, name)| name.to_owned()), rest.trim())
            }
            _ => (None, text),
        };
        let times = match spec.strip_prefix("@every ") {
            Some(span) => Times::Every(
                duration(span)
                    .map_err(|why| BadSchedule(format!("failed to parse duration {spec}: time: {why}")))?,
            ),
            None if spec.starts_with('@') => {
                let known = DESCRIPTORS.iter().find(|(name, _)| *name == spec);
                let (_, fields) =
                    known.ok_or_else(|| BadSchedule(format!("unrecognized descriptor: {spec}")))?;
                Times::At(Fields::parse(fields)?)
            }
            None => Times::At(Fields::parse(spec)?),
        };
        Ok(Schedule { zone, times })
    }

    /// The zone that the schedule itself names.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The first time after `after`, by the wall clocks of a zone. A time that a clock skips is left out; one that it repeats
    /// is met twice. `None` if there is none in five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        match &self.times {
            Times::Every(span) => second.checked_add(*span).ok(),
            Times::At(fields) => {
                let start = second.checked_add(Span::new().seconds(1)).ok()?;
                fields.first_from(start.to_zoned(zone.clone())).map(|found| found.timestamp())
            }
        }
    }
}

impl Fields {
    fn parse(spec: &str) -> Result<Fields, BadSchedule> {
        let texts: Vec<&str> = spec.split_whitespace().collect();
        if texts.len() != FIELDS.len() {
            return Err(BadSchedule(format!(
                "expected exactly 5 fields, found {}: [{}]",
                texts.len(),
                texts.join(" ")
            )));
        }
        let mut parsed = [(0, false); FIELDS.len()];
        for ((text, bounds), field) in texts.iter().zip(&FIELDS).zip(&mut parsed) {
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let (bits, is_star) = range(part, bounds)?;
                *field = (field.0 | bits, field.1 || is_star);
            }
        }
        let [(minutes, _), (hours, _), (days, every_day), (months, _), (weekdays, every_weekday)] = parsed;
        Ok(Fields { minutes, hours, days, months, weekdays, either_day: !every_day && !every_weekday })
    }

    fn has_day(&self, at: &Zoned) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }

    /// Goes from the largest unit to the smallest, and begins again when a unit overflows into a larger one.
    fn first_from(&self, start: Zoned) -> Option<Zoned> {
        let last_year = start.year().saturating_add(MAX_YEARS);
        let mut at = start;
        while at.year() <= last_year {
            if !has(self.months, at.month()) {
                at = midnight(&at.first_of_month().ok()?.checked_add(Span::new().months(1)).ok()?)?;
            } else if !self.has_day(&at) {
                at = midnight(&at.checked_add(Span::new().days(1)).ok()?)?;
            } else if !has(self.hours, at.hour()) {
                // An hour of the time line, not of the clock: a skipped hour is never met.
                at = start_of(&at, Unit::Hour)?.checked_add(Span::new().hours(1)).ok()?;
            } else if !has(self.minutes, at.minute()) || at.second() != 0 {
                at = start_of(&at, Unit::Minute)?.checked_add(Span::new().minutes(1)).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits & 1u64.checked_shl(number).unwrap_or(0) != 0)
}

/// The first moment of a day.
fn midnight(at: &Zoned) -> Option<Zoned> {
    at.with().time(Time::midnight()).build().ok()
}

/// The begin of the hour or minute, on the time line: of the second one of two hours of one name, if it is that.
fn start_of(at: &Zoned, unit: Unit) -> Option<Zoned> {
    let mut past = i64::from(at.second());
    if unit == Unit::Hour {
        past += 60 * i64::from(at.minute());
    }
    at.checked_sub(Span::new().seconds(past)).ok()
}

/// The numbers of a part of a field, and whether it is a star without steps.
fn range(part: &str, bounds: &Bounds) -> Result<(u64, bool), BadSchedule> {
    let (spans, steps): (Vec<&str>, Vec<&str>) =
        (part.split('/').next().unwrap_or_default().split('-').collect(), part.split('/').collect());
    let first = spans.first().copied().unwrap_or_default();
    let is_star = matches!(first, "*" | "?");
    let (start, mut end) = if is_star {
        (bounds.min, bounds.max)
    } else {
        let start = number(first, bounds)?;
        match spans.as_slice() {
            [_] => (start, start),
            [_, end] => (start, number(end, bounds)?),
            _ => return Err(BadSchedule(format!("too many hyphens: {part}"))),
        }
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            if spans.len() == 1 {
                end = bounds.max;
            }
            integer(step)?
        }
        _ => return Err(BadSchedule(format!("too many slashes: {part}"))),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        return Err(BadSchedule(format!("beginning of range ({start}) below minimum ({min}): {part}")));
    }
    if end > max {
        return Err(BadSchedule(format!("end of range ({end}) above maximum ({max}): {part}")));
    }
    if start > end {
        return Err(BadSchedule(format!("beginning of range ({start}) beyond end of range ({end}): {part}")));
    }
    if step == 0 {
        return Err(BadSchedule(format!("step of range should be a positive number: {part}")));
    }
    let numbers = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok((numbers.fold(0, |bits, number| bits | 1 << number), is_star && step == 1))
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, BadSchedule> {
    match (bounds.min..).zip(bounds.names).find(|(_, name)| text.eq_ignore_ascii_case(name)) {
        Some((number, _)) => Ok(number),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, BadSchedule> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => {
            Err(BadSchedule(format!("negative number ({number}) not allowed: {text}")))
        }
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(BadSchedule(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"
        ))),
    }
}

/// Go's durations, such as `1h30m` or `1.5s`; less than a second is a second.
fn duration(text: &str) -> Result<Duration, BadSchedule> {
    let invalid = || BadSchedule(format!("invalid duration {text:?}"));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" if text.trim_start_matches(['+', '-']) == "0" => 0.0,
                "" => return Err(BadSchedule(format!("missing unit in duration {text:?}"))),
                other => return Err(BadSchedule(format!("unknown unit {other:?} in duration {text:?}"))),
            };
        rest = after;
    }
    // Go's durations end at 292 years.
    if seconds > i64::MAX as f64 * 1e-9 {
        return Err(invalid());
    }
    let seconds = if negative { 0.0 } else { seconds };
    Ok(Duration::from_secs((seconds as u64).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_upstream_reads_them() {
        for good in [
            "* * * * *",
            "*/5 1-3 1,15 jan-mar MON",
            "@daily",
            "@every 1h30m",
            "0 0 ? * 6",
            "5/10 * * * *",
            "@every 1.5h",
            "TZ=Europe/Berlin 0 4 * * *",
            "@every 0",
        ] {
            assert!(Schedule::parse(good).is_ok(), "{good}: {:?}", Schedule::parse(good));
        }
        let mut failed = Vec::new();
        for (bad, wanted) in [
            ("", "empty spec string"),
            ("sometimes", "expected exactly 5 fields, found 1: [sometimes]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("* x * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every 5x", "failed to parse duration @every 5x: time: unknown unit \"x\" in duration \"5x\""),
        ] {
            let found = Schedule::parse(bad).err().map(|error| error.to_string());
            if found.as_deref() != Some(wanted) {
                failed.push(format!("{bad}: wanted {wanted}, found {found:?}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    /// The times after a moment, as text in the zone; `-` where there is none.
    fn times(schedule: &str, zone: &str, after: &str, count: usize) -> String {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), TimeZone::get(zone).unwrap());
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            match schedule.next(at, &zone) {
                Some(next) => {
                    assert!(next > at, "{next} is not after {at}");
                    found.push(next.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
                    at = next;
                }
                None => found.push("-".to_owned()),
            }
        }
        found.join(" ")
    }

    #[test]
    fn the_next_time_is_the_first_that_all_fields_hold() {
        for (schedule, after, wanted) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00+00:00"),
            ("* * * * *", "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00+00:00"),
            ("0 0 1 1 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00+00:00"),
            ("59 23 31 12 *", "2026-12-31T23:58:59Z", "2026-12-31T23:59:00+00:00"),
            ("*/15 * * * *", "2026-07-04T10:46:00Z", "2026-07-04T11:00:00+00:00"),
            ("0 9 * * MON-FRI", "2026-07-03T09:00:00Z", "2026-07-06T09:00:00+00:00"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00+00:00"),
            // Both days are restricted: either is enough.
            ("0 0 13 * FRI", "2026-07-01T00:00:00Z", "2026-07-03T00:00:00+00:00"),
            ("0 0 13 * FRI", "2026-07-10T00:00:00Z", "2026-07-13T00:00:00+00:00"),
            // A star with steps is a restriction.
            ("0 0 */2 * FRI", "2026-07-03T00:00:00Z", "2026-07-05T00:00:00+00:00"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "-"),
            ("@every 90s", "2026-01-01T00:00:00.7Z", "2026-01-01T00:01:30+00:00"),
            ("@every 10ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01+00:00"),
            ("@weekly", "2026-07-04T10:46:00Z", "2026-07-05T00:00:00+00:00"),
        ] {
            assert_eq!(times(schedule, "UTC", after, 1), wanted, "{schedule} after {after}");
        }
    }

    #[test]
    fn a_skipped_hour_has_no_times_and_a_repeated_one_has_them_twice() {
        let berlin = |schedule: &str, after: &str, count| times(schedule, "Europe/Berlin", after, count);
        // 2026-03-29: from 02:00 to 03:00.
        assert_eq!(
            berlin("30 2 * * *", "2026-03-28T12:00:00Z", 2),
            "2026-03-30T02:30:00+02:00 2026-03-31T02:30:00+02:00"
        );
        assert_eq!(
            berlin("0 * 29 3 *", "2026-03-29T00:00:00Z", 2),
            "2026-03-29T03:00:00+02:00 2026-03-29T04:00:00+02:00"
        );
        // 2026-10-25: from 03:00 back to 02:00.
        assert_eq!(
            berlin("30 2 25 10 *", "2026-10-24T12:00:00Z", 2),
            "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00"
        );
        // In this zone, midnight itself is skipped on 2026-09-06.
        assert_eq!(
            times("0 12 * * *", "America/Santiago", "2026-09-05T20:00:00Z", 1),
            "2026-09-06T12:00:00-03:00"
        );
    }
}
