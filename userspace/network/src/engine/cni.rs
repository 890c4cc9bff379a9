//! The CNI plugin's calls: addresses, interface and policy of a sandbox, all in force before the answer.
//!
//! In: [`Call`]s with their answer channels. Out: allocations, interfaces, the planner's pods.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use skep_abi::Pod;
use skep_netplan::ipam::Ipam;
use skep_netplan::{Owner, Unit};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::{Add, Added, Call, CallError, Check};
use super::{Engine, WaitingAdd};
use crate::NetworkState;
use crate::allocations::{Allocation, host_ifname, key};
use crate::bandwidth::Bandwidth;
use crate::dataplane::{Dataplane, DataplaneError, Interface, Link};

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error("its policies could not be written: {0}")]
    Policy(String),
    #[error("all slots for pods of this node are taken")]
    NoFreeSlot,
}

impl<D: Dataplane> Engine<D> {
    pub(super) async fn call(&mut self, call: Call) {
        // Sending an answer fails only when the caller is gone.
        match call {
            Call::Add(add, answer) => self.queue_add(add, answer),
            Call::Del { container_id, ifname, answer } => {
                let _ = answer.send(self.del(&container_id, &ifname).await);
            }
            Call::Check(check, answer) => drop(answer.send(self.check(check).await)),
            Call::Gc(valid, answer) => drop(answer.send(self.gc(&valid).await)),
            Call::Status(answer) => drop(answer.send(match self.state() {
                NetworkState::Ready => Ok(()),
                NetworkState::NotReady(why) => Err(CallError::NotYet(why)),
            })),
        }
    }

    fn queue_add(&mut self, add: Add, answer: oneshot::Sender<Result<Added, CallError>>) {
        if add.owner.name.is_empty() || add.owner.namespace.is_empty() {
            let message = "CNI_ARGS do not name the pod (K8S_POD_NAMESPACE, K8S_POD_NAME)".to_owned();
            let _ = answer.send(Err(CallError::Invalid(message)));
            return;
        }
        let deadline = Instant::now() + self.config.pod_timeout;
        self.waiting.push(WaitingAdd { add, answer, deadline });
    }

    /// Serves every ADD whose pod is known by now, and refuses those whose deadline has passed.
    pub(super) async fn serve_waiting(&mut self) {
        let now = Instant::now();
        for WaitingAdd { add, answer, deadline } in std::mem::take(&mut self.waiting) {
            if answer.is_closed() {
                continue;
            }
            match self.missing(&add) {
                None => drop(answer.send(self.add(&add).await)),
                Some(missing) if deadline <= now => drop(answer.send(Err(CallError::NotYet(missing)))),
                Some(_) => self.waiting.push(WaitingAdd { add, answer, deadline }),
            }
        }
    }

    /// What an ADD still waits for, in words for people.
    fn missing(&self, add: &Add) -> Option<String> {
        if !self.planner.is_synced() {
            return Some("the first lists from the API server are not complete".to_owned());
        }
        let key = add.owner.key();
        let known = self.planner.index.pod(&key);
        let is_same = known.is_some_and(|pod| add.owner.uid.is_empty() || *pod.uid == *add.owner.uid);
        if !is_same {
            return Some(format!("pod {key} (uid {:?}) is not known from the API server", add.owner.uid));
        }
        let has_addresses = add.chained.is_some() || !self.pod_cidrs().is_empty();
        (!has_addresses).then(|| "the node has no podCIDR yet".to_owned())
    }

    async fn add(&mut self, add: &Add) -> Result<Added, CallError> {
        let key = key(&add.container_id, &add.ifname);
        let known = self.allocations.get(&key).is_some();
        let allocation = self.allocate(add)?;
        let result = self.connect(&key, &allocation).await;
        if result.is_err() && !known {
            // Roll back a new allocation. The first error is the one that the runtime needs.
            let _ = self.del(&add.container_id, &add.ifname).await;
        }
        let interface = result.map_err(|error| CallError::Failed(error.to_string()))?;
        tracing::info!(pod = %add.owner.key(), addrs = ?allocation.addrs, sandbox = add.container_id, "pod connected");
        Ok(Added {
            addrs: allocation.addrs,
            mac: interface.mac,
            host_ifname: allocation.host_ifname,
            host_mac: interface.host_mac,
            mtu: allocation.mtu,
        })
    }

    /// A sandbox that was added before keeps its addresses.
    fn allocate(&mut self, add: &Add) -> Result<Allocation, CallError> {
        if let Some(known) = self.allocations.get(&key(&add.container_id, &add.ifname)) {
            return Ok(known.clone());
        }
        let pod = self.planner.index.pod(&add.owner.key());
        let bandwidth = pod.map(Bandwidth::of).transpose();
        let bandwidth = bandwidth.map_err(|error| CallError::Invalid(error.to_string()))?.unwrap_or_default();
        let (host_ifname, addrs) = match &add.chained {
            Some((host_ifname, addrs)) => (host_ifname.clone(), addrs.clone()),
            None => {
                let ipam = self.ipam().map_err(|error| CallError::NotYet(error.to_string()))?;
                let addrs = ipam.allocate().map_err(|error| CallError::NotYet(error.to_string()))?;
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
            return Err(CallError::Failed(error.to_string()));
        }
        Ok(allocation)
    }

    /// Makes the interface, then writes the pod and its policy to the maps, then attaches the programs.
    async fn connect(&mut self, key: &str, allocation: &Allocation) -> Result<Interface, ConnectError> {
        let interface = self.dataplane.add_pod(&allocation.link()).await?;
        self.plan_pod(key, allocation, interface)?;
        self.planner.retry(&Unit::Policy);
        self.write().await;
        if let Some(failure) = self.planner.failure(&Unit::Policy) {
            return Err(ConnectError::Policy(failure.reason.clone()));
        }
        self.dataplane.attach_pod(interface.ifindex)?;
        Ok(interface)
    }

    /// Gives the interface to the planner; a sandbox that the planner knows keeps its slot.
    fn plan_pod(
        &mut self,
        key: &str,
        allocation: &Allocation,
        interface: Interface,
    ) -> Result<(), ConnectError> {
        let slot = self.planner.attached(key).map(|pod| pod.slot).or_else(|| self.planner.free_slot());
        let slot = slot.ok_or(ConnectError::NoFreeSlot)?;
        let Interface { ifindex, mac, host_mac } = interface;
        let Bandwidth { ingress: ingress_rate, egress: egress_rate } = allocation.bandwidth;
        let pod = Pod { ifindex, slot, mac, host_mac, isolated: 0, ingress_rate, egress_rate };
        self.planner.attach(key, &allocation.owner(), &allocation.addrs, pod);
        Ok(())
    }

    async fn del(&mut self, container_id: &str, ifname: &str) -> Result<(), CallError> {
        let key = key(container_id, ifname);
        let Some(allocation) = self.allocations.get(&key).cloned() else {
            // An earlier agent may have left an interface without an allocation.
            let link = unallocated_link(container_id, ifname);
            return Ok(self.dataplane.delete_pod(&link).await?);
        };
        self.planner.detach(&key);
        // After a failure a later plan removes the pod from the maps.
        self.write().await;
        self.dataplane.delete_pod(&allocation.link()).await?;
        self.allocations.remove(&key).map_err(|error| CallError::Failed(error.to_string()))?;
        self.release(&allocation);
        Ok(())
    }

    async fn check(&mut self, check: Check) -> Result<(), CallError> {
        let Check { key, netns, addrs } = check;
        let Some(allocation) = self.allocations.get(&key) else {
            return Err(CallError::Unknown(format!("sandbox {key} is not connected to this network")));
        };
        let differs = || format!("sandbox {key} has {:?}, the runtime says {addrs:?}", allocation.addrs);
        let known: BTreeSet<_> = allocation.addrs.iter().collect();
        if addrs.iter().collect::<BTreeSet<_>>() != known {
            return Err(CallError::Failed(differs()));
        }
        let link = Link { netns, ..allocation.link() };
        let interface = self.dataplane.check_pod(&link).await?;
        match self.planner.attached(&key) {
            Some(pod) if pod.ifindex == interface.ifindex && pod.mac == interface.mac => Ok(()),
            _ => Err(CallError::Failed(format!("sandbox {key}: its interface is not the one that ADD made"))),
        }
    }

    async fn gc(&mut self, valid: &BTreeSet<String>) -> Result<(), CallError> {
        let gone = self.allocations.iter().filter(|allocation| !valid.contains(&allocation.key()));
        let gone: Vec<(String, String)> = gone.map(|a| (a.container_id.clone(), a.ifname.clone())).collect();
        let mut errors = Vec::new();
        for (container_id, ifname) in gone {
            if let Err(error) = self.del(&container_id, &ifname).await {
                errors.push(format!("{container_id}/{ifname}: {error}"));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(CallError::Failed(errors.join("; "))) }
    }

    pub(super) fn pod_cidrs(&self) -> Vec<IpNetwork> {
        match self.config.pod_cidrs.is_empty() {
            true => self.planner.index.pod_cidrs(),
            false => self.config.pod_cidrs.clone(),
        }
    }

    /// The free addresses of the current networks.
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

    /// Takes over the pods that an earlier agent connected: from the maps where they are pinned, otherwise from their
    /// interfaces.
    pub(super) async fn restore(&mut self) {
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
            if let Err(error) = self.take_over(&allocation).await {
                // The address stays allocated until the runtime calls DEL.
                tracing::warn!(sandbox = allocation.key(), %error, "take over sandbox failed");
            }
        }
    }

    async fn take_over(&mut self, allocation: &Allocation) -> Result<(), ConnectError> {
        let interface = self.dataplane.add_pod(&allocation.link()).await?;
        self.dataplane.attach_pod(interface.ifindex)?;
        self.plan_pod(&allocation.key(), allocation, interface)
    }
}

fn unallocated_link(container_id: &str, ifname: &str) -> Link {
    Link {
        netns: PathBuf::new(),
        ifname: ifname.to_owned(),
        host_ifname: host_ifname(container_id, ifname),
        addrs: Vec::new(),
        mtu: 0,
        chained: false,
    }
}
