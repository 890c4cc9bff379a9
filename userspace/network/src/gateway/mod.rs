//! The node's gateway: Ingresses and Gateways to the data plane, what they name, statuses and Events.
//!
//! In: informers' events, the Secrets and ConfigMaps that these name, where the data plane listens. Out: its configuration. Nothing is
//! applied until every kind was listed and each of those was looked for, so that no port opens and no certificate changes before the new one is
//! known; while the API server is away the last configuration stays in force.

mod acme;
mod challenges;
mod inputs;
mod publish;
mod status;
mod updates;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use skep_gateway::acme::Challenges;
use skep_gateway::ingress::{Index, Ports, Problem};
use skep_gateway::{Bound, Gateway, NODE_CONDITION as CONDITION, NODE_PORTS_ANNOTATION};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use acme::{Acme, AcmeError, AcmeSettings};
pub use publish::publish_gateways;
pub use updates::GatewaySubscriptions;

use crate::condition::{self, Statement};
use crate::events::{self, Report};
use inputs::{Found, Inputs};
use updates::Message;

const QUEUE_LENGTH: usize = 1024;
/// Between two configurations. The changes of this time are applied together.
const APPLY_INTERVAL: Duration = Duration::from_millis(5);
/// How long the first configuration waits for Secrets and ConfigMaps, and how long later ones wait for those that they name newly.
const FIRST_INPUTS_TIMEOUT: Duration = Duration::from_secs(5);
const INPUTS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the expiry of a certificate is waited for at once: the clock may be set meanwhile.
const MIN_EXPIRY_WAIT: Duration = Duration::from_secs(1);
const MAX_EXPIRY_WAIT: Duration = Duration::from_secs(3_600);

/// A node's gateway before it runs.
pub struct NodeGateway {
    /// The Node's name.
    pub node: String,
    pub gateway: Gateway,
    pub ports: Ports,
    pub subscriptions: GatewaySubscriptions,
    /// Where the data plane listens, and where it cannot.
    pub bound: watch::Receiver<Bound>,
}

impl NodeGateway {
    /// Follows the cluster until `stop` is cancelled. `node` acts as the node: it reads Secrets and ConfigMaps, and writes the Node's condition and
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
        let (challenges, following) = challenges::follow(node.clone());
        let engine = Engine {
            index: Index::new(ports).at(&name),
            gateway,
            inputs: Inputs::new(node.clone(), found_in),
            unlisted: updates::KINDS,
            is_applied: false,
            inputs_deadline: None,
            next_expiry: None,
            problems: problems_in,
            statuses: statuses_in,
        };
        let condition = condition_of(node.clone(), name.clone(), bound);
        let reports = events::report(node, name.clone(), problems, |all, _| of_problems(all), stop.clone());
        let status = status::write(cluster, name, nodes, statuses);
        tokio::select! {
            () = engine.run(messages, found, challenges) => {}
            () = following => {}
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
    inputs: Inputs,
    /// Kinds that have not been listed yet.
    unlisted: usize,
    is_applied: bool,
    /// Of the configuration that waits for Secrets and ConfigMaps.
    inputs_deadline: Option<Instant>,
    /// When a certificate expires, in seconds since 1970.
    next_expiry: Option<i64>,
    problems: watch::Sender<Vec<Problem>>,
    statuses: watch::Sender<status::Statuses>,
}

impl Engine {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut found: mpsc::Receiver<Found>,
        mut challenges: watch::Receiver<Challenges>,
    ) {
        let mut due: Option<Instant> = None;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                Some(found) = found.recv() => self.take_input(&found),
                Ok(()) = challenges.changed() => {
                    self.index.apply_challenges(challenges.borrow_and_update().clone());
                }
                () = until(self.next_expiry), if self.next_expiry.is_some() => {}
                () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                    last = Instant::now();
                    due = self.wait_for_inputs(last);
                    if due.is_none() {
                        self.apply();
                    }
                    continue;
                }
            }
            while let Ok(message) = messages.try_recv() {
                self.take(message);
            }
            while let Ok(found) = found.try_recv() {
                self.take_input(&found);
            }
            if self.unlisted == 0 {
                // A configuration that waits for inputs goes on when they are there.
                let waits = self.inputs.are_pending();
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

    fn take_input(&mut self, found: &Found) {
        self.inputs.take(found, &mut self.index, seconds_now());
    }

    /// Until when the configuration waits for inputs that were not looked for yet. Each is waited for once.
    fn wait_for_inputs(&mut self, now: Instant) -> Option<Instant> {
        self.inputs.follow(&mut self.index);
        if self.inputs.are_pending() {
            let limit = if self.is_applied { INPUTS_TIMEOUT } else { FIRST_INPUTS_TIMEOUT };
            let deadline = *self.inputs_deadline.get_or_insert(now + limit);
            if now < deadline {
                return Some(deadline);
            }
        }
        self.inputs.expect_no_more();
        self.inputs_deadline = None;
        None
    }

    fn apply(&mut self) {
        let compiled = self.index.compile(seconds_now());
        self.next_expiry = compiled.next_expiry;
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

/// Says on the Node whether its gateway listens, and at which ports.
async fn condition_of(client: kube::Client, node: String, bound: watch::Receiver<Bound>) {
    let nodes: Api<Node> = Api::all(client);
    condition::follow(&nodes, &node, bound, statement).await;
    // The data plane ends later than this.
    std::future::pending().await
}

fn statement(bound: &Bound) -> Statement {
    let ports: Vec<String> = bound.ports().iter().map(ToString::to_string).collect();
    let annotation = Some((NODE_PORTS_ANNOTATION, ports.join(",")));
    let Bound { open, failed } = bound;
    let addresses: Vec<String> = open.iter().map(ToString::to_string).collect();
    let failures: Vec<&str> = failed.values().map(String::as_str).collect();
    let (holds, reason, mut message) = match (open.is_empty(), failed.is_empty()) {
        (true, true) => (false, "NothingToServe", "no Ingress or Gateway is served".to_owned()),
        (true, false) => (false, "ListenFailed", "no Ingress or Gateway is served".to_owned()),
        (false, is_complete) => {
            let reason = if is_complete { "Listening" } else { "ListenFailedInPart" };
            (true, reason, format!("listening at {}", addresses.join(", ")))
        }
    };
    if !failures.is_empty() {
        message = format!("{message}; failed: {}", failures.join("; "));
    }
    Statement { condition: CONDITION, holds, reason, message, annotation }
}

fn seconds_now() -> i64 {
    Timestamp::now().as_second()
}

/// Returns at a time in seconds since 1970, or some time before it.
async fn until(at: Option<i64>) {
    let seconds = at.map_or(0, |at| at.saturating_sub(seconds_now())).max(0);
    let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    tokio::time::sleep(wait.clamp(MIN_EXPIRY_WAIT, MAX_EXPIRY_WAIT)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose server accepts connections and answers nothing.
    fn engine(server: &std::net::TcpListener) -> Engine {
        let uri = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
        let client = kube::Client::try_from(kube::Config::new(uri)).unwrap();
        let mut index = Index::new(Ports { http: Some(80), https: Some(443) });
        let class = serde_json::json!({"metadata": {"name": "skep"}, "spec": {"controller": skep_gateway::ingress::CONTROLLER}});
        index.apply_class(&serde_json::from_value(class).unwrap());
        Engine {
            index,
            gateway: Gateway::new(skep_gateway::Limits::of_descriptors(1_024), None),
            inputs: Inputs::new(client, mpsc::channel(1).0),
            unlisted: 0,
            is_applied: true,
            inputs_deadline: None,
            next_expiry: None,
            problems: watch::channel(Vec::new()).0,
            statuses: watch::channel(BTreeMap::new()).0,
        }
    }

    fn names_secret(engine: &mut Engine, secret: &str) {
        let spec = serde_json::json!({"ingressClassName": "skep", "tls": [{"hosts": ["a.com"], "secretName": secret}]});
        let ingress = serde_json::json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec});
        engine.index.apply_ingress(&serde_json::from_value(ingress).unwrap());
    }

    #[tokio::test]
    async fn a_configuration_waits_once_for_the_secrets_that_it_names_newly() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut engine, now) = (engine(&server), Instant::now());
        assert_eq!(engine.wait_for_inputs(now), None);
        names_secret(&mut engine, "one");
        let deadline = now + INPUTS_TIMEOUT;
        assert_eq!(engine.wait_for_inputs(now), Some(deadline));
        assert_eq!(engine.wait_for_inputs(now + INPUTS_TIMEOUT / 2), Some(deadline));
        assert_eq!(engine.wait_for_inputs(deadline), None);
        // It was waited for.
        assert_eq!(engine.wait_for_inputs(deadline), None);
        names_secret(&mut engine, "two");
        assert_eq!(engine.wait_for_inputs(deadline), Some(deadline + INPUTS_TIMEOUT));
        engine.take_input(&Found::Secret("ns/two".into(), None));
        assert_eq!(engine.wait_for_inputs(deadline), None);
    }
}
