//! Packets with sources of every kind at every hook, under random policies that change: what passes, the reference verdict allows.
//!
//! `SKEP_FUZZ_PACKETS` is how many; a million take some minutes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node as ApiNode, Pod as ApiPod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_abi::{Direction, Pod as KnownPod, Proto};
use skep_datapath::{At, PodInterface};
use skep_netplan::{Owner, Planner, Write};
use skep_policy::evaluate::{self, LabelMap, Pod, allows};
use skep_tests::netns::NetNs;
use skep_tests::random_policies::{Named, Random};

use super::frame::{Body, Frame};
use super::lab::pass;
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, TO_POD, data, opening};
use crate::node::Node;

const PACKETS: usize = 20_000;
/// Packets between two changes of the policies.
const ROUND: usize = 1_000;
const LOCAL: [&str; 3] = ["one", "two", "three"];
const REMOTE: [&str; 2] = ["four", "five"];
const PORTS: [u16; 3] = [80, 81, 8080];
const SERVICE_PORT: u16 = 90;
const NODE_PORT: u16 = 30_090;
const OVERLAY_PORT: u16 = 4789;
/// TC_ACT_SHOT of linux/pkt_cls.h.
const SHOT: u32 = 2;
/// XDP_TX of linux/bpf.h.
const TX: u32 = 3;
const XDP: &str = "xdp_node";

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

/// Addresses of one family; the networks of [`super::lab::World`].
fn at(v4: bool, net: u8, host: u8) -> IpAddr {
    if v4 {
        IpAddr::from([10, net, 0, host])
    } else {
        IpAddr::from([0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)])
    }
}

const NODE: (u8, u8) = (78, 1);
const OTHER_NODE: (u8, u8) = (78, 2);
const OUTSIDE: [(u8, u8); 2] = [(200, 1), (201, 1)];
const VIP: (u8, u8) = (96, 1);

fn local(pod: usize) -> (u8, u8) {
    (77, 2 + pod as u8)
}

fn remote(pod: usize) -> (u8, u8) {
    (79, 2 + pod as u8)
}

/// Where a packet enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entrance {
    /// The local pod sends it.
    Pod(usize),
    /// The node's stack sends it to the local pod; it came from there.
    ToPod(usize, Origin),
    Uplink,
    /// At the driver, before the uplink's hook.
    Driver,
    Overlay,
    /// The node's stack sends it out of the uplink, from a local pod.
    Leaving(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Pod(usize),
    Network,
}

struct Cluster {
    node: Node,
    planner: Planner,
    world: evaluate::World,
    pods: Vec<(NetNs, PodInterface)>,
    uplink: u32,
    /// By family, IPv4 first; 0: there is none.
    overlay: [u32; 2],
    _outside: NetNs,
}

impl Cluster {
    fn new(name: &str, overlay: bool) -> Result<Cluster> {
        let outside = NetNs::new(&format!("sk{name}o"))?;
        let own = |host| [true, false].map(|v4| at(v4, NODE.0, host));
        let addrs: Vec<(IpAddr, IpAddr)> = own(NODE.1).into_iter().zip(own(254)).collect();
        let start = if overlay { Node::with_overlay } else { Node::new };
        let mut node = start(&format!("sk{name}n"), &outside, &addrs)?;
        if !overlay {
            forward_in_driver(&node.netns)?;
        }
        let mut attached = Vec::new();
        for (pod, app) in LOCAL.iter().enumerate() {
            let addrs = [true, false].map(|v4| at(v4, local(pod).0, local(pod).1));
            let (netns, interface, slot) = node.add_pod(&format!("sk{name}{pod}"), &addrs)?;
            attached.push((netns, interface, slot, *app, addrs));
        }
        let datapath = node.datapath.as_ref().context("no datapath")?;
        let observed = node.netns.run(|| datapath.observed())??;
        let mut planner = Planner::new("here", node.addrs.clone(), observed).with_overlay(overlay);
        fill(&mut planner);
        let mut pods = Vec::new();
        for (netns, interface, slot, app, addrs) in attached {
            let owner = Owner { namespace: "default".into(), name: app.into(), uid: String::new() };
            let PodInterface { ifindex, mac, host_mac } = interface;
            planner.attach(
                app,
                &owner,
                &addrs,
                KnownPod { ifindex, slot, mac, host_mac, ..KnownPod::default() },
            );
            pods.push((netns, interface));
        }
        planner.synced();
        let index = |interface: &str| index_of(&node, interface);
        let overlay = if overlay { [index("skep-vxlan4")?, index("skep-vxlan6")?] } else { [0, 0] };
        let uplink = index("up0")?;
        let of = |app: &str, (net, host): (u8, u8)| Pod {
            namespace: "default".into(),
            labels: LabelMap::from([("app".to_owned(), app.to_owned())]),
            ports: Vec::new(),
            addrs: [true, false].map(|v4| at(v4, net, host)).to_vec(),
        };
        let here = LOCAL.iter().enumerate().map(|(pod, app)| of(app, local(pod)));
        let there = REMOTE.iter().enumerate().map(|(pod, app)| of(app, remote(pod)));
        let world = evaluate::World {
            policies: Vec::new(),
            namespaces: BTreeMap::from([("default".to_owned(), LabelMap::new())]),
            pods: here.chain(there).collect(),
        };
        Ok(Cluster { node, planner, world, pods, uplink, overlay, _outside: outside })
    }

    /// Has these policies in force instead of those before.
    fn set_policies(&mut self, policies: Vec<NetworkPolicy>) -> Result<()> {
        let name = |policy: &NetworkPolicy| policy.metadata.name.clone().unwrap_or_default();
        for old in &self.world.policies {
            self.planner.index.delete_policy(&format!("default/{}", name(old)));
        }
        policies.iter().for_each(|policy| self.planner.index.apply_policy(policy));
        let mut plan = self.planner.plan();
        // No packet leaves the programs here, so the node needs no routes.
        let is_route =
            |write: &&Write| matches!(write, Write::PutRoute { .. } | Write::PutUnreachable { .. });
        let writes: Vec<Write> = plan.writes.iter().filter(|write| !is_route(write)).cloned().collect();
        self.node.apply(&writes)?;
        plan.done(plan.writes.len());
        self.planner.commit(plan);
        self.world.policies = policies;
        Ok(())
    }

    fn interfaces(&self, entrance: Entrance, v4: bool) -> (&'static str, At) {
        let pod = |pod: usize| self.pods[pod].1.ifindex;
        let overlay = self.overlay[usize::from(!v4)];
        match entrance {
            Entrance::Pod(from) => (POD, At { interface: pod(from), came_by: pod(from) }),
            Entrance::ToPod(to, Origin::Pod(from)) => (TO_POD, At { interface: pod(to), came_by: pod(from) }),
            Entrance::ToPod(to, Origin::Network) => (TO_POD, At { interface: pod(to), came_by: self.uplink }),
            Entrance::Uplink => (FROM_OUTSIDE, At { interface: self.uplink, came_by: self.uplink }),
            Entrance::Driver => (XDP, At::default()),
            Entrance::Overlay => (FROM_OUTSIDE, At { interface: overlay, came_by: overlay }),
            Entrance::Leaving(from) => (TO_OUTSIDE, At { interface: self.uplink, came_by: pod(from) }),
        }
    }

    fn pod_at(&self, addr: IpAddr) -> Option<&Pod> {
        self.world.pods.iter().find(|pod| pod.addrs.contains(&addr))
    }

    fn local_at(&self, addr: IpAddr) -> Option<usize> {
        self.world.pods[..LOCAL.len()].iter().position(|pod| pod.addrs.contains(&addr))
    }

    /// Why the packet may not go on like this, if it may not.
    fn refusal(
        &self,
        entrance: Entrance,
        packet: &Sent,
        to: SocketAddr,
        source_out: IpAddr,
    ) -> Option<&'static str> {
        let (source, v4) = (packet.source.ip(), packet.source.is_ipv4());
        let is = |addr: IpAddr, (net, host): (u8, u8)| addr == at(v4, net, host);
        let (from_pod, is_node) = (self.local_at(source), is(source, NODE));
        let spoofed = match entrance {
            Entrance::Pod(pod) | Entrance::Leaving(pod) => {
                from_pod != Some(pod) && !(is_node && matches!(entrance, Entrance::Leaving(_)))
            }
            Entrance::ToPod(_, Origin::Pod(pod)) => from_pod.is_some_and(|owner| owner != pod),
            Entrance::ToPod(_, Origin::Network) | Entrance::Uplink | Entrance::Driver => {
                from_pod.is_some() || is_node
            }
            Entrance::Overlay => {
                self.pod_at(source).is_none() && !is(source, OTHER_NODE) || from_pod.is_some() || is_node
            }
        };
        // What is on its way out has passed a hook that checks the source.
        if spoofed && !matches!(entrance, Entrance::Leaving(_)) {
            return Some("the source is another's");
        }
        if let Entrance::Leaving(_) = entrance {
            let leaves = OUTSIDE.iter().any(|outside| is(to.ip(), *outside));
            return (leaves && self.local_at(source_out).is_some())
                .then_some("a pod's address leaves the cluster");
        }
        let tunnelled = packet.proto == Proto::UDP && to.port() == OVERLAY_PORT && self.overlay != [0, 0];
        if tunnelled
            && (is(to.ip(), NODE) || is(to.ip(), OTHER_NODE))
            && !(matches!(entrance, Entrance::Uplink | Entrance::Driver | Entrance::Overlay)
                && is(source, OTHER_NODE))
        {
            return Some("the overlay's port is for nodes");
        }
        // NetworkPolicy never denies a pod's traffic with its own node and with itself.
        if is_node || is(to.ip(), NODE) || source == to.ip() {
            return None;
        }
        let port = if packet.proto == ICMP[usize::from(!v4)] { 0 } else { to.port() };
        let verdict = |pod: usize, direction, peer| {
            let packet = evaluate::Packet { direction, peer, proto: packet.proto, port };
            allows(&self.world, &self.world.pods[pod], packet)
        };
        if let Some(pod) = from_pod
            && !verdict(pod, Direction::EGRESS, to.ip())
        {
            return Some("egress is denied");
        }
        let denied = self.local_at(to.ip()).is_some_and(|pod| !verdict(pod, Direction::INGRESS, source));
        denied.then_some("ingress is denied")
    }
}

const ICMP: [Proto; 2] = [Proto::ICMP, Proto::ICMPV6];

/// A packet as it was sent.
#[derive(Debug)]
struct Sent {
    source: SocketAddr,
    destination: SocketAddr,
    proto: Proto,
}

/// Has XDP find the next hop of the other node's pods at once, and take the frames for this node's.
fn forward_in_driver(node: &NetNs) -> Result<()> {
    node.ip(&["link", "set", "up0", "address", "02:02:02:02:02:02"])?;
    for v4 in [true, false] {
        let (hop, pods) = (at(v4, OTHER_NODE.0, OTHER_NODE.1), at(v4, 79, 0));
        let bits = if v4 { 24 } else { 64 };
        let (hop, pods) = (hop.to_string(), format!("{pods}/{bits}"));
        node.ip(&[
            "neigh",
            "replace",
            &hop,
            "lladdr",
            "02:02:02:02:02:03",
            "dev",
            "up0",
            "nud",
            "permanent",
        ])?;
        node.ip(&["route", "add", &pods, "via", &hop])?;
    }
    Ok(())
}

/// Everything but policies and attachments.
fn fill(planner: &mut Planner) {
    let both = |(net, host): (u8, u8)| [true, false].map(|v4| at(v4, net, host).to_string());
    let index = &mut planner.index;
    for (name, net, addr) in [("here", 77, NODE), ("there", 79, OTHER_NODE)] {
        let addresses = both(addr).map(|ip| json!({"type": "InternalIP", "address": ip}));
        index.apply_node(&object::<ApiNode>(json!({
            "metadata": {"name": name}, "status": {"addresses": addresses},
            "spec": {"podCIDRs": [format!("10.{net}.0.0/24"), format!("fd00:{net:x}::/64")]},
        })));
    }
    index.apply_namespace(&object::<Namespace>(json!({"metadata": {"name": "default"}})));
    let here = LOCAL.iter().enumerate().map(|(pod, app)| (*app, "here", local(pod)));
    let there = REMOTE.iter().enumerate().map(|(pod, app)| (*app, "there", remote(pod)));
    for (app, node, addr) in here.chain(there) {
        index.apply_pod(&object::<ApiPod>(json!({
            "metadata": {"namespace": "default", "name": app, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"podIPs": both(addr).map(|ip| json!({"ip": ip}))},
        })));
    }
    let ports = ["TCP", "UDP", "SCTP"].map(|proto| {
        json!({"name": proto.to_lowercase(), "protocol": proto, "port": SERVICE_PORT, "nodePort": NODE_PORT, "targetPort": PORTS[0]})
    });
    index.apply_service(&object::<Service>(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "NodePort", "clusterIP": both(VIP)[0], "clusterIPs": both(VIP), "ports": ports},
    })));
    for (family, at) in ["IPv4", "IPv6"].into_iter().zip(0..) {
        let endpoints: Vec<Value> = [(local(0), "here"), (local(1), "here"), (remote(0), "there")]
            .into_iter()
            .map(|(addr, node)| json!({"addresses": [both(addr)[at]], "nodeName": node}))
            .collect();
        let ports = ["TCP", "UDP", "SCTP"]
            .map(|proto| json!({"name": proto.to_lowercase(), "protocol": proto, "port": PORTS[0]}));
        index.apply_slice(&object::<EndpointSlice>(json!({
            "metadata": {"namespace": "default", "name": format!("web-{family}"), "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })));
    }
}

fn index_of(node: &Node, interface: &str) -> Result<u32> {
    let found = node.netns.run(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        Ok::<u32, std::io::Error>(rustix::net::netdevice::name_to_index(&socket, interface)?)
    })?;
    found.with_context(|| format!("interface {interface}"))
}

fn entrance(random: &mut Random, overlay: bool) -> Entrance {
    let pod = |random: &mut Random| random.below(LOCAL.len());
    match random.below(9) {
        // Under an overlay every packet goes up.
        8 if !overlay => Entrance::Driver,
        0..3 => Entrance::Pod(pod(random)),
        3 => Entrance::ToPod(pod(random), Origin::Network),
        4 => Entrance::ToPod(pod(random), Origin::Pod(pod(random))),
        5 if overlay => Entrance::Overlay,
        5 | 6 => Entrance::Uplink,
        _ => Entrance::Leaving(pod(random)),
    }
}

/// An address of any kind.
fn anyone(random: &mut Random) -> (u8, u8) {
    match random.below(9) {
        0 => NODE,
        1 => OTHER_NODE,
        2 | 3 => remote(random.below(REMOTE.len())),
        4 => random.pick(&OUTSIDE),
        _ => local(random.below(LOCAL.len())),
    }
}

fn packet(random: &mut Random, entrance: Entrance) -> (Sent, Frame) {
    let v4 = random.chance(50);
    // Half of the sources are right.
    let source = match entrance {
        Entrance::Pod(pod) | Entrance::Leaving(pod) | Entrance::ToPod(_, Origin::Pod(pod))
            if random.chance(60) =>
        {
            local(pod)
        }
        // A pod's hook has let no packet of the node's through, so none comes on from a pod.
        Entrance::ToPod(_, Origin::Pod(_)) => loop {
            let found = anyone(random);
            if found != NODE {
                break found;
            }
        },
        _ => anyone(random),
    };
    let (to, mut port) = match entrance {
        Entrance::ToPod(pod, _) => (local(pod), random.pick(&PORTS)),
        Entrance::Driver if random.chance(80) => (NODE, NODE_PORT),
        _ if random.chance(20) => (VIP, SERVICE_PORT),
        _ if random.chance(15) => (NODE, random.pick(&[NODE_PORT, OVERLAY_PORT])),
        _ => (anyone(random), random.pick(&PORTS)),
    };
    let (source_port, mut proto) = (1_024 + random.below(28_000) as u16, random.pick(&super::lab::PROTOS));
    let body = match random.below(8) {
        0 => {
            proto = ICMP[usize::from(!v4)];
            port = source_port;
            let [high, low] = source_port.to_be_bytes();
            Body::Icmp { kind: if v4 { 8 } else { 128 }, code: 0, word: [high, low, 0, 1], rest: vec![7; 8] }
        }
        1 | 2 => data(proto),
        _ => opening(proto),
    };
    let sent = Sent {
        source: SocketAddr::new(at(v4, source.0, source.1), source_port),
        destination: SocketAddr::new(at(v4, to.0, to.1), port),
        proto,
    };
    let frame = Frame::new(sent.source, sent.destination, body);
    (sent, frame)
}

/// How many passed, by entrance.
fn fuzz(cluster: &mut Cluster, random: &mut Random, packets: usize) -> Result<BTreeMap<String, [usize; 2]>> {
    let overlay = cluster.overlay != [0, 0];
    let networks = [
        "10.79.0.0/24",
        "10.200.0.1/32",
        "0.0.0.0/0",
        "fd00:4f::/64",
        "fd00:c8::1/128",
        "10.77.0.2/32",
        "10.78.0.2/32",
    ];
    let apps = [LOCAL.as_slice(), REMOTE.as_slice()].concat();
    let named = Named { apps: &apps, networks: &networks, ports: &PORTS };
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for number in 0..packets {
        if number % ROUND == 0 {
            cluster.set_policies(named.policies(random, 6))?;
        }
        let entrance = entrance(random, overlay);
        let (sent, frame) = packet(random, entrance);
        let (program, at) = cluster.interfaces(entrance, frame.is_v4());
        let datapath = cluster.node.datapath.as_mut().context("no datapath")?;
        let (action, out) = if entrance == Entrance::Driver {
            let (action, out, _) = datapath.test_run_at(program, &frame.bytes(), at, 1)?;
            (action, out)
        } else {
            pass(datapath, program, &frame.bytes(), at)?
        };
        let label = format!("{entrance:?}");
        let count = counts.entry(label.split('(').next().unwrap_or_default().to_owned()).or_default();
        count[0] += 1;
        // What XDP does not send on is the uplink's hook to judge.
        let ends = if entrance == Entrance::Driver { action != TX } else { action == SHOT };
        if ends {
            continue;
        }
        count[1] += 1;
        let (source_out, to) = Frame::ends(&out)?;
        let refusal = cluster.refusal(entrance, &sent, to, source_out.ip());
        ensure!(
            refusal.is_none(),
            "packet {number}, {entrance:?}, {sent:?}: {} though action {action} sends it to {to}; policies {}",
            refusal.unwrap_or_default(),
            serde_json::to_string(&cluster.world.policies)?
        );
    }
    Ok(counts)
}

#[test]
fn nothing_passes_that_the_reference_refuses() -> Result<()> {
    let packets = match std::env::var("SKEP_FUZZ_PACKETS") {
        Ok(text) => text.parse()?,
        Err(_) => PACKETS,
    };
    for (name, overlay) in [("pkx1", false), ("pkx2", true)] {
        let mut cluster = Cluster::new(name, overlay)?;
        let mut random = Random(0x5eed_f00d);
        let netns = cluster.node.netns.path();
        // Of its own: this thread stays in the node's namespace.
        let counts = std::thread::scope(|scope| {
            let run = scope.spawn(|| -> Result<_> {
                skep_tests::netns::enter(&netns)?;
                fuzz(&mut cluster, &mut random, packets / 2)
            });
            run.join().map_err(|_| anyhow::anyhow!("the run panicked"))?
        })?;
        println!("overlay {overlay}: {counts:?}");
        for (entrance, [sent, passed]) in &counts {
            ensure!(passed * 20 > *sent, "{entrance}: only {passed} of {sent} passed: the run shows little");
        }
    }
    Ok(())
}
