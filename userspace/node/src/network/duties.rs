//! What follows from the index for others than the datapath: addresses to announce, health checks to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use skep_netplan::health::ServiceHealth;
use skep_netplan::{Index, announce, health};
use tokio::sync::watch;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Duties {
    pub(super) announced: BTreeSet<IpAddr>,
    /// By port.
    pub(super) health: BTreeMap<u16, ServiceHealth>,
    /// Whether balancers may send this node new traffic.
    pub(super) eligible: bool,
}

impl Duties {
    fn of(index: &Index) -> Duties {
        Duties {
            announced: announce::compile(index),
            health: health::compile(index),
            eligible: health::eligible(index),
        }
    }

    pub(super) fn tell(index: &Index, told: &watch::Sender<Duties>) {
        let now = Duties::of(index);
        told.send_if_modified(|told| {
            let changed = *told != now;
            if changed {
                *told = now;
            }
            changed
        });
    }
}
