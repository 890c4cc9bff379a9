//! Arithmetic of API times that cannot fail. PURE.
//!
//! Users and nodes write times and numbers of seconds up to the ends of their types; jiff's operators panic beyond the
//! year 9999. Here a result that is out of range is the nearest time that the API can carry, and a negative number of
//! seconds counts as none.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// `start` and `wait` later, at most [`Timestamp::MAX`].
#[must_use]
pub fn after(start: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| start.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX)
}

/// `start` and a user's number of seconds later, at most [`Timestamp::MAX`]; a negative number counts as 0.
#[must_use]
pub fn after_seconds(start: Timestamp, seconds: impl Into<i64>) -> Timestamp {
    after(start, seconds_of(seconds))
}

/// `start` and `wait` earlier, at least [`Timestamp::MIN`].
#[must_use]
pub fn before(start: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| start.checked_sub(wait).ok())
        .unwrap_or(Timestamp::MIN)
}

/// A user's number of seconds as a duration; a negative number counts as 0.
#[must_use]
pub fn seconds_of(seconds: impl Into<i64>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.into()).unwrap_or(0))
}

/// The time from `from` to `to`; zero if `to` is the earlier one.
#[must_use]
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// Nanoseconds as Go writes a duration: `1m31s`, `10.5s`, `2.5ms`.
#[must_use]
pub fn go_duration(nanoseconds: i64) -> String {
    let (sign, all) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let decimal = |value: u64, unit: u64, width: usize| match value % unit {
        0 => (value / unit).to_string(),
        rest => format!("{}.{}", value / unit, format!("{rest:0width$}").trim_end_matches('0')),
    };
    match all {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{sign}{all}ns"),
        1_000..1_000_000 => return format!("{sign}{}µs", decimal(all, 1_000, 3)),
        1_000_000..NANOSECONDS_IN_SECOND => return format!("{sign}{}ms", decimal(all, 1_000_000, 6)),
        _ => {}
    }
    let minutes = all / NANOSECONDS_IN_SECOND / 60;
    let seconds = decimal(all - minutes * 60 * NANOSECONDS_IN_SECOND, NANOSECONDS_IN_SECOND, 9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

const NANOSECONDS_IN_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times() -> impl Strategy<Value = Timestamp> {
        let (min, max) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        prop_oneof![
            Just(Timestamp::MIN),
            Just(Timestamp::MAX),
            Just(Timestamp::UNIX_EPOCH),
            (min..=max).prop_map(|s| Timestamp::from_second(s).unwrap()),
        ]
    }

    fn seconds() -> impl Strategy<Value = i64> {
        prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), Just(0), Just(300_000_000_000), any::<i64>()]
    }

    proptest! {
        #[test]
        fn arithmetic_keeps_order_and_never_panics(start in times(), other in times(), seconds in seconds()) {
            let later = after_seconds(start, seconds);
            prop_assert!(later >= start);
            prop_assert!(before(start, seconds_of(seconds)) <= start);
            prop_assert!(elapsed(start, other).is_zero() || other > start);
            if later < Timestamp::MAX {
                prop_assert_eq!(elapsed(start, later), seconds_of(seconds));
            }
        }
    }

    #[test]
    fn results_out_of_range_are_the_ends_of_the_range() {
        assert_eq!(after_seconds(Timestamp::UNIX_EPOCH, i64::MAX), Timestamp::MAX);
        assert_eq!(after(Timestamp::MAX, Duration::MAX), Timestamp::MAX);
        assert_eq!(before(Timestamp::UNIX_EPOCH, Duration::MAX), Timestamp::MIN);
        assert_eq!(after_seconds(Timestamp::UNIX_EPOCH, -5), Timestamp::UNIX_EPOCH);
        assert_eq!(after_seconds(Timestamp::UNIX_EPOCH, 5_i32), Timestamp::from_second(5).unwrap());
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (15, "15ns"),
            (2_500, "2.5µs"),
            (100_000_000, "100ms"),
            (10_000_000_000, "10s"),
            (10_250_000_000, "10.25s"),
            (60_000_000_000, "1m0s"),
            (-3_661_000_000_000, "-1h1m1s"),
        ] {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }
}
