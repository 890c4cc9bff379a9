//! One task that owns planner, datapath and allocations, and performs one change after the other.
//!
//! In: [`Message`]s from the informers and from the CNI server. Out: writes, answers, the network's state. Changes that
//! arrive close together are written together. What the kernel refuses is tried again alone, with back-off, and holds up
//! nothing else.

mod cni;
mod inbox;
mod message;
mod retries;
mod services;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_datapath::{NodeLinks, ServicesInForce};
use skep_netplan::ipam::Ipam;
use skep_netplan::{DatagramServices, Plan, Planner, Problem, Unit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::allocations::Allocations;
use crate::dataplane::{Dataplane, PartlyApplied};
use crate::index_updates::KINDS;
use crate::metrics::Metrics;
use crate::problems::Problems;
use crate::published::Publisher;
use crate::{NetworkConfig, NetworkError, NetworkState};

use inbox::Inbox;
pub use message::{Add, Added, Call, CallError, Check, Message};
use retries::Retries;

/// Longer than any run of a program: afterwards no program can still use an entry that became garbage.
const GARBAGE_INTERVAL: Duration = Duration::from_millis(20);
/// How often expired flows, and flows without their backend, are removed.
const FLOW_EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// The least time between two removals, when a change may have taken backends of datagram flows.
const MIN_FLOW_EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long after a failure the programs are put on the node's links again.
const LINKS_RETRY_INTERVAL: Duration = Duration::from_secs(2);
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
    retries: Retries,
    garbage_at: Option<Instant>,
    flows_expired_at: Instant,
    expire_flows_at: Instant,
    in_force: ServicesInForce,
    /// The last removal, which may still run.
    expiry: Option<JoinHandle<()>>,
    /// The planner's problems that were logged.
    problems: watch::Sender<Problems>,
    publisher: Publisher,
    /// The index's version that was published last.
    published_version: Option<u64>,
    metrics: Metrics,
    /// Links that the dataplane does not follow yet, and when to have it do so.
    links: Option<(NodeLinks, Instant)>,
    /// The uplinks' names.
    uplinks: watch::Sender<Vec<String>>,
    /// When the first event came that is not in the kernel yet.
    oldest_event: Option<Instant>,
    /// When a plan was written last.
    wrote_at: Option<Instant>,
}

/// An ADD whose pod the informer has not delivered yet.
struct WaitingAdd {
    add: Add,
    answer: oneshot::Sender<Result<Added, CallError>>,
    deadline: Instant,
}

impl<D: Dataplane> Engine<D> {
    /// Reads back the maps and the allocations, and takes over the pods of an earlier agent. Plans and writes nothing.
    pub async fn open(config: NetworkConfig, dataplane: D) -> Result<Self, NetworkError> {
        let observed = dataplane.observed().map_err(NetworkError::Observe)?;
        let allocations = Allocations::load(&config.state_dir)?;
        let planner = Planner::new(&config.node, config.node_addrs.clone(), observed);
        let planner = planner.with_overlay(config.overlay);
        let planner = planner.with_node_port_networks(config.node_port_networks.clone());
        let uplinks = watch::Sender::new(config.uplinks.clone());
        let mut engine = Engine {
            config,
            dataplane,
            planner,
            allocations,
            ipam: None,
            listed_kinds: 0,
            waiting: Vec::new(),
            retries: Retries::default(),
            garbage_at: None,
            flows_expired_at: Instant::now(),
            expire_flows_at: Instant::now() + FLOW_EXPIRY_INTERVAL,
            in_force: Arc::new(DatagramServices::default),
            expiry: None,
            problems: watch::Sender::default(),
            publisher: Publisher::default(),
            published_version: None,
            metrics: Metrics::default(),
            links: None,
            uplinks,
            oldest_event: None,
            wrote_at: None,
        };
        engine.restore().await;
        Ok(engine)
    }

    /// Has the engine count its work there.
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Engine { metrics, ..self }
    }

    /// Has the engine publish there.
    pub fn with_publisher(self, publisher: Publisher) -> Self {
        Engine { publisher, ..self }
    }

    pub(crate) fn uplinks(&self) -> watch::Receiver<Vec<String>> {
        self.uplinks.subscribe()
    }

    pub(crate) fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    /// Runs until `stop` is cancelled or every sender of messages is gone.
    pub async fn run(
        &mut self,
        messages: mpsc::Receiver<Message>,
        state: watch::Sender<NetworkState>,
        stop: CancellationToken,
    ) {
        let (in_force, mut questions) = services::questions();
        self.in_force = in_force;
        let mut inbox = Inbox::new(messages);
        loop {
            self.publish_state(&state);
            let alarm = self.next_alarm();
            let wake = alarm.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(answer) = questions.recv() => {
                    // The removal of flows may have ended.
                    let _ = answer.send(self.planner.datagram_services());
                    continue;
                }
                message = inbox.next() => match message {
                    None => return,
                    Some(message) => self.gather(message, &mut inbox).await,
                },
                () = sleep_until(wake), if alarm.is_some() => {}
            }
            self.step().await;
        }
    }

    /// Takes the messages that are there. For a coalesce window after a write it waits for more, so that a burst becomes few plans
    /// and a change alone is written at once. A call of the plugin ends the window.
    async fn gather(&mut self, first: Message, inbox: &mut Inbox<Message>) {
        let begin = Instant::now();
        let window = self.config.coalesce_window;
        let waits_until = self.wrote_at.map_or(begin, |at| at + window);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Index(update, at) => {
                    self.oldest_event.get_or_insert(at);
                    update(&mut self.planner.index);
                }
                Message::Listed => self.listed_kinds += 1,
                Message::Cni(call) => return self.call(call).await,
                Message::Names(events, answer) => {
                    let names = events.iter().map(|event| self.planner.names(event)).collect();
                    // The reader may have gone.
                    let _ = answer.send(names);
                }
                Message::Links(links) => self.links = Some((links, Instant::now())),
                Message::Observe(observation) => {
                    if let Err(error) = self.dataplane.observe(observation) {
                        tracing::warn!(%error, "change the observation of flows failed");
                    }
                }
            }
            // Messages that are there already would never let the window end.
            next = match begin.elapsed() < window {
                true => timeout_at(waits_until, inbox.next()).await.ok().flatten(),
                false => None,
            };
        }
    }

    /// Performs everything that is due.
    async fn step(&mut self) {
        if self.listed_kinds >= KINDS && !self.planner.is_synced() {
            self.planner.synced();
        }
        let now = Instant::now();
        for unit in self.retries.due(now) {
            self.planner.retry(&unit);
        }
        if let Some((links, _)) = self.links.take_if(|(_, at)| *at <= now) {
            self.follow(links);
        }
        self.write().await;
        if self.planner.is_synced() {
            self.publish();
        }
        self.serve_waiting().await;
        if self.garbage_at.is_some_and(|at| at <= now) {
            self.garbage_at = None;
            let plan = self.planner.collect();
            self.perform(plan).await;
        }
        if self.expire_flows_at <= now && self.planner.is_synced() {
            self.expire_flows();
        }
        if self.garbage_at.is_none() && self.planner.is_synced() && self.planner.has_garbage() {
            self.garbage_at = Some(Instant::now() + GARBAGE_INTERVAL);
        }
    }

    /// Has the programs on the node's links as they are now, and serves its addresses. What fails is tried again.
    fn follow(&mut self, links: NodeLinks) {
        tracing::info!(?links, "the node's links changed");
        self.planner.set_node_addrs(links.addrs.iter().copied().collect());
        self.uplinks.send_replace(links.uplinks.iter().map(|uplink| uplink.name.clone()).collect());
        if let Err(error) = self.dataplane.set_links(&links) {
            tracing::warn!(%error, "follow the node's links failed");
            self.links = Some((links, Instant::now() + LINKS_RETRY_INTERVAL));
        }
    }

    /// Writes the difference between the kernel and the plan.
    async fn write(&mut self) {
        let begin = Instant::now();
        let plan = self.planner.plan();
        let event_at = self.oldest_event.take_if(|_| self.planner.is_synced());
        if plan.is_idle() {
            return self.planner.commit(plan);
        }
        self.wrote_at = Some(Instant::now());
        let (writes, start) = (plan.writes.len(), Instant::now());
        self.perform(plan).await;
        let took = start.elapsed();
        self.metrics.applied(start - begin, took, event_at.map(|at| at.elapsed()), self.planner.kernel());
        tracing::debug!(writes, ?took, "maps written");
        self.report_problems();
    }

    /// Removes flows that ended, and datagram flows whose backend is gone; in a task of its own, one at a time.
    fn expire_flows(&mut self) {
        self.flows_expired_at = Instant::now();
        if self.expiry.as_ref().is_some_and(|running| !running.is_finished()) {
            self.expire_flows_at = self.flows_expired_at + MIN_FLOW_EXPIRY_INTERVAL;
            return;
        }
        let namespaces = self.allocations.iter().map(|allocation| allocation.netns.clone()).collect();
        let work = self.dataplane.expire_flows(self.in_force.clone(), namespaces);
        let metrics = self.metrics.clone();
        self.expiry = Some(tokio::spawn(async move {
            match work.await {
                Ok(table) => metrics.expired(table),
                Err(error) => tracing::warn!(%error, "expire flows failed"),
            }
        }));
        self.expire_flows_at = self.flows_expired_at + FLOW_EXPIRY_INTERVAL;
    }

    /// Applies the plan, except for what the kernel refuses and what needs that.
    async fn perform(&mut self, mut plan: Plan) {
        loop {
            let writes = plan.pending(WRITES_PER_CHUNK);
            if writes.is_empty() {
                break;
            }
            let count = writes.len();
            match self.dataplane.apply(writes) {
                Ok(()) => plan.done(count),
                Err(PartlyApplied { done, error, needless }) => {
                    plan.done(done);
                    self.metrics.write_failed();
                    match needless {
                        true => plan.needless(error.to_string()),
                        false => plan.failed(error.to_string()),
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        if plan.may_strand_flows(self.planner.kernel()) {
            // Once for a burst of changes.
            let soon = self.flows_expired_at + MIN_FLOW_EXPIRY_INTERVAL;
            self.expire_flows_at = self.expire_flows_at.min(soon);
        }
        self.planner.commit(plan);
        self.retries.follow(self.planner.failures(), Instant::now());
    }

    /// Publishes the index's state if something changed of which it is made: that is more work than a small plan.
    fn publish(&mut self) {
        let version = self.planner.index.published_version();
        if self.published_version != Some(version) {
            self.published_version = Some(version);
            self.publisher.publish(&self.planner.index);
        }
    }

    /// Logs each problem once when it appears and once when it is solved, and publishes them.
    fn report_problems(&self) {
        let problems = self.planner.problems().into_iter().map(|problem| (problem.to_string(), problem));
        let now: BTreeMap<String, Problem> = problems.collect();
        self.problems.send_if_modified(|last| last.replace(now));
    }

    fn state(&self) -> NetworkState {
        if !self.planner.is_synced() {
            return NetworkState::NotReady("waiting for the first lists from the API server".to_owned());
        }
        // What fails for itself is a problem, and no reason to take the node's pods away.
        let failure = [Unit::Policy, Unit::Services].iter().find_map(|unit| self.planner.failure(unit));
        if let Some(failure) = failure {
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
        let expiry = self.planner.is_synced().then_some(self.expire_flows_at);
        let links = self.links.as_ref().map(|(_, at)| *at);
        waiting.chain(self.retries.next()).chain(self.garbage_at).chain(expiry).chain(links).min()
    }
}
