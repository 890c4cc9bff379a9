//! What the engine publishes for the agent's other parts, compiled from the index: addresses to announce, health
//! checks to answer, addresses at which to serve DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use skep_netplan::health::ServiceHealth;
use skep_netplan::{Index, announce, health};
use tokio::sync::watch;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Load balancers' addresses that this node answers for on the link.
    pub(crate) announced: BTreeSet<IpAddr>,
    /// Health checks, by health check node port.
    pub(crate) health: BTreeMap<u16, ServiceHealth>,
    /// Whether balancers may send this node new traffic.
    pub(crate) eligible: bool,
    /// Where this node itself serves DNS.
    pub(crate) dns: BTreeSet<IpAddr>,
}

impl Published {
    fn compile(index: &Index) -> Published {
        Published {
            announced: announce::compile(index),
            health: health::compile(index),
            eligible: health::eligible(index),
            dns: index.dns_addrs().collect(),
        }
    }
}

/// Where the engine publishes; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Publisher(watch::Sender<Published>);

impl Publisher {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.0.subscribe()
    }

    /// Sends the index's state to the receivers if it differs from the last one.
    pub(crate) fn publish(&self, index: &Index) {
        let now = Published::compile(index);
        self.0.send_if_modified(|last| {
            let changed = *last != now;
            if changed {
                *last = now;
            }
            changed
        });
    }

    /// The addresses at which an earlier agent served DNS, until the index is known.
    pub(crate) fn adopt_dns(&self, addrs: BTreeSet<IpAddr>) {
        self.0.send_modify(|last| last.dns = addrs);
    }
}
