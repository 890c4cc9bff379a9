//! One task that owns planner, datapath and allocations, and performs one change after the other.
//!
//! In: [`Message`]s from the watches and from the CNI server. Out: writes, answers, the network's state. Changes that
//! come close together are written together. What fails is planned again, with back-off, from where the kernel stands.

mod cni;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use skep_netplan::ipam::Ipam;
use skep_netplan::{Index, Plan, Planner};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::allocations::Allocations;
use super::dataplane::{Dataplane, Failed};
use super::duties::Duties;
use super::{NetworkConfig, NetworkError, feed};
use crate::config::NetworkState;

pub use cni::{Add, Added, Call, Check, Refused};

/// Longer than any run of a program: then nobody can still hold what became garbage.
const GARBAGE_INTERVAL: Duration = Duration::from_millis(20);
/// Between two looks at flows whose time may be over, and at those that lost their backend.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
const TIDY_SOON: Duration = Duration::from_millis(250);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// Writes between two chances for other tasks.
const CHUNK: usize = 1024;

type Change = Box<dyn FnOnce(&mut Index) + Send>;

pub enum Message {
    Index(Change),
    /// One more kind has been listed completely.
    Listed,
    Cni(Call),
}

impl Message {
    pub fn index(change: impl FnOnce(&mut Index) + Send + 'static) -> Self {
        Message::Index(Box::new(change))
    }
}

pub struct Engine<D> {
    config: NetworkConfig,
    dataplane: D,
    planner: Planner,
    allocations: Allocations,
    ipam: Option<Ipam>,
    /// Kinds listed so far.
    listed: usize,
    waiting: Vec<Waiting>,
    failure: Option<Failure>,
    garbage_at: Option<Instant>,
    tidied_at: Instant,
    tidy_at: Instant,
    problems: BTreeSet<String>,
    duties: watch::Sender<Duties>,
}

/// An ADD whose pod the API server has not told of yet.
struct Waiting {
    add: Add,
    answer: oneshot::Sender<Result<Added, Refused>>,
    until: Instant,
}

struct Failure {
    reason: String,
    retry_at: Instant,
    wait: Duration,
}

impl<D: Dataplane> Engine<D> {
    /// Reads back what the kernel and the disk hold; writes nothing.
    pub async fn open(config: NetworkConfig, dataplane: D) -> Result<Self, NetworkError> {
        let observed = dataplane.observed().map_err(NetworkError::Observe)?;
        let allocations = Allocations::load(&config.state_dir)?;
        let planner = Planner::new(&config.node, config.node_addrs.clone(), observed);
        let planner = planner.over_overlay(config.overlay);
        let mut engine = Engine {
            config,
            dataplane,
            planner,
            allocations,
            ipam: None,
            listed: 0,
            waiting: Vec::new(),
            failure: None,
            garbage_at: None,
            tidied_at: Instant::now(),
            tidy_at: Instant::now() + TIDY_INTERVAL,
            problems: BTreeSet::new(),
            duties: watch::Sender::default(),
        };
        engine.restore().await;
        Ok(engine)
    }

    /// What others have to do.
    pub(super) fn duties(&self) -> watch::Receiver<Duties> {
        self.duties.subscribe()
    }

    pub async fn run(
        &mut self,
        mut messages: mpsc::Receiver<Message>,
        state: watch::Sender<NetworkState>,
        stop: CancellationToken,
    ) {
        loop {
            self.tell(&state);
            let alarm = self.alarm();
            let wake = alarm.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                message = messages.recv() => match message {
                    None => return,
                    Some(message) => self.gather(message, &mut messages).await,
                },
                () = sleep_until(wake), if alarm.is_some() => {}
            }
            self.step().await;
        }
    }

    /// Takes what comes within a moment, so that a burst is one plan. The plugin's calls do not wait for it.
    async fn gather(&mut self, first: Message, messages: &mut mpsc::Receiver<Message>) {
        let until = Instant::now() + self.config.coalesce;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Index(change) => change(&mut self.planner.index),
                Message::Listed => self.listed += 1,
                Message::Cni(call) => return self.call(call).await,
            }
            next = timeout_at(until, messages.recv()).await.ok().flatten();
        }
    }

    /// Does what is due.
    async fn step(&mut self) {
        if self.listed >= feed::KINDS && !self.planner.is_synced() {
            self.planner.synced();
            self.planner.index.shrink();
        }
        let now = Instant::now();
        if self.failure.as_ref().is_none_or(|failure| failure.retry_at <= now) {
            // The failure is kept and told of by `write` itself.
            let _ = self.write().await;
        }
        if self.planner.is_synced() {
            Duties::tell(&self.planner.index, &self.duties);
        }
        self.serve_waiting().await;
        if self.garbage_at.is_some_and(|at| at <= now) {
            self.garbage_at = None;
            let plan = self.planner.collect();
            let _ = self.perform(plan).await;
        }
        if self.tidy_at <= now && self.planner.is_synced() {
            self.tidy().await;
        }
        if self.garbage_at.is_none() && self.planner.is_synced() && self.planner.has_garbage() {
            self.garbage_at = Some(Instant::now() + GARBAGE_INTERVAL);
        }
    }

    /// Brings the kernel to what is wanted now.
    async fn write(&mut self) -> Result<(), String> {
        let plan = self.planner.plan();
        if plan.writes.is_empty() && self.failure.is_none() {
            self.planner.commit(plan, 0);
            return Ok(());
        }
        let (writes, start) = (plan.writes.len(), Instant::now());
        let result = self.perform(plan).await;
        if result.is_ok() {
            tracing::debug!(writes, took = ?start.elapsed(), "wrote");
        }
        self.note_problems();
        result
    }

    /// Leaves to no client of datagrams a backend that is gone, and forgets flows that ended.
    async fn tidy(&mut self) {
        let namespaces: Vec<_> = self.allocations.iter().map(|allocation| allocation.netns.clone()).collect();
        if let Err(reason) = self.dataplane.tidy(self.planner.kernel(), &namespaces).await {
            tracing::warn!(reason, "flows could not be tidied");
        }
        self.tidied_at = Instant::now();
        self.tidy_at = self.tidied_at + TIDY_INTERVAL;
    }

    async fn perform(&mut self, plan: Plan) -> Result<(), String> {
        let mut done = 0;
        let mut result = Ok(());
        for chunk in plan.writes.chunks(CHUNK) {
            match self.dataplane.apply(chunk) {
                Ok(()) => done += chunk.len(),
                Err(Failed { done: within, reason }) => {
                    done += within;
                    result = Err(reason);
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if plan.moves_datagrams() {
            // Not for each of a burst of changes.
            self.tidy_at = self.tidy_at.min(self.tidied_at + TIDY_SOON);
        }
        self.planner.commit(plan, done);
        match &result {
            Ok(()) => self.failure = None,
            Err(reason) => {
                let before = self.failure.as_ref().map(|failure| failure.wait);
                let wait = before.map_or(RETRY_FIRST, |wait| (wait * 2).min(RETRY_LAST));
                tracing::error!(reason, done, ?wait, "writing the maps failed; the last good state stays");
                let retry_at = Instant::now() + wait;
                self.failure = Some(Failure { reason: reason.clone(), retry_at, wait });
            }
        }
        result
    }

    /// Says once what is wrong, and once that it is not any more.
    fn note_problems(&mut self) {
        let now: BTreeSet<String> = self.planner.problems().iter().map(ToString::to_string).collect();
        for problem in now.difference(&self.problems) {
            tracing::warn!(problem, "not as the API says");
        }
        for problem in self.problems.difference(&now) {
            tracing::info!(problem, "solved");
        }
        self.problems = now;
    }

    fn state(&self) -> NetworkState {
        if !self.planner.is_synced() {
            return NetworkState::NotReady("waiting for the first lists from the API server".to_owned());
        }
        if let Some(failure) = &self.failure {
            return NetworkState::NotReady(format!("writing the maps failed: {}", failure.reason));
        }
        match self.pod_cidrs().is_empty() {
            true => NetworkState::NotReady("the node has no podCIDR yet".to_owned()),
            false => NetworkState::Ready,
        }
    }

    fn tell(&self, state: &watch::Sender<NetworkState>) {
        let now = self.state();
        state.send_if_modified(|told| {
            let changed = *told != now;
            if changed {
                *told = now;
            }
            changed
        });
    }

    /// When something is due without a message.
    fn alarm(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let retry = self.failure.as_ref().map(|failure| failure.retry_at);
        let tidy = self.planner.is_synced().then_some(self.tidy_at);
        waiting.chain(retry).chain(self.garbage_at).chain(tidy).min()
    }
}
