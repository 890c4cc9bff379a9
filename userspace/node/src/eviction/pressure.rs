//! PURE. From observations to the node's conditions and to the resource for which a pod must go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::signals::{Observation, Shortage, Signal, Threshold};

/// A condition stays at least this long after its threshold was met last, so that pods do not come and go.
pub const TRANSITION_PERIOD: SignedDuration = SignedDuration::from_secs(300);

/// What the node observed last, by signal.
pub type Observations = BTreeMap<Signal, Observation>;

/// The node's memory of its shortages.
#[derive(Debug)]
pub struct Pressures {
    thresholds: Vec<Threshold>,
    transition: SignedDuration,
    /// By index of the threshold.
    met_since: BTreeMap<usize, Timestamp>,
    seen_at: BTreeMap<Shortage, Timestamp>,
}

/// What follows from one round of observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub shortages: BTreeSet<Shortage>,
    /// For this threshold something must be given back now; memory goes before the others.
    pub starved: Option<Threshold>,
}

impl Pressures {
    pub fn new(thresholds: Vec<Threshold>, transition: SignedDuration) -> Pressures {
        Pressures { thresholds, transition, met_since: BTreeMap::new(), seen_at: BTreeMap::new() }
    }

    pub fn observe(&mut self, observations: &Observations, now: Timestamp) -> Verdict {
        let mut starved: Option<Threshold> = None;
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let is_met =
                observations.get(&threshold.signal).is_some_and(|observed| threshold.is_met(observed));
            if !is_met {
                self.met_since.remove(&index);
                continue;
            }
            let since = *self.met_since.entry(index).or_insert(now);
            self.seen_at.insert(threshold.signal.shortage(), now);
            let grace =
                threshold.grace.and_then(|grace| SignedDuration::try_from(grace).ok()).unwrap_or_default();
            let is_due = now.duration_since(since) >= grace;
            if is_due && starved.is_none_or(|other| threshold.signal < other.signal) {
                starved = Some(*threshold);
            }
        }
        let transition = self.transition;
        self.seen_at.retain(|_, at| now.duration_since(*at) < transition || *at == now);
        Verdict { shortages: self.seen_at.keys().copied().collect(), starved }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eviction::signals::parse;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    fn observed(signal: Signal, available: i64) -> Observations {
        Observations::from([(signal, Observation { available, capacity: 1000 })])
    }

    #[test]
    fn a_condition_comes_at_once_and_goes_after_the_transition_period() {
        let hard = parse("memory.available<100").expect("a threshold");
        let mut pressures = Pressures::new(vec![hard], TRANSITION_PERIOD);
        let mut observe =
            |available, seconds| pressures.observe(&observed(Signal::Memory, available), at(seconds));
        assert_eq!(observe(100, 0), Verdict { shortages: BTreeSet::new(), starved: None });
        let short = BTreeSet::from([Shortage::Memory]);
        assert_eq!(observe(99, 10), Verdict { shortages: short.clone(), starved: Some(hard) });
        assert_eq!(observe(500, 309), Verdict { shortages: short, starved: None });
        assert_eq!(observe(500, 310).shortages, BTreeSet::new());
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_and_memory_goes_first() {
        let soft = Threshold {
            grace: Some(Duration::from_secs(60)),
            ..parse("nodefs.available<50%").expect("a threshold")
        };
        let hard = parse("memory.available<100").expect("a threshold");
        let mut pressures = Pressures::new(vec![soft, hard], TRANSITION_PERIOD);
        let mut both = observed(Signal::NodeFs, 400);
        assert_eq!(pressures.observe(&both, at(0)).starved, None);
        assert_eq!(pressures.observe(&both, at(59)).starved, None);
        assert_eq!(pressures.observe(&both, at(60)).starved, Some(soft));
        both.extend(observed(Signal::Memory, 1));
        assert_eq!(pressures.observe(&both, at(61)).starved, Some(hard));
        // Enough for a moment: the grace begins again.
        pressures.observe(&observed(Signal::NodeFs, 600), at(62));
        assert_eq!(pressures.observe(&observed(Signal::NodeFs, 400), at(63)).starved, None);
    }
}
