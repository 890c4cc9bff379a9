//! The node's gateway: Ingresses to the data plane, their Secrets, statuses and Events.
//!
//! In: informers' events, the Secrets that Ingresses name, where the data plane listens. Out: its configuration. Nothing is applied
//! until every kind was listed and each Secret was looked for; while the API server is away the last configuration stays in force.

mod secrets;
mod status;
mod updates;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use skep_gateway::Gateway;
use skep_gateway::ingress::{Index, Ports, Problem};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use updates::GatewaySubscriptions;

use crate::condition::{self, Statement};
use crate::events::{self, Report};
use secrets::{Found, Secrets};
use updates::Message;

const QUEUE_LENGTH: usize = 1024;
/// Between two configurations. The changes of this time are applied together.
const APPLY_INTERVAL: Duration = Duration::from_millis(5);
/// How long the first configuration waits for Secrets.
const FIRST_SECRETS_TIMEOUT: Duration = Duration::from_secs(5);
/// The condition of a Node whose gateway listens.
const CONDITION: &str = "GatewayReady";

/// A node's gateway before it runs.
pub struct NodeGateway {
    /// The Node's name.
    pub node: String,
    pub gateway: Gateway,
    pub ports: Ports,
    pub subscriptions: GatewaySubscriptions,
    /// Where the data plane listens.
    pub bound: watch::Receiver<BTreeSet<SocketAddr>>,
}

impl NodeGateway {
    /// Follows the cluster until `stop` is cancelled. `node` acts as the node: it reads Secrets, and writes the Node's condition and
    /// Events. `cluster` writes statuses of Ingresses.
    pub async fn run(self, node: kube::Client, cluster: kube::Client, stop: CancellationToken) {
        let NodeGateway { node: name, gateway, ports, subscriptions, bound } = self;
        let stop = stop.child_token();
        let _stop_all = stop.clone().drop_guard();
        let (sender, messages) = mpsc::channel(QUEUE_LENGTH);
        let (found_in, found) = mpsc::channel(QUEUE_LENGTH);
        let (problems_in, problems) = watch::channel(Vec::new());
        let (statuses_in, statuses) = watch::channel(BTreeMap::new());
        let (updates, nodes) = subscriptions.forward(sender, &stop);
        let engine = Engine {
            index: Index::new(ports),
            gateway,
            secrets: Secrets::new(node.clone(), found_in),
            unlisted: updates::KINDS,
            is_applied: false,
            problems: problems_in,
            statuses: statuses_in,
        };
        let condition = condition_of(node.clone(), name.clone(), bound);
        let reports = events::report(node, name.clone(), problems, |all, _| of_problems(all), stop.clone());
        let status = status::write(cluster, name, nodes, statuses);
        tokio::select! {
            () = engine.run(messages, found) => {}
            ((), (), ()) = async { tokio::join!(condition, reports, status) } => {}
            () = stop.cancelled() => {}
        }
        drop(updates);
    }
}

/// The only writer of the configuration.
struct Engine {
    index: Index,
    gateway: Gateway,
    secrets: Secrets,
    /// Kinds that have not been listed yet.
    unlisted: usize,
    is_applied: bool,
    problems: watch::Sender<Vec<Problem>>,
    statuses: watch::Sender<status::Statuses>,
}

impl Engine {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut found: mpsc::Receiver<Found>) {
        let mut due: Option<Instant> = None;
        let mut secrets_deadline: Option<Instant> = None;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                Some(found) = found.recv() => self.take_secret(found),
                () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                    (due, last) = (None, Instant::now());
                    if !self.is_applied {
                        self.secrets.follow(&self.index.secrets());
                        let deadline = *secrets_deadline.get_or_insert(last + FIRST_SECRETS_TIMEOUT);
                        if self.secrets.are_pending() && last < deadline {
                            due = Some(deadline);
                            continue;
                        }
                    }
                    self.apply();
                    continue;
                }
            }
            while let Ok(message) = messages.try_recv() {
                self.take(message);
            }
            while let Ok(found) = found.try_recv() {
                self.take_secret(found);
            }
            if self.unlisted == 0 {
                // A first configuration that waits for Secrets goes on when they are there.
                let waits = !self.is_applied && self.secrets.are_pending();
                due = if waits { due.or(Some(Instant::now())) } else { Some(last + APPLY_INTERVAL) };
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Change(change) => change(&mut self.index),
            Message::Listed => self.unlisted = self.unlisted.saturating_sub(1),
        }
    }

    fn take_secret(&mut self, found: Found) {
        if self.secrets.take(&found) {
            self.index.apply_secret(&found.key, found.secret.as_ref());
        }
    }

    fn apply(&mut self) {
        self.secrets.follow(&self.index.secrets());
        let compiled = self.index.compile();
        self.gateway.apply(&compiled.config);
        self.is_applied = true;
        self.problems.send_if_modified(|problems| {
            let changed = *problems != compiled.problems;
            *problems = compiled.problems;
            changed
        });
        let now = self.index.statuses().map(|(key, addresses)| (key.clone(), addresses.clone())).collect();
        self.statuses.send_if_modified(|statuses| {
            let changed = *statuses != now;
            *statuses = now;
            changed
        });
    }
}

/// Says on the Node that its gateway listens, from the first time on.
async fn condition_of(client: kube::Client, node: String, mut bound: watch::Receiver<BTreeSet<SocketAddr>>) {
    let nodes: Api<Node> = Api::all(client);
    if bound.wait_for(|bound| !bound.is_empty()).await.is_ok() {
        condition::follow(&nodes, &node, bound, statement).await;
    }
    // The data plane ends later than this.
    std::future::pending().await
}

fn statement(bound: &BTreeSet<SocketAddr>) -> Statement {
    let addresses: Vec<String> = bound.iter().map(ToString::to_string).collect();
    match bound.is_empty() {
        true => Statement {
            condition: CONDITION,
            holds: false,
            reason: "NothingToServe",
            message: "no Ingress is served".to_owned(),
        },
        false => Statement {
            condition: CONDITION,
            holds: true,
            reason: "Listening",
            message: format!("Ingresses are served at {}", addresses.join(", ")),
        },
    }
}

fn of_problems(problems: &[Problem]) -> BTreeMap<String, Report> {
    let report = |problem: &Problem| {
        let (namespace, name) = problem.ingress.split_once('/').unwrap_or_default();
        Report {
            component: "skep-gateway",
            api_version: "networking.k8s.io/v1",
            kind: "Ingress",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            reason: problem.reason(),
            message: problem.to_string(),
            is_of_node: false,
        }
    };
    problems.iter().map(|problem| (problem.to_string(), report(problem))).collect()
}
