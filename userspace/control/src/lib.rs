//! Controllers and scheduler. In: a `kube::Client` (in-process or over TLS) and a [`Config`].
//! Out: ordinary API writes. Deciding is pure (`controllers/*`); one runner performs.

pub mod action;
pub mod config;
pub mod controllers;
mod leader;
pub mod meta;
pub mod pool;
mod runner;
pub mod scheduler;
mod slim;
pub mod view;

use std::time::Duration;

use kube::Client;

pub use config::{Config, LeaderElection, SignError, SignRequest, Signer};

/// Why the controllers cannot run. A lost leadership is not among the reasons: it restarts them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
}

const LEAST_NODE_GRACE: Duration = Duration::from_secs(5);
/// Pause before controllers that ended unasked start again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs every controller until the future is dropped; returns only if the configuration cannot be used.
pub async fn run(client: Client, config: Config) -> Result<(), Error> {
    if config.node_grace < LEAST_NODE_GRACE {
        return Err(Error::Config(format!(
            "node grace {:?} is under {LEAST_NODE_GRACE:?}",
            config.node_grace
        )));
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

/// All that only the leader does; dropping the future ends all of it.
async fn lead(client: &Client, config: &Config) {
    runner::run(client.clone(), controllers::all(config), config.scheduler).await;
    tracing::error!("controllers ended; they start again");
}
