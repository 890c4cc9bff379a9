//! Moments of the years 1 to 9999, and durations. jiff's own type of moments ends a day earlier.

use std::fmt;

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
const SECOND: i128 = 1_000_000_000;
/// The first and the last second.
const SECONDS: std::ops::RangeInclusive<i128> = -62_135_596_800..=253_402_300_799;

/// Nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i128);

impl Moment {
    /// `None` outside the years.
    pub(super) fn of_nanos(nanos: i128) -> Option<Moment> {
        SECONDS.contains(&nanos.div_euclid(SECOND)).then_some(Moment(nanos))
    }

    pub(super) fn of_seconds(seconds: i64) -> Option<Moment> {
        Moment::of_nanos(i128::from(seconds) * SECOND)
    }

    pub(super) fn nanos(self) -> i128 {
        self.0
    }

    pub(super) fn seconds(self) -> i64 {
        i64::try_from(self.0.div_euclid(SECOND)).unwrap_or(i64::MAX)
    }

    /// Whether it is the first moment of year 1.
    pub(super) fn is_zero(self) -> bool {
        self.0 == SECONDS.start() * SECOND
    }

    /// Date and time of day, so many seconds east of Greenwich.
    fn civil(self, offset: i64) -> DateTime {
        let nanos = i32::try_from(self.0.rem_euclid(SECOND)).unwrap_or(0);
        let since = SignedDuration::new(self.seconds().saturating_add(offset), nanos);
        EPOCH.checked_add(since).unwrap_or(DateTime::MAX)
    }

    /// Date and time of day in a zone.
    pub(super) fn in_zone(self, zone: &TimeZone) -> DateTime {
        let nearest = Timestamp::from_nanosecond(self.0).unwrap_or(Timestamp::MAX);
        self.civil(i64::from(zone.to_offset(nearest).seconds()))
    }

    /// Parses RFC 3339 as strictly as Go does.
    pub(super) fn parse(text: &str) -> Option<Moment> {
        let bytes = text.as_bytes();
        let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        let is_form = |at: usize| match marks.iter().find(|(mark, _)| *mark == at) {
            Some((_, mark)) => bytes.get(at) == Some(mark),
            None => bytes.get(at).is_some_and(u8::is_ascii_digit),
        };
        if !(0..19).all(is_form) || &bytes[17..19] > b"59".as_slice() {
            return None;
        }
        let (plain, rest) = text.split_at_checked(19)?;
        let (fraction, zone) = match rest.strip_prefix(['.', ',']) {
            Some(digits) => digits.split_at(digits.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", rest),
        };
        if fraction.is_empty() && rest.starts_with(['.', ',']) {
            return None;
        }
        let offset = offset(zone)?;
        let since = plain.parse::<DateTime>().ok()?.duration_since(EPOCH);
        let fraction: i128 = format!("{:0<9}", fraction.get(..fraction.len().min(9))?).parse().ok()?;
        Moment::of_nanos((i128::from(since.as_secs()) - i128::from(offset)) * SECOND + fraction)
    }
}

/// The seconds east of Greenwich of `Z` or `+02:00`.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let digits = zone.strip_prefix(['+', '-'])?;
    let (hours, minutes) = digits.split_once(':')?;
    let number = |text: &str, most: i64| {
        let is_plain = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| is_plain && *number <= most)
    };
    let seconds = number(hours, 24)? * 3_600 + number(minutes, 60)? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// RFC 3339 with as many digits of the second as it needs.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", self.civil(0))
    }
}

/// Parses a duration as Go does: numbers with units from `h` to `ns`. In nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let units = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(units);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let fraction = fraction.get(..fraction.len().min(15))?;
        if !fraction.is_empty() {
            let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            total = total.checked_add(fraction.parse::<i128>().ok()? * unit / scale)?;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}
