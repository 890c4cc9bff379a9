//! Controllers and scheduler. In: a `kube::Client` (in-process or over TLS) and a [`Config`].
//! Out: ordinary API writes. Deciding is pure (`controllers/*`); one runner performs.

pub mod action;
pub mod config;
pub mod controllers;
pub mod meta;
mod runner;
pub mod view;

pub use config::{Config, LeaderElection, SignError, SignRequest, Signer};

/// Why the controllers stopped. A lost leadership is not among them: it restarts the controllers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
}

/// Runs every controller until the future is dropped; returns only if the configuration cannot be used.
pub async fn run(client: kube::Client, config: Config) -> Result<(), Error> {
    if config.node_grace < std::time::Duration::from_secs(5) {
        return Err(Error::Config(format!("node grace {:?} is under 5 s", config.node_grace)));
    }
    runner::run(client, controllers::all(&config), None).await;
    Ok(())
}
