//! The ways from a client to a server, each in namespaces of its own, all gone when dropped.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use skep_tests::netns::{NetNs, connect};

use crate::cluster::{IPERF_PORT, NODE_ADDR, OPEN, OTHER_ADDR, OTHER_CIDR, OUTSIDE_ADDR, Pair, REQUESTS};
use crate::placement::Placement;
use crate::rules;

/// Who is measured, under which conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) services: Option<u32>,
    pub(crate) policy: Option<bool>,
}

impl Subject {
    pub(crate) fn plain(name: &'static str) -> Subject {
        Subject { name, services: None, policy: None }
    }
}

/// From where to where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) subject: Subject,
    pub(crate) client: Placement,
    pub(crate) server: Placement,
    /// Where the server listens.
    pub(crate) listen: Ipv4Addr,
    /// What the client addresses for requests, and for iperf3.
    pub(crate) requests: SocketAddr,
    pub(crate) iperf: SocketAddr,
}

impl Way {
    /// Straight to the server.
    pub(crate) fn direct(subject: Subject, client: Placement, server: Placement, listen: Ipv4Addr) -> Way {
        let to = |port| SocketAddr::from((listen, port));
        Way { subject, client, server, listen, requests: to(REQUESTS.target), iperf: to(IPERF_PORT) }
    }

    /// By the pair's service.
    pub(crate) fn service(subject: Subject, client: Placement, server: Placement, pair: &Pair) -> Way {
        let to = |port| SocketAddr::from((pair.service(), port));
        let (requests, iperf) = (to(REQUESTS.port), to(IPERF_PORT));
        Way { subject, client, server, listen: pair.server.1, requests, iperf }
    }
}

/// A namespace whose sockets can be opened as often as a benchmark does.
pub(crate) fn pod(name: &str) -> Result<NetNs> {
    let netns = NetNs::new(name)?;
    sysctl(&netns, "net/ipv4/ip_local_port_range", "1024 65535")?;
    sysctl(&netns, "net/ipv4/tcp_tw_reuse", "1")?;
    // Closed connections beyond this number leave no TIME_WAIT socket behind.
    sysctl(&netns, "net/ipv4/tcp_max_tw_buckets", "4096")?;
    Ok(netns)
}

pub(crate) fn sysctl(netns: &NetNs, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    netns.run(|| std::fs::write(&path, value))?.with_context(|| format!("write {path}"))
}

pub(crate) fn place(netns: &NetNs) -> Placement {
    Placement { netns: netns.path(), cgroup: None }
}

/// The name of a pod's interface on its node.
pub(crate) fn host_side(pod: &NetNs) -> String {
    format!("v{}", pod.name())
}

/// Client and server in one namespace.
pub(crate) struct Loopback(NetNs);

impl Loopback {
    pub(crate) fn new() -> Result<Loopback> {
        Ok(Loopback(pod("nb-lo")?))
    }

    pub(crate) fn way(&self) -> Way {
        let place = place(&self.0);
        Way::direct(Subject::plain("loopback"), place.clone(), place, Ipv4Addr::LOCALHOST)
    }
}

/// Two namespaces with one pair of interfaces between them.
pub(crate) struct Veth(NetNs, NetNs);

impl Veth {
    pub(crate) fn new() -> Result<Veth> {
        let (a, b) = (pod("nb-v-a")?, pod("nb-v-b")?);
        let [from, to] = [OPEN.client.1, OPEN.server.1].map(|addr| format!("{addr}/24"));
        connect((&a, "eth0", &from), (&b, "eth0", &to))?;
        Ok(Veth(a, b))
    }

    pub(crate) fn way(&self) -> Way {
        Way::direct(Subject::plain("veth"), place(&self.0), place(&self.1), OPEN.server.1)
    }
}

/// The node's uplink and what is at its other end: a neighbour that stands for the other node.
pub(crate) struct Uplink {
    pub(crate) outside: NetNs,
    /// The outside's end.
    pub(crate) device: &'static str,
}

pub(crate) const UPLINK: &str = "up0";
/// Hardware address of the other node. No interface has it, so frames to it end at the other end of the uplink.
const OTHER_MAC: &str = "02:00:00:00:00:99";

impl Uplink {
    pub(crate) fn new(name: &str, node: &NetNs) -> Result<Uplink> {
        let (outside, device) = (NetNs::new(&format!("{name}-o"))?, "to-node");
        let [inner, outer] = [NODE_ADDR, OUTSIDE_ADDR].map(|addr| format!("{addr}/24"));
        connect((node, UPLINK, &inner), (&outside, device, &outer))?;
        node.ip(&["neigh", "add", &OTHER_ADDR.to_string(), "lladdr", OTHER_MAC, "dev", UPLINK])?;
        node.ip(&["route", "add", "default", "via", &OUTSIDE_ADDR.to_string()])?;
        Ok(Uplink { outside, device })
    }
}

/// Two pods and the node between them, which routes; with or without a peer's rules.
pub(crate) struct Routed {
    pub(crate) node: NetNs,
    pub(crate) uplink: Uplink,
    client: NetNs,
    server: NetNs,
}

impl Routed {
    pub(crate) fn new(name: &str) -> Result<Routed> {
        let node = NetNs::new(&format!("{name}-n"))?;
        sysctl(&node, "net/ipv4/ip_forward", "1")?;
        let uplink = Uplink::new(name, &node)?;
        node.ip(&["route", "add", OTHER_CIDR, "via", &OTHER_ADDR.to_string()])?;
        let client = Routed::pod(&node, &format!("{name}-a"), OPEN.client.1)?;
        let server = Routed::pod(&node, &format!("{name}-b"), OPEN.server.1)?;
        Ok(Routed { node, uplink, client, server })
    }

    /// As usual plugins connect pods: a next hop that is always there, one route on the node.
    fn pod(node: &NetNs, name: &str, addr: Ipv4Addr) -> Result<NetNs> {
        let pod = pod(name)?;
        let host = format!("v{name}");
        connect((node, &host, "169.254.1.1/32"), (&pod, "eth0", &format!("{addr}/32")))?;
        node.ip(&["route", "add", &addr.to_string(), "dev", &host])?;
        pod.ip(&["route", "add", "169.254.1.1", "dev", "eth0"])?;
        pod.ip(&["route", "add", "default", "via", "169.254.1.1"])?;
        Ok(pod)
    }

    pub(crate) fn direct(&self) -> Way {
        Way::direct(Subject::plain("routed"), place(&self.client), place(&self.server), OPEN.server.1)
    }

    pub(crate) fn service(&self, name: &'static str, services: u32) -> Way {
        let subject = Subject { name, services: Some(services), policy: None };
        Way::service(subject, place(&self.client), place(&self.server), &OPEN)
    }

    pub(crate) fn nftables(name: &str, services: u32) -> Result<Routed> {
        let world = Routed::new(name)?;
        load(world.node.command("nft").args(["-f", "-"]), &rules::nftables(services))?;
        Ok(world)
    }

    pub(crate) fn iptables(name: &str, services: u32) -> Result<Routed> {
        let world = Routed::new(name)?;
        load(&mut world.node.command("iptables-restore"), &rules::iptables(services))?;
        Ok(world)
    }
}

fn load(command: &mut Command, text: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {command:?}"))?;
    let written = child.stdin.take().context("no input")?.write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}", why.lines().take(5).collect::<Vec<_>>().join("; "));
    }
    written.with_context(|| format!("write to {command:?}"))
}
