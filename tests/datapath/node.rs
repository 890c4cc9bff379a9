//! One node in a network namespace: its datapath, its pods, an uplink; and links for several.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use skep_abi::{Addr, Pod};
use skep_datapath::{
    Datapath, Options, PodInterface, PodLink, ProgramLogLevel, SocketLb, Timeouts, Uplinks, XdpMode,
};
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
    /// As `xdp`.
    pub(crate) conntrack_max: u32,
    pub(crate) timeouts: Timeouts,
    pub(crate) pod_new_flows: u32,
    pub(crate) socket_lb: SocketLb,
    pub(crate) service_cidrs: Vec<IpNetwork>,
    pub(crate) masquerade_exemptions: Vec<IpNetwork>,
    pub(crate) program_log: ProgramLogLevel,
    pub(crate) big_tcp: bool,
}

impl Node {
    /// A node whose uplink is a veth to `outside`; each pair is an address of the node's and one of the outside's.
    pub(crate) fn new(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)]) -> Result<Node> {
        Node::to_outside(name, outside, addrs, false)
    }

    /// The same with VXLAN to other nodes.
    pub(crate) fn with_overlay(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)]) -> Result<Node> {
        Node::to_outside(name, outside, addrs, true)
    }

    /// A node on a link with others; `gateways` are whom it sends everything to that is not on it.
    pub(crate) fn on_lan(name: &str, lan: &Lan, addrs: &[IpAddr], gateways: &[IpAddr]) -> Result<Node> {
        Node::start(name, addrs.to_vec(), false, |netns| {
            lan.join(netns, "up0", addrs)?;
            gateways.iter().try_for_each(|gateway| default_route(netns, *gateway))
        })
    }

    /// A node without an overlay; `wire` makes its uplink `up0`.
    pub(crate) fn wired(
        name: &str,
        addrs: &[IpAddr],
        wire: impl FnOnce(&NetNs) -> Result<()>,
    ) -> Result<Node> {
        Node::start(name, addrs.to_vec(), false, wire)
    }

    fn to_outside(name: &str, outside: &NetNs, addrs: &[(IpAddr, IpAddr)], overlay: bool) -> Result<Node> {
        let own = addrs.iter().map(|(ours, _)| *ours).collect();
        Node::start(name, own, overlay, |netns| {
            let peer = format!("to-{name}");
            link(netns, "up0", outside, &peer)?;
            for (ours, theirs) in addrs {
                address(netns, "up0", *ours)?;
                address(outside, &peer, *theirs)?;
                default_route(netns, *theirs)?;
            }
            Ok(())
        })
    }

    fn start(
        name: &str,
        addrs: Vec<IpAddr>,
        overlay: bool,
        wire: impl FnOnce(&NetNs) -> Result<()>,
    ) -> Result<Node> {
        // An interrupted run leaves its pins, and a datapath adopts what it finds.
        let _ = Datapath::remove(&bpffs::folder(name)?);
        let netns = NetNs::new(name)?;
        wire(&netns)?;
        let mut node = Node {
            netns,
            cgroup: Cgroup::new(name)?,
            datapath: None,
            addrs,
            name: name.to_owned(),
            slots: 0,
            overlay,
            xdp: XdpMode::Auto,
            conntrack_max: 0,
            timeouts: Timeouts::DEFAULT,
            pod_new_flows: 0,
            socket_lb: SocketLb::All,
            service_cidrs: Vec::new(),
            masquerade_exemptions: Vec::new(),
            program_log: ProgramLogLevel::Off,
            big_tcp: false,
        };
        node.open()?;
        Ok(node)
    }

    /// Where the datapath pins.
    pub(crate) fn bpffs(&self) -> Result<PathBuf> {
        bpffs::folder(&self.name)
    }

    /// Opens the datapath, as a starting agent does.
    pub(crate) fn open(&mut self) -> Result<()> {
        let options = Options {
            bpffs: self.bpffs()?,
            cgroup: self.cgroup.path().to_owned(),
            uplinks: Uplinks::Named(vec!["up0".to_owned()]),
            xdp: self.xdp,
            node_addrs: self.addrs.clone(),
            overlay: self.overlay,
            conntrack_max: self.conntrack_max,
            timeouts: self.timeouts,
            pod_new_flows: self.pod_new_flows,
            socket_lb: self.socket_lb,
            service_cidrs: self.service_cidrs.clone(),
            masquerade_exemptions: self.masquerade_exemptions.clone(),
            program_log: self.program_log,
            big_tcp: self.big_tcp,
        };
        let opened = self.netns.run(move || runtime().block_on(Datapath::open(options)))?;
        self.datapath = Some(opened.context("open the datapath")?);
        Ok(())
    }

    /// Opens the datapath again, with the overlay or without.
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
            let PodInterface { ifindex, mac, host_mac } = interface;
            let known = Pod { ifindex, slot, mac, host_mac, ..Pod::default() };
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

/// A link that several nodes and clients are on: a bridge in a namespace of its own.
pub(crate) struct Lan(NetNs);

impl Lan {
    pub(crate) fn new(name: &str) -> Result<Lan> {
        let netns = NetNs::new(name)?;
        netns.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        netns.ip(&["link", "set", "br0", "up"])?;
        Ok(Lan(netns))
    }

    /// Gives the namespace an interface on the link.
    pub(crate) fn join(&self, netns: &NetNs, ifname: &str, addrs: &[IpAddr]) -> Result<()> {
        link(netns, ifname, &self.0, netns.name())?;
        self.0.ip(&["link", "set", netns.name(), "master", "br0"])?;
        addrs.iter().try_for_each(|addr| address(netns, ifname, *addr))
    }
}

fn address(netns: &NetNs, ifname: &str, addr: IpAddr) -> Result<()> {
    let bits = if addr.is_ipv4() { 24 } else { 64 };
    netns.ip(&["addr", "add", &format!("{addr}/{bits}"), "dev", ifname, "nodad"])
}

fn default_route(netns: &NetNs, via: IpAddr) -> Result<()> {
    netns.ip(&["route", "add", "default", "via", &via.to_string()])
}

/// A runtime of the calling thread's own, since the thread is what lives in a namespace.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
