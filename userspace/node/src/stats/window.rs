//! PURE. CPU usage over a window of time, from two samples.

use std::time::Duration;

use jiff::Timestamp;

use super::cgroup::Usage;

/// CPU usage in billionths of a core over a window that ends with the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuRate {
    pub(crate) nano_cores: u64,
    pub(crate) window: Duration,
}

/// Shorter windows say little: the kernel accounts in ticks.
const MIN_WINDOW: Duration = Duration::from_millis(500);
/// Longer ones say nothing about now.
pub(super) const MAX_WINDOW: Duration = Duration::from_secs(60);

impl CpuRate {
    /// From the sample before to this one. Without one before, a container's time begins with its start. `None`: there are no
    /// two samples in the right distance.
    pub(super) fn between(
        before: Option<&Usage>,
        started: Option<Timestamp>,
        now: &Usage,
    ) -> Option<CpuRate> {
        let fitting = |at: Timestamp| {
            let window = now.at.duration_since(at).try_into().ok();
            window.filter(|window: &Duration| (MIN_WINDOW..=MAX_WINDOW).contains(window))
        };
        let from = |at, cpu: u64| {
            let window = fitting(at)?;
            let used = u128::from(now.cpu.checked_sub(cpu)?);
            let nano_cores = used.saturating_mul(1_000_000_000) / window.as_nanos();
            Some(CpuRate { nano_cores: u64::try_from(nano_cores).ok()?, window })
        };
        before.and_then(|before| from(before.at, before.cpu)).or_else(|| from(started?, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Memory;
    use super::*;

    fn usage(millis: i64, cpu: u64) -> Usage {
        let at = Timestamp::from_millisecond(millis).expect("a time");
        Usage { at, cpu, memory: Memory::default() }
    }

    #[test]
    fn half_a_core_is_half_a_core_whatever_the_window() {
        for millis in [1_000, 10_000, 59_000] {
            let now = usage(millis, u64::try_from(millis).expect("positive") * 500_000);
            let rate = CpuRate::between(Some(&usage(0, 0)), None, &now).expect("a rate");
            let window = Duration::from_millis(millis.unsigned_abs());
            assert_eq!(rate, CpuRate { nano_cores: 500_000_000, window });
        }
    }

    #[test]
    fn a_new_container_is_measured_from_its_start() {
        let started = Timestamp::from_second(10).expect("a time");
        let rate = CpuRate::between(None, Some(started), &usage(12_000, 1_000_000_000));
        assert_eq!(rate.map(|rate| rate.nano_cores), Some(500_000_000));
    }

    #[test]
    fn windows_that_say_nothing_have_no_rate() {
        let started = Timestamp::from_second(1).expect("a time");
        let cases = [
            (Some(usage(0, 0)), None, usage(100, 1)),
            (Some(usage(0, 0)), None, usage(600_000, 1)),
            (Some(usage(5_000, 0)), None, usage(4_000, 1)),
            (Some(usage(0, 9)), None, usage(4_000, 1)),
            (None, None, usage(4_000, 1)),
            (None, Some(started), usage(600_000, 1)),
        ];
        for (before, started, now) in cases {
            assert_eq!(CpuRate::between(before.as_ref(), started, &now), None, "{before:?} {now:?}");
        }
    }
}
