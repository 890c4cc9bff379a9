//! A plan: writes in order, and how far they have been performed.

use std::collections::{BTreeMap, BTreeSet};

use crate::datagram_services::may_strand_flows;
use crate::failure::{Cause, Incomplete};
use crate::index::Changes;
use crate::write::{Observed, Write};

/// Writes to perform in order, once; then hand the plan to [`crate::Planner::commit`].
///
/// Repeat until [`Plan::pending`] is empty: perform what it returns from the first write on, report with [`Plan::done`]
/// how many succeeded, and after an error also report [`Plan::failed`] or [`Plan::needless`] for the write that
/// follows them. `pending` then goes on with the writes that do not need the one that failed. Writes without a report
/// count as failed.
#[derive(Debug, Default)]
pub struct Plan {
    pub writes: Vec<Write>,
    pub(crate) changes: Changes,
    pub(crate) scope: PlanScope,
    /// Writes before it have their result.
    position: usize,
    causes: BTreeMap<usize, Cause>,
    /// Writes that were left out, each with the failed write that they need.
    held_up: BTreeMap<usize, usize>,
    incomplete: Incomplete,
}

/// What a plan covers: what succeeds with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanScope {
    pub(crate) all_services: bool,
    pub(crate) policy: bool,
    pub(crate) garbage: bool,
}

impl Plan {
    pub(crate) fn new(writes: Vec<Write>, changes: Changes, scope: PlanScope) -> Self {
        Plan { writes, changes, scope, ..Plan::default() }
    }

    /// The next writes to perform, at most `limit`; none at the end of the plan.
    pub fn pending(&mut self, limit: usize) -> &[Write] {
        if !self.causes.is_empty() {
            while let Some(write) = self.writes.get(self.position)
                && let Some(cause) = self.incomplete.holds_up(write)
            {
                self.held_up.insert(self.position, cause);
                self.position += 1;
            }
        }
        let rest = self.writes.get(self.position..).unwrap_or_default();
        let mut length = rest.len().min(limit);
        if !self.causes.is_empty() {
            let held_up =
                rest.iter().take(length).position(|write| self.incomplete.holds_up(write).is_some());
            length = held_up.unwrap_or(length);
        }
        rest.get(..length).unwrap_or_default()
    }

    /// The first `count` pending writes succeeded.
    pub fn done(&mut self, count: usize) {
        self.position = (self.position + count).min(self.writes.len());
    }

    /// The first pending write failed.
    pub fn failed(&mut self, reason: impl Into<String>) {
        self.not_made(reason.into(), false);
    }

    /// The first pending write was not made because the network does by itself what the write is for.
    pub fn needless(&mut self, reason: impl Into<String>) {
        self.not_made(reason.into(), true);
    }

    fn not_made(&mut self, reason: String, needless: bool) {
        let Some(write) = self.writes.get(self.position) else { return };
        self.incomplete.add(self.position, write);
        self.causes.insert(self.position, Cause { reason, needless, write: Some(write.clone()) });
        self.position += 1;
    }

    /// Fails what has no result.
    pub(crate) fn end(&mut self) {
        while !self.pending(1).is_empty() {
            self.failed("it was not tried");
        }
    }

    /// The writes that succeeded.
    pub(crate) fn succeeded(&self) -> impl Iterator<Item = &Write> {
        let made =
            |position: &usize| !self.causes.contains_key(position) && !self.held_up.contains_key(position);
        self.writes.iter().enumerate().filter(move |(position, _)| made(position)).map(|(_, write)| write)
    }

    /// The writes that failed or were held up, each with the cause.
    pub(crate) fn unmade(&self) -> impl Iterator<Item = (&Write, &Cause)> {
        let failed = self.causes.iter();
        let held_up =
            self.held_up.iter().filter_map(|(position, cause)| Some((position, self.causes.get(cause)?)));
        failed.chain(held_up).filter_map(|(position, cause)| Some((self.writes.get(*position)?, cause)))
    }

    /// The failed writes for which a frontend was held up.
    pub(crate) fn causes_of_frontends(&self) -> BTreeSet<usize> {
        let of_frontend =
            |position: &usize| matches!(self.writes.get(*position), Some(Write::PutService(..)));
        self.held_up.iter().filter(|(position, _)| of_frontend(position)).map(|(_, cause)| *cause).collect()
    }

    /// The failed writes with their positions.
    pub(crate) fn causes(&self) -> impl Iterator<Item = (usize, &Cause)> {
        self.causes.iter().map(|(position, cause)| (*position, cause))
    }

    /// Whether there is nothing to do: no write, and no change of which a problem may come or go.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.changes == Changes::default()
    }

    /// Whether flows or sockets may be left with a backend that their UDP or SCTP service loses, or past a new one. `kernel`:
    /// the maps before the plan.
    pub fn may_strand_flows(&self, kernel: &Observed) -> bool {
        may_strand_flows(&self.writes, kernel)
    }
}
