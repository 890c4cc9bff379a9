//! What the CNI plugin asks for: addresses, interface, policy; all of it in force before the answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use skep_abi::Pod;
use skep_netplan::Owner;
use skep_netplan::ipam::Ipam;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::allocations::{Allocation, host_ifname, key};
use super::super::bandwidth::Bandwidth;
use super::super::dataplane::{Dataplane, Interface, Link};
use super::{Engine, Waiting};
use crate::config::NetworkState;

/// Asked for an interface.
#[derive(Clone, Debug)]
pub struct Add {
    pub container_id: String,
    pub ifname: String,
    pub netns: PathBuf,
    pub owner: Owner,
    /// 0: the node's.
    pub mtu: u32,
    /// Host side and addresses of the interface that another plugin made.
    pub chained: Option<(String, Vec<IpAddr>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub addrs: Vec<IpAddr>,
    pub mac: [u8; 6],
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub mtu: u32,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub key: String,
    pub netns: PathBuf,
    pub addrs: Vec<IpAddr>,
}

pub enum Call {
    Add(Add, oneshot::Sender<Result<Added, Refused>>),
    /// By [`key`].
    Del {
        container_id: String,
        ifname: String,
        answer: oneshot::Sender<Result<(), Refused>>,
    },
    Check(Check, oneshot::Sender<Result<(), Refused>>),
    /// Keys of what stays.
    Gc(BTreeSet<String>, oneshot::Sender<Result<(), Refused>>),
    Status(oneshot::Sender<Result<(), Refused>>),
}

/// Why not; the words are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Worth another try.
    #[error("{0}")]
    NotYet(String),
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Failed(String),
}

impl<D: Dataplane> Engine<D> {
    pub(super) async fn call(&mut self, call: Call) {
        // A caller that has gone away needs no answer.
        match call {
            Call::Add(add, answer) => self.admit(add, answer),
            Call::Del { container_id, ifname, answer } => {
                let _ = answer.send(self.del(&container_id, &ifname).await);
            }
            Call::Check(check, answer) => drop(answer.send(self.check(check).await)),
            Call::Gc(valid, answer) => drop(answer.send(self.gc(&valid).await)),
            Call::Status(answer) => drop(answer.send(match self.state() {
                NetworkState::Ready => Ok(()),
                NetworkState::NotReady(why) => Err(Refused::NotYet(why)),
            })),
        }
    }

    fn admit(&mut self, add: Add, answer: oneshot::Sender<Result<Added, Refused>>) {
        if add.owner.name.is_empty() || add.owner.namespace.is_empty() {
            let why = "CNI_ARGS name no pod (K8S_POD_NAMESPACE, K8S_POD_NAME)".to_owned();
            let _ = answer.send(Err(Refused::Invalid(why)));
            return;
        }
        let until = Instant::now() + self.config.patience;
        self.waiting.push(Waiting { add, answer, until });
    }

    /// Serves every ADD whose pod is known by now, and sends those away that have waited enough.
    pub(super) async fn serve_waiting(&mut self) {
        let now = Instant::now();
        for Waiting { add, answer, until } in std::mem::take(&mut self.waiting) {
            if answer.is_closed() {
                continue;
            }
            match self.unready(&add) {
                None => drop(answer.send(self.add(&add).await)),
                Some(why) if until <= now => drop(answer.send(Err(Refused::NotYet(why)))),
                Some(_) => self.waiting.push(Waiting { add, answer, until }),
            }
        }
    }

    /// What an ADD still waits for.
    fn unready(&self, add: &Add) -> Option<String> {
        if !self.planner.is_synced() {
            return Some("the API server has not been listed yet".to_owned());
        }
        let key = add.owner.key();
        let known = self.planner.index.pod(&key);
        let same = known.is_some_and(|pod| add.owner.uid.is_empty() || *pod.uid == *add.owner.uid);
        if !same {
            return Some(format!("pod {key} (uid {:?}) is not known from the API server", add.owner.uid));
        }
        let addressed = add.chained.is_some() || !self.pod_cidrs().is_empty();
        (!addressed).then(|| "the node has no podCIDR yet".to_owned())
    }

    async fn add(&mut self, add: &Add) -> Result<Added, Refused> {
        let key = key(&add.container_id, &add.ifname);
        let known = self.allocations.get(&key).is_some();
        let allocation = self.allocate(add)?;
        let result = self.connect(&key, &allocation).await;
        if result.is_err() && !known {
            // As if never asked; the first error is the one to tell.
            let _ = self.del(&add.container_id, &add.ifname).await;
        }
        let interface = result.map_err(Refused::Failed)?;
        tracing::info!(pod = %add.owner.key(), addrs = ?allocation.addrs, sandbox = add.container_id, "pod has its network");
        Ok(Added {
            addrs: allocation.addrs,
            mac: interface.mac,
            host_ifname: allocation.host_ifname,
            host_mac: interface.host_mac,
            mtu: allocation.mtu,
        })
    }

    /// The same addresses as before if the sandbox has asked before.
    fn allocate(&mut self, add: &Add) -> Result<Allocation, Refused> {
        if let Some(known) = self.allocations.get(&key(&add.container_id, &add.ifname)) {
            return Ok(known.clone());
        }
        let facts = self.planner.index.pod(&add.owner.key());
        let bandwidth = facts.map(Bandwidth::of).transpose();
        let bandwidth = bandwidth.map_err(|error| Refused::Invalid(error.to_string()))?.unwrap_or_default();
        let (host_ifname, addrs) = match &add.chained {
            Some((host_ifname, addrs)) => (host_ifname.clone(), addrs.clone()),
            None => {
                let ipam = self.ipam().map_err(|error| Refused::NotYet(error.to_string()))?;
                let addrs = ipam.allocate().map_err(|error| Refused::NotYet(error.to_string()))?;
                (host_ifname(&add.container_id, &add.ifname), addrs)
            }
        };
        let Owner { namespace, name, uid } = add.owner.clone();
        let allocation = Allocation {
            container_id: add.container_id.clone(),
            ifname: add.ifname.clone(),
            netns: add.netns.clone(),
            host_ifname,
            namespace,
            name,
            uid,
            addrs,
            mtu: if add.mtu == 0 { self.config.mtu } else { add.mtu },
            chained: add.chained.is_some(),
            bandwidth,
        };
        if let Err(error) = self.allocations.put(allocation.clone()) {
            self.release(&allocation);
            return Err(Refused::Failed(error.to_string()));
        }
        Ok(allocation)
    }

    /// Interface, then policy and place in the maps, then the programs.
    async fn connect(&mut self, key: &str, allocation: &Allocation) -> Result<Interface, String> {
        let interface = self.dataplane.add_pod(&allocation.link()).await?;
        self.place(key, allocation, interface)?;
        self.write().await?;
        self.dataplane.attach_pod(interface.ifindex)?;
        Ok(interface)
    }

    /// Tells the planner of the interface; a sandbox that it knows keeps its slot.
    fn place(&mut self, key: &str, allocation: &Allocation, interface: Interface) -> Result<(), String> {
        let slot = self.planner.attached(key).map(|pod| pod.slot).or_else(|| self.planner.free_slot());
        let slot = slot.ok_or("all slots for pods of this node are taken")?;
        let Interface { ifindex, mac, host_mac } = interface;
        let Bandwidth { ingress: ingress_rate, egress: egress_rate } = allocation.bandwidth;
        let pod = Pod { ifindex, slot, mac, host_mac, reserved: 0, ingress_rate, egress_rate };
        self.planner.attach(key, &allocation.owner(), &allocation.addrs, pod);
        Ok(())
    }

    async fn del(&mut self, container_id: &str, ifname: &str) -> Result<(), Refused> {
        let key = key(container_id, ifname);
        let Some(allocation) = self.allocations.get(&key).cloned() else {
            // An interface without allocation can only be a leftover.
            let link = leftover(container_id, ifname);
            return self.dataplane.delete_pod(&link).await.map_err(Refused::Failed);
        };
        self.planner.detach(&key);
        // Should it fail, the planner takes the pod out of the maps with its next plan.
        let _ = self.write().await;
        self.dataplane.delete_pod(&allocation.link()).await.map_err(Refused::Failed)?;
        self.allocations.remove(&key).map_err(|error| Refused::Failed(error.to_string()))?;
        self.release(&allocation);
        Ok(())
    }

    async fn check(&mut self, check: Check) -> Result<(), Refused> {
        let Check { key, netns, addrs } = check;
        let Some(allocation) = self.allocations.get(&key) else {
            return Err(Refused::Unknown(format!("sandbox {key} has no network of ours")));
        };
        let differs = || format!("sandbox {key} has {:?}, the runtime says {addrs:?}", allocation.addrs);
        let same = addrs.iter().collect::<BTreeSet<_>>() == allocation.addrs.iter().collect::<BTreeSet<_>>();
        if !same {
            return Err(Refused::Failed(differs()));
        }
        let link = Link { netns, ..allocation.link() };
        let interface = self.dataplane.check_pod(&link).await.map_err(Refused::Failed)?;
        match self.planner.attached(&key) {
            Some(pod) if pod.ifindex == interface.ifindex && pod.mac == interface.mac => Ok(()),
            _ => Err(Refused::Failed(format!("sandbox {key}: its interface is not the one that was made"))),
        }
    }

    async fn gc(&mut self, valid: &BTreeSet<String>) -> Result<(), Refused> {
        let gone = self.allocations.iter().filter(|allocation| !valid.contains(&allocation.key()));
        let gone: Vec<(String, String)> = gone.map(|a| (a.container_id.clone(), a.ifname.clone())).collect();
        let mut errors = Vec::new();
        for (container_id, ifname) in gone {
            if let Err(error) = self.del(&container_id, &ifname).await {
                errors.push(format!("{container_id}/{ifname}: {error}"));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Refused::Failed(errors.join("; "))) }
    }

    pub(super) fn pod_cidrs(&self) -> Vec<IpNetwork> {
        match self.config.pod_cidrs.is_empty() {
            true => self.planner.index.pod_cidrs(),
            false => self.config.pod_cidrs.clone(),
        }
    }

    /// Addresses of the networks as they are now, less those that sandboxes have.
    fn ipam(&mut self) -> Result<&mut Ipam, skep_netplan::ipam::IpamError> {
        let networks = self.pod_cidrs();
        if self.ipam.as_ref().is_none_or(|ipam| ipam.networks() != networks) {
            let mut ipam = Ipam::new(&networks)?;
            self.allocations.iter().for_each(|allocation| ipam.restore(&allocation.addrs));
            self.ipam = Some(ipam);
        }
        self.ipam.as_mut().ok_or(skep_netplan::ipam::IpamError::NoNetwork)
    }

    fn release(&mut self, allocation: &Allocation) {
        if let Some(ipam) = self.ipam.as_mut().filter(|_| !allocation.chained) {
            ipam.release(&allocation.addrs);
        }
    }

    /// Pods that an earlier agent connected: by the maps where those live on, else by their interfaces.
    pub(in super::super) async fn restore(&mut self) {
        let all: Vec<Allocation> = self.allocations.iter().cloned().collect();
        let (pinned, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|allocation| {
            let pods = &self.planner.kernel().pods;
            allocation.addrs.iter().all(|addr| pods.contains_key(&(*addr).into()))
        });
        for allocation in pinned {
            let pod = allocation.addrs.first().and_then(|a| self.planner.kernel().pods.get(&(*a).into()));
            if let Some(pod) = pod.copied() {
                self.planner.attach(&allocation.key(), &allocation.owner(), &allocation.addrs, pod);
            }
        }
        for allocation in other {
            let key = allocation.key();
            let taken_over = match self.dataplane.add_pod(&allocation.link()).await {
                Ok(interface) => self
                    .dataplane
                    .attach_pod(interface.ifindex)
                    .and_then(|()| self.place(&key, &allocation, interface)),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = taken_over {
                // Its address stays taken until the runtime says DEL.
                tracing::warn!(
                    sandbox = key,
                    reason,
                    "a sandbox of an earlier agent could not be taken over"
                );
            }
        }
    }
}

fn leftover(container_id: &str, ifname: &str) -> Link {
    Link {
        netns: PathBuf::new(),
        ifname: ifname.to_owned(),
        host_ifname: host_ifname(container_id, ifname),
        addrs: Vec::new(),
        mtu: 0,
        chained: false,
    }
}
