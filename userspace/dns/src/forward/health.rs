//! PURE. Which upstream is asked first, and how long it is waited for before the next is asked too.
//!
//! In: what happened to each question, times since the start. Out: an order.

use std::collections::HashMap;
use std::time::Duration;

use crate::settings::Upstream;

/// Failures in a row after which an upstream counts as down.
const FAILURES_UNTIL_DOWN: u32 = 3;
/// An upstream that is down is tried again after this time, twice as long after each failure, and at most after the second.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Bounds of the time after which the next upstream is asked too.
const MIN_HEAD_START: Duration = Duration::from_millis(30);
const MAX_HEAD_START: Duration = Duration::from_millis(400);
/// The round trip that is assumed of an upstream that was never asked.
const ASSUMED_ROUND_TRIP: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    round_trip: Option<Duration>,
    failures: u32,
    /// When it may be tried again; of an upstream that is down.
    retry_at: Duration,
}

/// What is known of the upstreams.
#[derive(Debug, Default)]
pub(crate) struct HealthTable {
    by_upstream: HashMap<Upstream, Health>,
}

impl HealthTable {
    /// The upstreams to ask in order; those that are down last. One that is down and due goes first once, and the next is
    /// asked right after it, so that nobody waits for it.
    pub(crate) fn order(&self, upstreams: &[Upstream], now: Duration) -> Vec<(Upstream, Duration)> {
        let rank = |upstream: &&Upstream| {
            let health = self.of(upstream);
            (health.is_down(), health.round_trip.unwrap_or(ASSUMED_ROUND_TRIP))
        };
        let mut order: Vec<&Upstream> = upstreams.iter().collect();
        order.sort_by_key(rank);
        let due = order.iter().position(|upstream| {
            let health = self.of(upstream);
            health.is_down() && health.retry_at <= now
        });
        if let Some(due) = due.filter(|due| *due > 0) {
            let upstream = order.remove(due);
            order.insert(0, upstream);
        }
        let head_start = |upstream: &Upstream| {
            let health = self.of(upstream);
            match health.is_down() {
                true => Duration::ZERO,
                false => {
                    let round_trip = health.round_trip.unwrap_or(ASSUMED_ROUND_TRIP);
                    (round_trip * 3).clamp(MIN_HEAD_START, MAX_HEAD_START)
                }
            }
        };
        order.into_iter().map(|upstream| (upstream.clone(), head_start(upstream))).collect()
    }

    pub(crate) fn succeeded(&mut self, upstream: &Upstream, took: Duration) {
        let health = self.by_upstream.entry(upstream.clone()).or_default();
        // As TCP's smoothed round trip (RFC 6298).
        health.round_trip = Some(health.round_trip.map_or(took, |known| known * 7 / 8 + took / 8));
        health.failures = 0;
    }

    /// Returns whether it counts as down from now on.
    pub(crate) fn failed(&mut self, upstream: &Upstream, now: Duration) -> bool {
        let health = self.by_upstream.entry(upstream.clone()).or_default();
        health.failures = health.failures.saturating_add(1);
        let doublings = health.failures.saturating_sub(FAILURES_UNTIL_DOWN).min(8);
        health.retry_at = now + (RETRY_INTERVAL * 2_u32.pow(doublings)).min(MAX_RETRY_INTERVAL);
        health.failures == FAILURES_UNTIL_DOWN
    }

    /// Forgets upstreams that are no longer used.
    pub(crate) fn keep(&mut self, upstreams: &[Upstream]) {
        self.by_upstream.retain(|upstream, _| upstreams.contains(upstream));
    }

    fn of(&self, upstream: &Upstream) -> Health {
        self.by_upstream.get(upstream).copied().unwrap_or_default()
    }
}

impl Health {
    fn is_down(&self) -> bool {
        self.failures >= FAILURES_UNTIL_DOWN
    }
}
