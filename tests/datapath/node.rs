//! One node in a network namespace: its datapath, its pods, an uplink.

use std::net::IpAddr;

use anyhow::{Context, Result};
use skep_abi::{Addr, Pod};
use skep_datapath::{Datapath, Options, PodInterface, PodLink, XdpMode};
use skep_netplan::Write;
use skep_tests::bpffs;
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::{NetNs, link};

pub(crate) struct Node {
    pub(crate) netns: NetNs,
    pub(crate) cgroup: Cgroup,
    pub(crate) datapath: Option<Datapath>,
    /// At most one of each family.
    pub(crate) addrs: Vec<IpAddr>,
    name: String,
    slots: u32,
    overlay: bool,
    /// Of the next [`Node::open`].
    pub(crate) xdp: XdpMode,
}

impl Node {
    /// A node whose uplink is a veth to `outside`; each pair is an address of the node's and one of the outside's.
    pub(crate) fn new(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)]) -> Result<Node> {
        Node::start(name, outside, addrs, false)
    }

    /// The same with VXLAN to other nodes.
    pub(crate) fn with_overlay(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)]) -> Result<Node> {
        Node::start(name, outside, addrs, true)
    }

    fn start(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)], overlay: bool) -> Result<Node> {
        // An interrupted run leaves its pins, and a datapath adopts what it finds.
        let _ = Datapath::remove(&bpffs::folder(name)?);
        let netns = NetNs::new(name)?;
        let peer = format!("to-{name}");
        link(&netns, "up0", outside, &peer)?;
        for (ours, theirs) in addrs {
            let bits = if ours.is_ipv4() { 24 } else { 64 };
            netns.ip(&["addr", "add", &format!("{ours}/{bits}"), "dev", "up0", "nodad"])?;
            outside.ip(&["addr", "add", &format!("{theirs}/{bits}"), "dev", &peer, "nodad"])?;
            netns.ip(&["route", "add", "default", "via", &theirs.to_string()])?;
        }
        let cgroup = Cgroup::new(name)?;
        let addrs = addrs.iter().map(|(ours, _)| *ours).collect();
        let mut node = Node {
            netns,
            cgroup,
            datapath: None,
            addrs,
            name: name.to_owned(),
            slots: 0,
            overlay,
            xdp: XdpMode::Auto,
        };
        node.open()?;
        Ok(node)
    }

    /// Opens the datapath, as a starting agent does.
    pub(crate) fn open(&mut self) -> Result<()> {
        let options = Options {
            bpffs: bpffs::folder(&self.name)?,
            cgroup: self.cgroup.path().to_owned(),
            uplink: "up0".to_owned(),
            xdp: self.xdp,
            node_addrs: self.addrs.clone(),
            overlay: self.overlay,
        };
        let opened = self.netns.run(move || runtime().block_on(Datapath::open(options)))?;
        self.datapath = Some(opened.context("open the datapath")?);
        Ok(())
    }

    /// Opens the datapath anew, with the overlay or without.
    pub(crate) fn set_overlay(&mut self, overlay: bool) -> Result<()> {
        self.overlay = overlay;
        self.datapath = None;
        self.open()
    }

    pub(crate) fn apply(&mut self, writes: &[Write]) -> Result<()> {
        let datapath = self.datapath.as_mut().context("no datapath")?;
        Ok(self.netns.run(|| datapath.apply(writes))??)
    }

    /// A pod in a namespace of its own, connected, known and under no policy.
    pub(crate) fn add_pod(&mut self, name: &str, addrs: &[IpAddr]) -> Result<(NetNs, PodInterface, u32)> {
        let pod = NetNs::new(name)?;
        let link = PodLink {
            netns: pod.path(),
            ifname: "eth0".to_owned(),
            host_ifname: format!("v{name}"),
            addrs: addrs.to_vec(),
            mtu: self.datapath.as_ref().context("no datapath")?.pod_mtu(),
        };
        let slot = self.slots;
        self.slots += 1;
        let datapath = self.datapath.as_mut().context("no datapath")?;
        let interface = self.netns.run(|| -> Result<PodInterface> {
            let interface = runtime().block_on(datapath.add_pod(link))?;
            let known =
                Pod { ifindex: interface.ifindex, slot, mac: interface.mac, host_mac: interface.host_mac };
            let puts: Vec<Write> = addrs.iter().map(|addr| Write::PutPod(Addr::from(*addr), known)).collect();
            datapath.apply(&puts)?;
            datapath.attach_pod(interface.ifindex)?;
            Ok(interface)
        })??;
        Ok((pod, interface, slot))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.datapath = None;
        if let Ok(folder) = bpffs::folder(&self.name) {
            let _ = Datapath::remove(&folder);
        }
    }
}

/// A runtime of the calling thread's own, since the thread is what lives in a namespace.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
