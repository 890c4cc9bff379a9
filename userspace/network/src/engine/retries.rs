//! When what failed is tried again: each unit alone, with back-off.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_netplan::{Failure, Unit};
use tokio::time::Instant;

const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(100);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// There may be many routes to nodes that are on no link, and each try is a few calls of the kernel.
const MAX_ROUTE_RETRY_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<Unit, Retry>);

#[derive(Debug)]
struct Retry {
    /// `None`: the unit is being tried.
    at: Option<Instant>,
    wait: Duration,
    attempts: u32,
}

impl Retries {
    /// Takes over the planner's failures after a commit, and logs the new ones.
    pub(super) fn follow<'f>(
        &mut self,
        failures: impl Iterator<Item = (&'f Unit, &'f Failure)>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for (unit, failure) in failures {
            let retry = match before.remove(unit) {
                Some(retry) if retry.attempts == failure.attempts => retry,
                earlier => {
                    let longest = match unit {
                        Unit::Route(_) | Unit::Unreachable(_) | Unit::Cluster(_) | Unit::Node(_) => {
                            MAX_ROUTE_RETRY_INTERVAL
                        }
                        _ => MAX_RETRY_INTERVAL,
                    };
                    let wait = earlier.map_or(MIN_RETRY_INTERVAL, |retry| (retry.wait * 2).min(longest));
                    let reason = &failure.reason;
                    tracing::debug!(%unit, reason, needless = failure.needless, ?wait, "write failed; it is tried again");
                    Retry { at: Some(now + wait), wait, attempts: failure.attempts }
                }
            };
            self.0.insert(unit.clone(), retry);
        }
    }

    /// The units to try now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Unit> {
        let due = self.0.iter_mut().filter(|(_, retry)| retry.at.is_some_and(|at| at <= now));
        due.map(|(unit, retry)| {
            retry.at = None;
            unit.clone()
        })
        .collect()
    }

    /// When the next unit is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|retry| retry.at).min()
    }
}
