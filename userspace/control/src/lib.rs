//! Controllers and scheduler. In: [`Clients`] of an API server (in-process or over TLS) and a [`Config`]. Out: ordinary API
//! writes.
//!
//! One [`hub`] of informers feeds equal subscribers, none of which imports another: the runner of the pure
//! [`controllers`], the [`scheduler`], the garbage collector, the emptying of namespaces and the counting for quotas.
//! [`Parts`] selects which of them run in this process.

pub mod action;
mod autoscaling;
pub mod cache;
mod clients;
mod clock;
pub mod config;
pub mod controllers;
mod discovery;
mod events;
mod garbage_collector;
mod guard;
pub mod health;
mod hub;
mod leader;
pub mod meta;
mod namespaces;
pub mod pool;
mod quotas;
mod requests;
mod runner;
pub mod scheduler;
mod supervise;
mod timer;
mod token_secrets;
mod transform;
mod work_queue;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use cache::Kind;
use hub::Hub;
use supervise::Supervisor;

pub use clients::Clients;
pub use health::Health;

pub use leader::release;

pub use config::{
    Config, LeaderElection, NODE_ADDRESSES, NodeNames, OtherPart, Parts, SignError, SignRequest, Signer,
};

/// Why the parts cannot run. A lost leadership is not among the reasons: it restarts them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
}

const MIN_NODE_GRACE: Duration = Duration::from_secs(5);
/// Runs the selected parts until the future is dropped; returns only if the configuration cannot be used.
pub async fn run(clients: impl Into<Clients>, config: Config) -> Result<(), Error> {
    let clients = clients.into();
    if config.node_grace < MIN_NODE_GRACE {
        return Err(Error::Config(format!("node grace {:?} is under {MIN_NODE_GRACE:?}", config.node_grace)));
    }
    if let Some(network) = config.cluster_cidrs.iter().find(|n| n.ip() != n.network()) {
        return Err(Error::Config(format!("cluster CIDR {network} has host bits set")));
    }
    let Some(election) = config.leader_election.clone() else {
        lead(&clients, &config).await;
        return Ok(());
    };
    let mut candidate = leader::Candidate::new(clients.manager(), election);
    loop {
        candidate.acquire().await;
        tokio::select! {
            () = candidate.hold() => {}
            () = lead(&clients, &config) => {}
        }
        config.health.stopped();
    }
}

/// Everything that only the leader does; dropping the future ends all of it. Each part is a task of its own, and starts
/// again with what the hub knows when it fails.
async fn lead(clients: &Clients, config: &Config) {
    let mut parts = Supervisor::new(config.health.clone());
    let (controllers, scheduler) = match config.parts {
        Parts::All => (true, true),
        Parts::Controllers => (true, false),
        Parts::Scheduler => (false, true),
    };
    let hub = Hub::new(if controllers { Kind::ALL } else { scheduler::KINDS }, config.health.clone());
    if controllers {
        control(clients, config, &hub, &mut parts);
        for (name, part) in &config.others {
            let (part, clients) = (part.clone(), clients.clone());
            parts.run(name, move || part(&clients));
        }
    }
    if scheduler {
        let (client, hub, health) = (clients.scheduler(), hub.clone(), config.health.clone());
        parts.run("scheduler", move || scheduler::run(client.clone(), hub.subscribe(), health.clone()));
    }
    let client = clients.manager();
    parts.run("informers", move || {
        let (hub, client) = (hub.clone(), client.clone());
        async move { hub.run(client).await }
    });
    parts.wait().await;
}

/// Starts the controllers, garbage collection, namespaces, quotas and autoscaling.
fn control(clients: &Clients, config: &Config, hub: &Hub, parts: &mut Supervisor) {
    // Quotas also count kinds that only the garbage collector watches.
    let (ended, ended_elsewhere) = mpsc::unbounded_channel();
    // A part that starts again takes the channel over.
    let ended_elsewhere = Arc::new(tokio::sync::Mutex::new(ended_elsewhere));
    let (all, part_hub, part_clients) = (config.clone(), hub.clone(), clients.clone());
    parts.run("controllers", move || {
        let controllers = controllers::all(&all);
        runner::run(&part_clients, part_hub.subscribe(), controllers, all.health.clone())
    });
    let (part_hub, part_client) = (hub.clone(), clients.controller("generic-garbage-collector"));
    parts.run("garbage-collector", move || {
        garbage_collector::run(part_client.clone(), part_hub.subscribe(), ended.clone())
    });
    let (part_hub, part_client) = (hub.clone(), clients.controller("namespace-controller"));
    parts.run("namespaces", move || namespaces::run(part_client.clone(), part_hub.subscribe()));
    let (part_hub, part_client) = (hub.clone(), clients.controller("resourcequota-controller"));
    parts.run("quotas", move || {
        let (client, subscription, ended) =
            (part_client.clone(), part_hub.subscribe(), ended_elsewhere.clone());
        async move { quotas::run(client, subscription, &mut *ended.lock().await).await }
    });
    let (part_hub, part_client) = (hub.clone(), clients.controller("horizontal-pod-autoscaler"));
    parts.run("autoscaling", move || autoscaling::run(part_client.clone(), part_hub.subscribe()));
    let (part_hub, part_client, root_ca) = (hub.clone(), clients.manager(), config.root_ca_pem.clone());
    parts.run("token-secrets", move || {
        token_secrets::run(part_client.clone(), part_hub.subscribe(), root_ca.clone())
    });
}
