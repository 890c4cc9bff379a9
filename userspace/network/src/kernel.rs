//! The real datapath as a [`Dataplane`], and the network agent as the binary starts it.

use std::path::PathBuf;

use async_trait::async_trait;
use skep_datapath::{
    ApplyError, Datapath, DatapathError, NodeLinks, Observation, Options, PodInterface, PodLink,
    ServicesInForce,
};
use skep_netplan::{Observed, Write};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dataplane::{Dataplane, DataplaneError, Expiry, FlowTableState, Interface, Link, PartlyApplied};
use crate::{DataplaneEvents, NetworkConfig, NetworkError, Parts, Subscriptions};

/// The network agent over the real datapath; `skep agent --network-only` is this and the informers.
#[derive(Clone, Debug)]
pub struct KernelNetwork {
    pub config: NetworkConfig,
    pub datapath: Options,
}

impl KernelNetwork {
    /// Loads or adopts the datapath, then runs the agent; see [`crate::run`].
    pub async fn run(
        self,
        client: kube::Client,
        subscriptions: Subscriptions,
        parts: Parts,
        stop: CancellationToken,
    ) -> Result<(), NetworkError> {
        let KernelNetwork { mut config, datapath: options } = self;
        config.overlay = options.overlay;
        let mut datapath = Datapath::open(options).await.map_err(NetworkError::Open)?;
        parts.telemetry.metrics.set_counters(datapath.counters().map_err(NetworkError::Open)?);
        let events = DataplaneEvents {
            flows: datapath.flows().map_err(NetworkError::Open)?,
            links: Some(datapath.watch_links().map_err(NetworkError::Open)?),
        };
        let links = datapath.links();
        config.node_addrs = links.addrs.iter().copied().collect();
        config.uplinks = links.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let mut logging = JoinSet::new();
        if let Some(log) = datapath.program_log().map_err(NetworkError::Open)? {
            logging.spawn(log.run());
        }
        if config.mtu == 0 {
            config.mtu = datapath.pod_mtu();
        }
        let ended = crate::run(config, (datapath, events), client, subscriptions, parts, stop).await;
        logging.shutdown().await;
        ended
    }
}

#[async_trait]
impl Dataplane for Datapath {
    fn observed(&self) -> Result<Observed, DataplaneError> {
        Datapath::observed(self).map_err(failed("read back the maps"))
    }

    fn apply(&mut self, writes: &[Write]) -> Result<(), PartlyApplied> {
        let partly = |error: ApplyError| {
            tracing::debug!(write = ?error.write, "write failed");
            PartlyApplied {
                done: error.index,
                needless: matches!(*error.source, DatapathError::RoutedByOthers { .. }),
                error: DataplaneError::new("write", error.source),
            }
        };
        Datapath::apply(self, writes).map_err(partly)
    }

    async fn add_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError> {
        if !link.chained {
            let added = Datapath::add_pod(self, pod_link(link)).await;
            return added.map(interface).map_err(failed("add a pod's interface"));
        }
        // Another plugin's interface: only checked, and our programs attached.
        match Datapath::check_pod(self, pod_link(link)).await {
            Err(DatapathError::NotAttached { ifindex }) => {
                Dataplane::attach_pod(self, ifindex)?;
                Dataplane::check_pod(self, link).await
            }
            other => other.map(interface).map_err(failed("check a chained interface")),
        }
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        Datapath::attach_pod(self, ifindex).map_err(failed("attach a pod's programs"))
    }

    async fn check_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError> {
        let checked = Datapath::check_pod(self, pod_link(link)).await;
        checked.map(interface).map_err(failed("check a pod's interface"))
    }

    async fn delete_pod(&mut self, link: &Link) -> Result<(), DataplaneError> {
        if link.chained {
            // The plugin that made it deletes it, and our programs go with it.
            return Ok(());
        }
        Datapath::delete_pod(self, &link.host_ifname).await.map_err(failed("delete a pod's interface"))
    }

    fn expire_flows(&self, in_force: ServicesInForce, namespaces: Vec<PathBuf>) -> Expiry {
        let (flows, sockets) =
            (self.collect_flows(in_force.clone()), self.abort_stale_sockets(in_force, namespaces));
        Box::pin(async move {
            let flows = flows.await.map_err(failed("expire flows"))?;
            let sockets = sockets.await.map_err(failed("end datagram sockets"))?;
            tracing::debug!(live = flows.live, removed = flows.removed, sockets, "expired flows");
            if flows.live >= flows.size / 10 * 9 {
                let (live, size) = (flows.live, flows.size);
                tracing::warn!(
                    live,
                    size,
                    "the table of flows is almost full; a larger --conntrack-max helps"
                );
            }
            let skep_datapath::Collected { live, removed, size } = flows;
            Ok(FlowTableState { live, removed, size })
        })
    }

    fn set_links(&mut self, links: &NodeLinks) -> Result<(), DataplaneError> {
        Datapath::set_links(self, links.clone()).map_err(failed("follow the node's links"))
    }

    fn observe(&mut self, observation: Observation) -> Result<(), DataplaneError> {
        Datapath::observe(self, observation).map_err(failed("say which flow events are wanted"))
    }
}

fn failed(operation: &'static str) -> impl FnOnce(DatapathError) -> DataplaneError {
    move |source| DataplaneError::new(operation, source)
}

fn pod_link(link: &Link) -> PodLink {
    let Link { netns, ifname, host_ifname, addrs, mtu, chained: _ } = link.clone();
    PodLink { netns, ifname, host_ifname, addrs, mtu }
}

fn interface(interface: PodInterface) -> Interface {
    let PodInterface { ifindex, mac, host_mac } = interface;
    Interface { ifindex, mac, host_mac }
}
