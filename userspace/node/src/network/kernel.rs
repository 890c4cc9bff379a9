//! The real datapath behind the [`Dataplane`] door, and the network half as the agent starts it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use skep_datapath::{Datapath, DatapathError, Options, PodInterface, PodLink};
use skep_netplan::{Observed, Write};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dataplane::{Dataplane, Failed, Interface, Link};
use super::{NetworkConfig, run};
use crate::config::{NetworkState, NodeNetwork};

/// The network half for [`crate::AgentConfig::network`]; also all there is of `skep agent --network-only`.
#[derive(Clone, Debug)]
pub struct KernelNetwork {
    pub config: NetworkConfig,
    pub datapath: Options,
}

#[async_trait]
impl NodeNetwork for KernelNetwork {
    async fn run(
        self: Arc<Self>,
        node: String,
        client: kube::Client,
        state: watch::Sender<NetworkState>,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let datapath = Datapath::open(self.datapath.clone()).await?;
        let mut config = NetworkConfig { node, overlay: self.datapath.overlay, ..self.config.clone() };
        if config.mtu == 0 {
            config.mtu = datapath.pod_mtu();
        }
        run(config, datapath, client, state, stop).await?;
        Ok(())
    }
}

#[async_trait]
impl Dataplane for Datapath {
    fn observed(&self) -> Result<Observed, String> {
        Datapath::observed(self).map_err(|error| chain(&error))
    }

    fn apply(&mut self, writes: &[Write]) -> Result<(), Failed> {
        let failed = |error: skep_datapath::ApplyError| Failed { done: error.index, reason: chain(&error) };
        Datapath::apply(self, writes).map_err(failed)
    }

    async fn add_pod(&mut self, link: &Link) -> Result<Interface, String> {
        if !link.chained {
            return Datapath::add_pod(self, pod_link(link))
                .await
                .map(interface)
                .map_err(|error| chain(&error));
        }
        // It is another plugin's: it is only looked at, and our programs put on it.
        match Datapath::check_pod(self, pod_link(link)).await {
            Err(DatapathError::NotAttached { ifindex }) => {
                Dataplane::attach_pod(self, ifindex)?;
                Dataplane::check_pod(self, link).await
            }
            other => other.map(interface).map_err(|error| chain(&error)),
        }
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<(), String> {
        Datapath::attach_pod(self, ifindex).map_err(|error| chain(&error))
    }

    async fn check_pod(&mut self, link: &Link) -> Result<Interface, String> {
        Datapath::check_pod(self, pod_link(link)).await.map(interface).map_err(|error| chain(&error))
    }

    async fn delete_pod(&mut self, link: &Link) -> Result<(), String> {
        if link.chained {
            // Whoever made it takes it down, and our programs go with it.
            return Ok(());
        }
        Datapath::delete_pod(self, &link.host_ifname).await.map_err(|error| chain(&error))
    }

    async fn tidy(&mut self, maps: &Observed, namespaces: &[PathBuf]) -> Result<(), String> {
        let flows = self.collect_flows(maps).map_err(|error| chain(&error))?;
        let sockets = self.end_sockets(maps, namespaces).await.map_err(|error| chain(&error))?;
        tracing::debug!(live = flows.live, removed = flows.removed, sockets, "tidied flows");
        Ok(())
    }
}

fn pod_link(link: &Link) -> PodLink {
    let Link { netns, ifname, host_ifname, addrs, mtu, chained: _ } = link.clone();
    PodLink { netns, ifname, host_ifname, addrs, mtu }
}

fn interface(interface: PodInterface) -> Interface {
    let PodInterface { ifindex, mac, host_mac } = interface;
    Interface { ifindex, mac, host_mac }
}

/// The error with all its causes: an errno alone says little, and so does the operation alone.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
