//! Controllers and scheduler. In: a `kube::Client` (in-process or over TLS) and a [`Config`]. Out: ordinary API writes.
//!
//! One [`hub`] of informers feeds equal subscribers, none of which imports another: the runner of the pure
//! [`controllers`], the [`scheduler`], the garbage collector, the emptying of namespaces and the counting for quotas.
//! [`Parts`] selects which of them run in this process.

pub mod action;
pub mod cache;
pub mod config;
pub mod controllers;
mod discovery;
mod events;
mod garbage_collector;
mod hub;
mod leader;
pub mod meta;
mod namespaces;
pub mod pool;
mod quotas;
mod requests;
mod runner;
pub mod scheduler;
mod timer;
mod transform;
mod work_queue;

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;

use cache::Kind;
use hub::Hub;

pub use leader::release;

pub use config::{Config, LeaderElection, NODE_ADDRESSES, NodeNames, Parts, SignError, SignRequest, Signer};

/// Why the parts cannot run. A lost leadership is not among the reasons: it restarts them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
}

const MIN_NODE_GRACE: Duration = Duration::from_secs(5);
/// Pause before parts that ended by themselves start again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs the selected parts until the future is dropped; returns only if the configuration cannot be used.
pub async fn run(client: Client, config: Config) -> Result<(), Error> {
    if config.node_grace < MIN_NODE_GRACE {
        return Err(Error::Config(format!("node grace {:?} is under {MIN_NODE_GRACE:?}", config.node_grace)));
    }
    if let Some(network) = config.cluster_cidrs.iter().find(|n| n.ip() != n.network()) {
        return Err(Error::Config(format!("cluster CIDR {network} has host bits set")));
    }
    let Some(election) = config.leader_election.clone() else {
        loop {
            lead(&client, &config).await;
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    };
    let mut candidate = leader::Candidate::new(client.clone(), election);
    loop {
        candidate.acquire().await;
        tokio::select! {
            () = candidate.hold() => {}
            () = lead(&client, &config) => tokio::time::sleep(RESTART_PAUSE).await,
        }
    }
}

/// Everything that only the leader does; dropping the future ends all of it. Returns when one part ends.
async fn lead(client: &Client, config: &Config) {
    match config.parts {
        Parts::All => {
            let hub = Hub::new(Kind::ALL);
            let scheduling = scheduler::run(client.clone(), hub.subscribe());
            let controlling = control(client, config, &hub);
            tokio::select! {
                () = controlling => {}
                () = scheduling => {}
                () = hub.run(client.clone()) => {}
            }
        }
        Parts::Controllers => {
            let hub = Hub::new(Kind::ALL);
            let controlling = control(client, config, &hub);
            tokio::select! {
                () = controlling => {}
                () = hub.run(client.clone()) => {}
            }
        }
        Parts::Scheduler => scheduler::run_alone(client.clone()).await,
    }
    tracing::error!(parts = ?config.parts, "a part ended unexpectedly; all of them restart");
}

/// Runs the controllers, garbage collection, namespaces and quotas until one of them ends.
fn control(client: &Client, config: &Config, hub: &Hub) -> impl Future<Output = ()> + use<> {
    // Quotas also count kinds that only the garbage collector watches.
    let (ended, ended_elsewhere) = mpsc::unbounded_channel();
    let running = runner::run(client.clone(), hub.subscribe(), controllers::all(config));
    let collecting = garbage_collector::run(client.clone(), hub.subscribe(), ended);
    let emptying = namespaces::run(client.clone(), hub.subscribe());
    let counting = quotas::run(client.clone(), hub.subscribe(), ended_elsewhere);
    async move {
        tokio::select! {
            () = running => {}
            () = collecting => {}
            () = emptying => {}
            () = counting => {}
        }
    }
}
