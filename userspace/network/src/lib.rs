//! The node's network agent: services, policy, pods' interfaces.
//!
//! In: events of the shared [`Informers`], the CNI plugin's calls on a unix socket. Out: maps, routes and pods'
//! interfaces, and a [`NetworkState`]: whether pods can have a network now. [`skep_netplan`] decides what is written;
//! [`engine`] performs it, one change after the other. While the API server is away everything stays as it is; after a
//! restart nothing changes until every kind has been listed.

pub mod allocations;
mod announce;
pub mod bandwidth;
pub mod cni;
mod condition;
pub mod config;
pub mod dataplane;
mod dns;
pub mod engine;
pub mod error;
mod events;
pub mod flows;
mod gateway;
mod health;
mod index_updates;
pub mod informers;
pub mod kernel;
mod lenient;
pub mod metrics;
mod node_health;
mod problems;
mod published;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::NetworkConfig;
pub use dns::{DnsSubscriptions, NodeDns, SettingsSource};
pub use error::NetworkError;
pub use flows::{FlowLog, FlowLogLevel};
pub use gateway::{Acme, AcmeError, AcmeSettings, GatewaySubscriptions, NodeGateway, publish_gateways};
pub use index_updates::{KINDS, Subscriptions};
pub use informers::Informers;
pub use kernel::KernelNetwork;
pub use published::Publisher;
pub use skep_cni::NetworkState;

use dataplane::Dataplane;
use engine::{Engine, Message};
use metrics::Metrics;
use skep_datapath::{Flows, LinkWatcher};

/// What the network shows of itself; clones show the same.
#[derive(Clone, Default)]
pub struct Telemetry {
    pub flows: FlowLog,
    pub metrics: Metrics,
}

/// What runs beside the engine, and where it reports.
pub struct Parts {
    pub publisher: Publisher,
    pub telemetry: Telemetry,
    /// Receives whether pods can have a network.
    pub state: watch::Sender<NetworkState>,
}

/// What the dataplane reports by itself.
#[derive(Default)]
pub struct DataplaneEvents {
    /// Without them there is no flow log.
    pub flows: Option<Flows>,
    /// Without it the node keeps the links and addresses of the start.
    pub links: Option<LinkWatcher>,
}

/// Messages to the engine that it has not taken yet.
const QUEUE_LENGTH: usize = 1024;

/// Runs until `stop` is cancelled; after that the kernel continues with what was written. Beside the dataplane are its
/// events.
pub async fn run<D: Dataplane>(
    config: NetworkConfig,
    (dataplane, events_of): (D, DataplaneEvents),
    client: kube::Client,
    subscriptions: Subscriptions,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), NetworkError> {
    let Parts { publisher, telemetry, state } = parts;
    let (sender, messages) = mpsc::channel(QUEUE_LENGTH);
    let NetworkConfig { node, health_port, cni_socket, flows_socket, flow_log, .. } = config.clone();
    let engine = Engine::open(config, dataplane).await?;
    let mut engine = engine.with_metrics(telemetry.metrics.clone()).with_publisher(publisher.clone());
    let listener = cni::listen(&cni_socket)?;
    // When one part ends, the others end with it.
    let stop = stop.child_token();
    let _stop_all = stop.clone().drop_guard();
    let mut updates = subscriptions.forward(&sender, &stop);
    let events =
        events::report(client.clone(), node.clone(), engine.problems(), events::of_problems, stop.clone());
    let conditions =
        condition::report(client, node.clone(), state.subscribe(), engine.problems(), stop.clone());
    let reports = tokio::spawn(async { tokio::join!(conditions, events) });
    let mut helpers = JoinSet::new();
    helpers.spawn(health::run(publisher.subscribe(), state.subscribe()));
    if health_port != 0 {
        let metrics = telemetry.metrics.clone();
        let sources =
            node_health::Sources::new(publisher.subscribe(), state.subscribe(), engine.problems(), metrics);
        helpers.spawn(node_health::run(health_port, sources));
    }
    helpers.spawn(announce::run(engine.uplinks(), publisher.subscribe()));
    if let Some(links) = events_of.links {
        helpers.spawn(watch_links(links, sender.clone()));
    }
    if let Some(events) = events_of.flows {
        helpers.spawn(flows::run(node, events, telemetry.flows.clone(), flow_log, sender.clone()));
    }
    if let Some(path) = flows_socket {
        helpers.spawn(flows::serve(cni::listen(&path)?, telemetry.flows));
    }
    let serve = cni::serve(listener, sender, stop.clone());
    let result = tokio::select! {
        () = engine.run(messages, state, stop.clone()) => Ok(()),
        served = serve => served.map_err(NetworkError::from),
    };
    stop.cancel();
    updates.shutdown().await;
    helpers.shutdown().await;
    reports.abort();
    result
}

/// Tells the engine of changed links and addresses, until it has ended.
pub async fn watch_links(mut links: LinkWatcher, engine: mpsc::Sender<Message>) {
    while engine.send(Message::Links(links.next().await)).await.is_ok() {}
}
