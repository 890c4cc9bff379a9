//! The programs with maps of a small world in them, packets through them by BPF_PROG_TEST_RUN.
//!
//! A test run comes from the loopback interface, number 1: every pod of the world is behind it but one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::ProgramError;
use aya::util::KernelVersion;
use rustix::io::Errno;
use skep_abi::{
    ABI_VERSION, Addr, Backend, Be16, Direction, DropReason, Flow, FlowKey, OtherPorts, Pod, Proto, Scope,
    ServiceKey, ServiceValue, Verdict as PolicyVerdict, VerdictKey, verdicts_index,
};
use skep_datapath::{At, Collected, Datapath, DatapathError, FlowGroup, ServicesInForce, Timeouts};
use skep_netplan::{DatagramServices, Observed, VerdictMapId, Write};
use skep_tests::netns::NetNs;

use super::drops::Drops;
use crate::node::{Node, runtime};

/// What a classifier said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// On to the stack.
    Pass,
    /// Straight to a pod or out of the uplink.
    Redirect,
    /// On the delay link for its first fragment, as it is.
    Wait,
    Drop(DropReason),
}

pub(crate) const PROTOS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];

/// Runs a classifier over a packet: the kernel's action and the packet out. Where the kernel can (Linux 6.11), the packet is one
/// that a card has summed up, and the sum has to be right afterwards.
pub(crate) fn pass(datapath: &mut Datapath, program: &str, packet: &[u8], at: At) -> Result<(u32, Vec<u8>)> {
    static CAN_SUM: LazyLock<bool> =
        LazyLock::new(|| KernelVersion::current().is_ok_and(|here| here >= KernelVersion::new(6, 11, 0)));
    let wrong = match CAN_SUM.then(|| datapath.test_run_summed(program, packet, at)) {
        None => None,
        Some(Err(error)) if is_wrong_sum(&error) => Some(error),
        Some(result) => return Ok(result?),
    };
    let (action, out, _) = datapath.test_run_at(program, packet, at, 1)?;
    match wrong {
        // The helper that cuts a packet's end off has the packet be without a sum, which the run does not look at.
        Some(error) if !is_cut(packet, &out) => Err(error.into()),
        _ => Ok((action, out)),
    }
}

fn is_wrong_sum(error: &DatapathError) -> bool {
    let DatapathError::Program { source: ProgramError::SyscallError(error), .. } = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(Errno::BADMSG.raw_os_error())
}

/// Whether the packet became an answer that has not all of it: a reset, or an ICMP error that quotes a part.
fn is_cut(packet: &[u8], out: &[u8]) -> bool {
    let (protocol_at, icmp, header) = if packet[12..14] == [8, 0] { (23, 1, 20) } else { (20, 58, 40) };
    let is_error = out[protocol_at] == icmp && packet[protocol_at] != icmp;
    out.len() < packet.len() + if is_error { header + 8 } else { 0 }
}

/// Addresses of the world, the same in both families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    v4: bool,
}

impl World {
    pub(crate) const ALL: [World; 2] = [World { v4: true }, World { v4: false }];

    fn at(self, net: u8, host: u8) -> IpAddr {
        if self.v4 {
            return IpAddr::from([10, net, 0, host]);
        }
        IpAddr::from([0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)])
    }

    pub(crate) fn is_v4(self) -> bool {
        self.v4
    }

    pub(crate) fn node(self) -> IpAddr {
        self.at(78, 1)
    }

    /// Pods of this node: `a` and `b` under no policy.
    pub(crate) fn a(self) -> IpAddr {
        self.at(77, 2)
    }

    pub(crate) fn b(self) -> IpAddr {
        self.at(77, 3)
    }

    /// A pod isolated in both directions.
    pub(crate) fn closed(self) -> IpAddr {
        self.at(77, 4)
    }

    /// A pod behind another interface.
    pub(crate) fn elsewhere(self) -> IpAddr {
        self.at(77, 5)
    }

    /// A pod isolated for ingress.
    pub(crate) fn shy(self) -> IpAddr {
        self.at(77, 6)
    }

    /// A pod of another node.
    pub(crate) fn remote(self) -> IpAddr {
        self.at(79, 2)
    }

    pub(crate) fn vip(self) -> IpAddr {
        self.at(96, 1)
    }

    /// An address of a load balancer, for `client` and `a` only.
    pub(crate) fn balancer(self) -> IpAddr {
        self.at(97, 1)
    }

    /// Another node.
    pub(crate) fn other_node(self) -> IpAddr {
        self.at(78, 2)
    }

    pub(crate) fn client(self) -> IpAddr {
        self.at(200, 1)
    }

    /// One of many clients.
    pub(crate) fn outside(self, host: u8) -> IpAddr {
        self.at(202, host)
    }

    pub(crate) fn stranger(self) -> IpAddr {
        self.at(201, 1)
    }
}

/// Ports of `vip`, and 30000 more on the node.
pub(crate) mod port {
    pub(crate) const LOCAL: u16 = 80;
    pub(crate) const REMOTE: u16 = 81;
    pub(crate) const NO_BACKEND: u16 = 82;
    pub(crate) const NOBODY_HERE: u16 = 83;
    /// Its backend is `a`.
    pub(crate) const HAIRPIN: u16 = 84;
    /// `a`, `b` and `remote`, with affinity.
    pub(crate) const STICKY: u16 = 85;
    /// `b` at the same port.
    pub(crate) const SAME: u16 = 86;
    /// Its backend is `closed`.
    pub(crate) const CLOSED: u16 = 87;
    /// Not there at first.
    pub(crate) const LATE: u16 = 88;
    pub(crate) const NODE: u16 = 30_000;
    /// Where backends listen.
    pub(crate) const BACKEND: u16 = 8080;
}

const RANGES: u32 = 5;
pub(crate) const GENERATION: u32 = 3;
pub(crate) const AFFINITY_SECONDS: u32 = 100;

pub(crate) struct Lab {
    pub(crate) node: Node,
    /// Where classifiers run.
    pub(crate) at: At,
    drops: Drops,
    _outside: NetNs,
}

impl Lab {
    pub(crate) fn new(name: &str) -> Result<Lab> {
        Lab::of(name, &World::ALL, false)
    }

    /// A node with addresses of these families, perhaps with an overlay.
    pub(crate) fn of(name: &str, families: &[World], overlay: bool) -> Result<Lab> {
        let outside = NetNs::new(&format!("sk{name}o"))?;
        let addrs: Vec<(IpAddr, IpAddr)> =
            families.iter().map(|world| (world.node(), world.at(78, 254))).collect();
        let start = if overlay { Node::with_overlay } else { Node::new };
        let mut node = start(&format!("sk{name}n"), &outside, &addrs)?;
        node.apply(&writes())?;
        Ok(Lab { node, at: At::default(), drops: Drops::new(), _outside: outside })
    }

    /// Opens the datapath again, with an empty table of so many flows.
    pub(crate) fn set_conntrack_max(&mut self, entries: u32) -> Result<()> {
        self.node.conntrack_max = entries;
        self.node.datapath = None;
        std::fs::remove_file(self.conntrack_pin()?)?;
        self.node.open()
    }

    /// Opens the datapath again, with a budget of new flows for each pod.
    pub(crate) fn set_pod_new_flows(&mut self, per_second: u32) -> Result<()> {
        self.node.pod_new_flows = per_second;
        self.node.datapath = None;
        self.node.open()
    }

    /// Opens the datapath again, knowing the networks of cluster addresses.
    pub(crate) fn set_service_cidrs(&mut self, cidrs: &[&str]) -> Result<()> {
        self.node.service_cidrs = cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?;
        self.node.datapath = None;
        self.node.open()
    }

    /// Opens the datapath again, with networks to which pods keep their addresses.
    pub(crate) fn set_masquerade_exemptions(&mut self, networks: &[&str]) -> Result<()> {
        self.node.masquerade_exemptions =
            networks.iter().map(|network| network.parse()).collect::<Result<_, _>>()?;
        self.node.datapath = None;
        self.node.open()
    }

    /// Opens the datapath again, with another time for established connections of TCP.
    pub(crate) fn set_established_timeout(&mut self, seconds: u32) -> Result<()> {
        self.node.timeouts = Timeouts::DEFAULT.with(FlowGroup::TcpEstablished, seconds);
        self.node.datapath = None;
        self.node.open()
    }

    /// Entries that made room for newer ones.
    pub(crate) fn evictions(&self) -> Result<u64> {
        Ok(self.node.datapath.as_ref().context("no datapath")?.counters()?.evictions()?)
    }

    fn conntrack_pin(&self) -> Result<PathBuf> {
        Ok(self.node.bpffs()?.join(format!("v{ABI_VERSION}/maps/CONNTRACK")))
    }

    /// Index of an interface of the node.
    pub(crate) fn interface(&self, name: &str) -> Result<u32> {
        let found = self.node.netns.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            Ok::<u32, std::io::Error>(rustix::net::netdevice::name_to_index(&socket, name)?)
        })?;
        found.with_context(|| format!("interface {name}"))
    }

    /// Every flow entry.
    pub(crate) fn flow_entries(&self) -> Result<BTreeMap<FlowKey, Flow>> {
        Ok(self.conntrack()?.iter().collect::<Result<_, _>>()?)
    }

    pub(crate) fn has_flow(&self, source: SocketAddr, destination: SocketAddr, proto: Proto) -> Result<bool> {
        let [source, destination] = [source, destination]
            .map(|end| skep_abi::SocketAddr::new(end.ip().into(), Be16::new(end.port())));
        let mut key = FlowKey::default();
        key.locate(&source, &destination, proto);
        Ok(self.conntrack()?.get(&key, 0).is_ok())
    }

    /// Removes every flow entry, as the kernel does when it has no room.
    pub(crate) fn forget_flows(&self) -> Result<()> {
        let mut map = self.conntrack()?;
        let keys: Vec<FlowKey> = map.keys().collect::<Result<_, _>>()?;
        Ok(keys.iter().try_for_each(|key| map.remove(key))?)
    }

    fn conntrack(&self) -> Result<HashMap<MapData, FlowKey, Flow>> {
        Ok(Map::from_map_data(MapData::from_pin(self.conntrack_pin()?)?)?.try_into()?)
    }

    pub(crate) fn run(&mut self, program: &str, packet: &[u8]) -> Result<(Verdict, Vec<u8>)> {
        let datapath = self.node.datapath.as_mut().context("no datapath")?;
        let before = self.drops.before(datapath)?;
        let (action, out) = self.node.netns.run(|| pass(datapath, program, packet, self.at))??;
        let reason = self.drops.reason(&before)?;
        let verdict = match action {
            0 => Verdict::Pass,
            // Every fragment of the lab that goes on is translated.
            7 if is_later_fragment(packet) && out == packet => Verdict::Wait,
            7 => Verdict::Redirect,
            _ => Verdict::Drop(reason.unwrap_or(DropReason::None)),
        };
        Ok((verdict, out))
    }

    /// Has the service of `vip` at one port be at another one too.
    pub(crate) fn copy_service(&mut self, world: World, proto: Proto, from: u16, to: u16) -> Result<()> {
        let key = |port| {
            let scope = Scope::INTERNAL;
            ServiceKey { addr: Addr::from(world.vip()), port: Be16::new(port), proto, scope }
        };
        let services = self.observed()?.services;
        let value = services.get(&key(from)).context("no such service")?;
        self.node.apply(&[Write::PutService(key(to), *value)])
    }

    /// Runs many packets without leaving the node's namespace: `work` gets a function from program and packet to the kernel's
    /// action and the packet out.
    pub(crate) fn session<T: Send>(
        &mut self,
        work: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<(u32, Vec<u8>)>) -> Result<T> + Send,
    ) -> Result<T> {
        let datapath = self.node.datapath.as_mut().context("no datapath")?;
        self.node.netns.run(|| work(&mut |program, packet| pass(datapath, program, packet, At::default())))?
    }

    /// Gives a frontend what another one has, in all scopes.
    pub(crate) fn copy_service_of(&mut self, from: SocketAddr, to: SocketAddr, proto: Proto) -> Result<()> {
        let services = self.observed()?.services;
        let key = |end: SocketAddr, scope| ServiceKey {
            addr: Addr::from(end.ip()),
            port: Be16::new(end.port()),
            proto,
            scope,
        };
        let put =
            |scope| services.get(&key(from, scope)).map(|value| Write::PutService(key(to, scope), *value));
        let writes: Vec<Write> = [Scope::INTERNAL, Scope::EXTERNAL].into_iter().filter_map(put).collect();
        self.node.apply(&writes)
    }

    /// Makes every entry older by that many seconds.
    pub(crate) fn age(&self, seconds: u64) -> Result<()> {
        self.set_last_seen(|last_seen| last_seen.saturating_sub(seconds * 1_000_000_000))
    }

    /// Makes every entry one that has just been met.
    pub(crate) fn renew(&self) -> Result<()> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.set_last_seen(|_| now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    fn set_last_seen(&self, change: impl Fn(u64) -> u64) -> Result<()> {
        let mut flows = self.conntrack()?;
        let entries: Vec<(FlowKey, Flow)> = flows.iter().collect::<Result<_, _>>()?;
        for (key, flow) in entries {
            let last_seen = change(flow.last_seen);
            // The next packet renews an entry only in another tick.
            flows.insert(key, Flow { last_seen, tick: 0, ..flow }, 0)?;
        }
        Ok(())
    }

    /// Has `vip` refuse on the ports that it does not have.
    pub(crate) fn refuse_rest(&mut self, world: World) -> Result<()> {
        self.node.apply(&[Write::PutOtherPorts(world.vip().into(), OtherPorts::REFUSED)])
    }

    /// How many flow entries there are.
    pub(crate) fn flows(&mut self) -> Result<usize> {
        Ok(self.collect([Observed::default(), Observed::default()])?.live)
    }

    /// What the maps have.
    pub(crate) fn observed(&self) -> Result<Observed> {
        let datapath = self.node.datapath.as_ref().context("no datapath")?;
        Ok(self.node.netns.run(|| datapath.observed())??)
    }

    /// Takes away the entries that the services, as they are now, have no use for; how many.
    pub(crate) fn tidy(&mut self) -> Result<usize> {
        let maps = self.observed()?;
        self.tidy_while([maps.clone(), maps])
    }

    /// The same with the services of these maps: as they were before the walk, and after it.
    pub(crate) fn tidy_while(&self, maps: [Observed; 2]) -> Result<usize> {
        Ok(self.collect(maps)?.removed)
    }

    fn collect(&self, maps: [Observed; 2]) -> Result<Collected> {
        let datapath = self.node.datapath.as_ref().context("no datapath")?;
        let calls = AtomicUsize::new(0);
        let in_force: ServicesInForce =
            Arc::new(move || DatagramServices::of(&maps[calls.fetch_add(1, Relaxed)]));
        Ok(runtime().block_on(async { datapath.collect_flows(in_force).await })?)
    }
}

/// By the IP header, or an IPv6 header for fragments right behind it.
fn is_later_fragment(packet: &[u8]) -> bool {
    let word = |at: usize| packet.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    match word(12) {
        0x0800 => word(20) & 0x1fff != 0,
        0x86dd => packet.get(20) == Some(&44) && word(56) & 0xfff8 != 0,
        _ => false,
    }
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn writes() -> Vec<Write> {
    let mut writes = [policy(2, false), policy(4, true), vec![Write::SetGeneration(GENERATION)]].concat();
    let mut set = 0;
    for world in World::ALL {
        let pods = [
            (world.a(), 1, 0),
            (world.b(), 1, 1),
            (world.closed(), 1, 2),
            (world.elsewhere(), 9, 3),
            (world.shy(), 1, 4),
        ];
        let pod = |ifindex, slot| Pod { ifindex, slot, ..Pod::default() };
        writes.extend(pods.map(|(ip, ifindex, slot)| Write::PutPod(Addr::from(ip), pod(ifindex, slot))));
        let (bits, family) = if world.v4 { (16, 96) } else { (32, 0) };
        for net in [77, 79] {
            writes.push(Write::PutCluster { prefix_bits: family + bits, addr: Addr::from(world.at(net, 0)) });
        }
        writes.push(Write::PutCluster { prefix_bits: 128, addr: Addr::from(world.node()) });
        for ip in [world.client(), world.a()] {
            writes.push(Write::PutRange { list: RANGES, prefix_bits: 128, addr: Addr::from(ip) });
        }
        for proto in PROTOS {
            services(world, proto, &mut set, &mut writes);
        }
    }
    writes
}

fn services(world: World, proto: Proto, set: &mut u32, writes: &mut Vec<Write>) {
    let (a, b, remote) = (world.a(), world.b(), world.remote());
    let listed: [(u16, &[IpAddr], u32); 8] = [
        (port::LOCAL, &[b], 0),
        (port::REMOTE, &[remote], 0),
        (port::NO_BACKEND, &[], ServiceValue::REJECT),
        (port::NOBODY_HERE, &[], ServiceValue::DROP),
        (port::HAIRPIN, &[a], 0),
        (port::STICKY, &[a, b, remote], 0),
        (port::SAME, &[b], 0),
        (port::CLOSED, &[world.closed()], 0),
    ];
    for (number, backends, flags) in listed {
        *set += 1;
        let target = if number == port::SAME { number } else { port::BACKEND };
        let mut backends: Vec<Backend> = backends
            .iter()
            .map(|ip| Backend { addr: Addr::from(*ip), port: Be16::new(target), reserved: 0 })
            .collect();
        backends.sort();
        writes.extend(Write::backend_set(*set, &backends));
        let affinity = if number == port::STICKY { AFFINITY_SECONDS } else { 0 };
        let count = backends.len() as u32;
        let value =
            ServiceValue { set: *set, count, service: *set, affinity_seconds: affinity, flags, ranges: 0 };
        let restricted = ServiceValue { ranges: RANGES, ..value };
        let node = port::NODE + number;
        for (ip, port, scope, value) in [
            (world.vip(), number, Scope::INTERNAL, value),
            (world.node(), node, Scope::INTERNAL, value),
            (world.node(), node, Scope::EXTERNAL, value),
            (world.balancer(), number, Scope::INTERNAL, restricted),
            (world.balancer(), number, Scope::EXTERNAL, restricted),
        ] {
            let key = ServiceKey { addr: Addr::from(ip), port: Be16::new(port), proto, scope };
            writes.push(Write::PutService(key, value));
        }
    }
}

/// Isolates the pod of the slot for ingress, and for egress unless `egress`.
fn policy(slot: u32, egress: bool) -> Vec<Write> {
    let id = VerdictMapId(slot.into());
    let entries = [(Direction::INGRESS, false), (Direction::EGRESS, egress)].map(|(direction, allow)| {
        let key = VerdictKey::new(direction, 0, Proto(0), Be16::new(0));
        (VerdictKey::DIRECTION_BITS, key, PolicyVerdict { allow: allow.into(), rule: 1 })
    });
    vec![
        Write::CreateVerdictMap { id, entries: Arc::from(entries.to_vec()) },
        Write::PutVerdicts { index: verdicts_index(slot, GENERATION), map: id },
    ]
}
