//! The agent's gateway: its flags, and its data plane, which outlives renewals of the node's certificates.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};
use skep_gateway::ingress::Ports;
use skep_gateway::{AccessLog, Bound, Gateway, Limits};
use skep_network::{FlowLog, GatewaySubscriptions, Informers, NodeGateway, Telemetry};
use skep_node::MetricsSource;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

#[derive(clap::Args)]
pub(super) struct IngressArguments {
    /// Port of the node's addresses at which Ingresses are served while there are any; 0: none [default: 80, with --network-only none]
    #[arg(long)]
    ingress_http_port: Option<u16>,
    /// The same for TLS, while an Ingress has it [default: 443, with --network-only none]
    #[arg(long)]
    ingress_https_port: Option<u16>,
    /// File to which requests of Ingresses are logged, a line of JSON each
    #[arg(long)]
    ingress_access_log: Option<PathBuf>,
    /// Log one request of so many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    ingress_access_log_one_of: u64,
}

/// The data plane on threads of its own.
pub(super) struct DataPlane {
    gateway: Gateway,
    ports: Ports,
    bound: watch::Receiver<Bound>,
    task: JoinHandle<()>,
}

impl IngressArguments {
    /// Starts the data plane unless both ports are off. It ends after `stop`.
    pub(super) fn start(
        &self,
        by_default: bool,
        addresses: &[IpAddr],
        stop: &CancellationToken,
    ) -> Result<Option<DataPlane>> {
        let port = |given: Option<u16>, default: u16| {
            given.or(by_default.then_some(default)).filter(|port| *port != 0)
        };
        let ports = Ports {
            http: port(self.ingress_http_port, HTTP_PORT),
            https: port(self.ingress_https_port, HTTPS_PORT),
        };
        if ports == Ports::default() {
            return Ok(None);
        }
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let gateway = Gateway::new(Limits::of_descriptors(descriptors), self.access_log()?);
        // Requests have all processors, and wait for nothing else that the agent does.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            runtime.thread_name("gateway").enable_all().build().context("start the gateway's runtime")?;
        let (bound_in, bound) = watch::channel(Bound::default());
        let (running, addresses, stop) = (gateway.clone(), addresses.to_vec(), stop.clone());
        let task = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let run = tokio::spawn(async move { running.run(&addresses, bound_in, stop).await });
                if let Err(error) = run.await {
                    tracing::error!(%error, "the gateway panicked");
                }
            });
        });
        Ok(Some(DataPlane { gateway, ports, bound, task }))
    }

    fn access_log(&self) -> Result<Option<AccessLog>> {
        let Some(path) = &self.ingress_access_log else { return Ok(None) };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let log = AccessLog::new(std::io::BufWriter::new(file), self.ingress_access_log_one_of);
        Ok(Some(log.context("start the access log")?))
    }
}

/// The flow log names the routes of the gateway's connections.
pub(super) fn telemetry(data_plane: Option<&DataPlane>) -> Telemetry {
    let flows = FlowLog::new(data_plane.map(|data_plane| data_plane.gateway.clone()));
    Telemetry { flows, ..Telemetry::default() }
}

impl DataPlane {
    /// The part that follows the cluster.
    pub(super) fn gateway(&self, node: &str, informers: &mut Informers) -> NodeGateway {
        NodeGateway {
            node: node.to_owned(),
            gateway: self.gateway.clone(),
            ports: self.ports,
            subscriptions: GatewaySubscriptions::new(informers),
            bound: self.bound.clone(),
        }
    }

    pub(super) fn metrics(&self) -> MetricsSource {
        let gateway = self.gateway.clone();
        Arc::new(move |out: &mut String| gateway.write_metrics(out))
    }

    /// Waits until the last requests have ended.
    pub(super) async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "end the gateway failed");
        }
    }
}
