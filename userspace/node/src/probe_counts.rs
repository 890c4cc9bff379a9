//! The results of probes since the agent's start, counted for metrics.
//!
//! In: each result of a probe, and which pods are gone. Out: the counts of one container's probe, in order of their keys.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::plan::ProbeKind;

/// Upper bounds in seconds of the buckets of durations: Prometheus' defaults.
pub(crate) const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which probe of which container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CountedProbe {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) kind: ProbeKind,
}

/// Its results. As upstream's, durations are those of probes that passed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProbeCount {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) total: Duration,
    /// For each bucket, the number of durations up to its bound.
    pub(crate) buckets: [u64; BUCKETS.len()],
}

/// The counts of the pods of this node.
#[derive(Debug, Default)]
pub(crate) struct ProbeCounts(Mutex<BTreeMap<CountedProbe, ProbeCount>>);

impl ProbeCounts {
    pub(crate) fn record(&self, key: CountedProbe, passed: bool, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if !passed {
            count.failed += 1;
            return;
        }
        count.passed += 1;
        count.total = count.total.saturating_add(took);
        let seconds = took.as_secs_f64();
        for (bucket, bound) in count.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// Drops the counts of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.uid != uid);
    }

    pub(crate) fn all(&self) -> Vec<(CountedProbe, ProbeCount)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, count)| (key.clone(), count.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_for_each_probe_until_the_pod_is_gone() {
        let counts = ProbeCounts::default();
        let key = |uid: &str| CountedProbe {
            namespace: "ns".to_owned(),
            pod: "p".to_owned(),
            uid: uid.to_owned(),
            container: "c".to_owned(),
            kind: ProbeKind::Liveness,
        };
        counts.record(key("1"), true, Duration::from_millis(30));
        counts.record(key("1"), true, Duration::from_secs(20));
        counts.record(key("1"), false, Duration::from_secs(1));
        counts.record(key("2"), false, Duration::ZERO);
        counts.forget("2");
        let all = counts.all();
        let [(found, count)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((found, count.passed, count.failed), (&key("1"), 2, 1));
        assert_eq!((count.buckets, count.total.as_millis()), ([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], 20_030));
    }
}
