//! One task that owns planner, datapath and allocations, and performs one change after the other.
//!
//! In: [`Message`]s from the informers and from the CNI server. Out: writes, answers, the network's state. Changes that
//! arrive close together are written together. After a failed write the engine plans again, with back-off, from what
//! the kernel has by then.

mod cni;
mod message;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use skep_netplan::ipam::Ipam;
use skep_netplan::{DatagramServices, Plan, Planner};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::allocations::Allocations;
use crate::dataplane::{Dataplane, DataplaneError, PartlyApplied};
use crate::index_updates::KINDS;
use crate::published::Published;
use crate::{NetworkConfig, NetworkError, NetworkState};

pub use message::{Add, Added, Call, CallError, Check, Message};

/// Longer than any run of a program: afterwards no program can still use an entry that became garbage.
const GARBAGE_INTERVAL: Duration = Duration::from_millis(20);
/// How often expired flows, and flows without their backend, are removed.
const FLOW_EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// The least time between two removals, when a change may have taken backends of datagram flows.
const MIN_FLOW_EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(100);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Writes after which other tasks may run.
const WRITES_PER_CHUNK: usize = 1024;

/// See the module. [`Engine::open`] first, then [`Engine::run`] once.
pub struct Engine<D> {
    config: NetworkConfig,
    dataplane: D,
    planner: Planner,
    allocations: Allocations,
    ipam: Option<Ipam>,
    /// Kinds listed so far.
    listed_kinds: usize,
    waiting: Vec<WaitingAdd>,
    failure: Option<WriteFailure>,
    garbage_at: Option<Instant>,
    flows_expired_at: Instant,
    expire_flows_at: Instant,
    /// The last removal, which may still run.
    expiry: Option<JoinHandle<()>>,
    /// The planner's problems that were logged.
    problems: BTreeSet<String>,
    published: watch::Sender<Published>,
}

/// An ADD whose pod the informer has not delivered yet.
struct WaitingAdd {
    add: Add,
    answer: oneshot::Sender<Result<Added, CallError>>,
    deadline: Instant,
}

/// The last write's failure, until a write succeeds.
struct WriteFailure {
    reason: String,
    retry_at: Instant,
    wait: Duration,
}

impl<D: Dataplane> Engine<D> {
    /// Reads back the maps and the allocations, and takes over the pods of an earlier agent. Plans and writes nothing.
    pub async fn open(config: NetworkConfig, dataplane: D) -> Result<Self, NetworkError> {
        let observed = dataplane.observed().map_err(NetworkError::Observe)?;
        let allocations = Allocations::load(&config.state_dir)?;
        let planner = Planner::new(&config.node, config.node_addrs.clone(), observed);
        let planner = planner.with_overlay(config.overlay);
        let mut engine = Engine {
            config,
            dataplane,
            planner,
            allocations,
            ipam: None,
            listed_kinds: 0,
            waiting: Vec::new(),
            failure: None,
            garbage_at: None,
            flows_expired_at: Instant::now(),
            expire_flows_at: Instant::now() + FLOW_EXPIRY_INTERVAL,
            expiry: None,
            problems: BTreeSet::new(),
            published: watch::Sender::default(),
        };
        engine.restore().await;
        Ok(engine)
    }

    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Runs until `stop` is cancelled or every sender of messages is gone.
    pub async fn run(
        &mut self,
        mut messages: mpsc::Receiver<Message>,
        state: watch::Sender<NetworkState>,
        stop: CancellationToken,
    ) {
        loop {
            self.publish_state(&state);
            let alarm = self.next_alarm();
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

    /// Takes the messages of one coalesce window, so that a burst becomes one plan. A call of the plugin ends the window.
    async fn gather(&mut self, first: Message, messages: &mut mpsc::Receiver<Message>) {
        let until = Instant::now() + self.config.coalesce_window;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Index(update) => update(&mut self.planner.index),
                Message::Listed => self.listed_kinds += 1,
                Message::Cni(call) => return self.call(call).await,
            }
            next = timeout_at(until, messages.recv()).await.ok().flatten();
        }
    }

    /// Performs everything that is due.
    async fn step(&mut self) {
        if self.listed_kinds >= KINDS && !self.planner.is_synced() {
            self.planner.synced();
            self.planner.index.shrink();
        }
        let now = Instant::now();
        if self.failure.as_ref().is_none_or(|failure| failure.retry_at <= now) {
            // `write` itself keeps and logs the failure.
            let _ = self.write().await;
        }
        if self.planner.is_synced() {
            Published::update(&self.planner.index, &self.published);
        }
        self.serve_waiting().await;
        if self.garbage_at.is_some_and(|at| at <= now) {
            self.garbage_at = None;
            let plan = self.planner.collect();
            let _ = self.perform(plan).await;
        }
        if self.expire_flows_at <= now && self.planner.is_synced() {
            self.expire_flows();
        }
        if self.garbage_at.is_none() && self.planner.is_synced() && self.planner.has_garbage() {
            self.garbage_at = Some(Instant::now() + GARBAGE_INTERVAL);
        }
    }

    /// Writes the difference between the kernel and the plan.
    async fn write(&mut self) -> Result<(), DataplaneError> {
        let plan = self.planner.plan();
        if plan.writes.is_empty() && self.failure.is_none() {
            self.planner.commit(plan, 0);
            return Ok(());
        }
        let (writes, start) = (plan.writes.len(), Instant::now());
        let result = self.perform(plan).await;
        if result.is_ok() {
            tracing::debug!(writes, took = ?start.elapsed(), "maps written");
        }
        self.log_problems();
        result
    }

    /// Removes flows that ended, and datagram flows whose backend is gone; in a task of its own, one at a time.
    fn expire_flows(&mut self) {
        self.flows_expired_at = Instant::now();
        if self.expiry.as_ref().is_some_and(|running| !running.is_finished()) {
            self.expire_flows_at = self.flows_expired_at + MIN_FLOW_EXPIRY_INTERVAL;
            return;
        }
        let namespaces = self.allocations.iter().map(|allocation| allocation.netns.clone()).collect();
        let services = DatagramServices::of(self.planner.kernel());
        let work = self.dataplane.expire_flows(services, namespaces);
        self.expiry = Some(tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::warn!(%error, "expire flows failed");
            }
        }));
        self.expire_flows_at = self.flows_expired_at + FLOW_EXPIRY_INTERVAL;
    }

    /// Applies the plan as far as the kernel accepts it, and commits that part to the planner.
    async fn perform(&mut self, plan: Plan) -> Result<(), DataplaneError> {
        let mut done = 0;
        let mut result = Ok(());
        for chunk in plan.writes.chunks(WRITES_PER_CHUNK) {
            match self.dataplane.apply(chunk) {
                Ok(()) => done += chunk.len(),
                Err(PartlyApplied { done: within, error }) => {
                    done += within;
                    result = Err(error);
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if plan.may_strand_flows(self.planner.kernel()) {
            // Once for a burst of changes.
            let soon = self.flows_expired_at + MIN_FLOW_EXPIRY_INTERVAL;
            self.expire_flows_at = self.expire_flows_at.min(soon);
        }
        self.planner.commit(plan, done);
        match &result {
            Ok(()) => self.failure = None,
            Err(error) => {
                let before = self.failure.as_ref().map(|failure| failure.wait);
                let wait = before.map_or(MIN_RETRY_INTERVAL, |wait| (wait * 2).min(MAX_RETRY_INTERVAL));
                tracing::error!(%error, done, ?wait, "write maps failed; the last good state stays in force");
                let (reason, retry_at) = (error.to_string(), Instant::now() + wait);
                self.failure = Some(WriteFailure { reason, retry_at, wait });
            }
        }
        result
    }

    /// Logs each problem once when it appears and once when it is solved.
    fn log_problems(&mut self) {
        let now: BTreeSet<String> = self.planner.problems().iter().map(ToString::to_string).collect();
        for problem in now.difference(&self.problems) {
            tracing::warn!(problem, "an object cannot be served as the API says");
        }
        for problem in self.problems.difference(&now) {
            tracing::info!(problem, "problem solved");
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

    fn publish_state(&self, state: &watch::Sender<NetworkState>) {
        let now = self.state();
        state.send_if_modified(|last| {
            let changed = *last != now;
            if changed {
                *last = now;
            }
            changed
        });
    }

    /// When something is due without a message.
    fn next_alarm(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        let retry = self.failure.as_ref().map(|failure| failure.retry_at);
        let expiry = self.planner.is_synced().then_some(self.expire_flows_at);
        waiting.chain(retry).chain(self.garbage_at).chain(expiry).min()
    }
}
