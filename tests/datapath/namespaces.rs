//! Packets between namespaces: delivery, services, policy.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use rustix::net::sockopt::socket_cookie;
use rustix::net::{AddressFamily, SocketType};
use skep_abi::{
    Addr, Backend, Be16, CONNECTED_MAX, Direction, NodeConfig, OtherPorts, Proto, Scope, ServiceKey,
    ServiceValue, Verdict, VerdictKey, connected_index, verdicts_index,
};
use skep_datapath::SocketLb;
use skep_netplan::{Observed, VerdictMapId, Write};
use skep_tests::netns::NetNs;

use crate::node::Node;

pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 3);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// include/uapi/linux/bpf.h
const BPF_F_NO_PREALLOC: u32 = 1;

fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

/// Writes of a service with the backends; `set` is the backend set's number.
pub(crate) fn service(
    at: (Ipv4Addr, u16),
    proto: Proto,
    scope: Scope,
    set: u32,
    backends: &[(Ipv4Addr, u16)],
) -> Vec<Write> {
    let backend =
        |(ip, port): &(Ipv4Addr, u16)| Backend { addr: addr(*ip), port: Be16::new(*port), reserved: 0 };
    let slots: Vec<Backend> = backends.iter().map(backend).collect();
    let mut writes: Vec<Write> = Write::backend_set(set, &slots).collect();
    let key = ServiceKey { addr: addr(at.0), port: Be16::new(at.1), proto, scope };
    let value = ServiceValue { set, count: backends.len() as u32, service: set, ..ServiceValue::default() };
    writes.push(Write::PutService(key, value));
    writes
}

/// Writes that put `slot` under a policy which allows or denies all that comes in, and raise the generation.
fn ingress(slot: u32, generation: u32, allow: bool) -> Vec<Write> {
    let id = VerdictMapId(u64::from(generation) << 32 | u64::from(slot));
    let key = |direction| VerdictKey::new(direction, 0, Proto(0), Be16::new(0));
    let entries = vec![
        (VerdictKey::DIRECTION_BITS, key(Direction::INGRESS), Verdict { allow: allow.into(), rule: 1 }),
        (VerdictKey::DIRECTION_BITS, key(Direction::EGRESS), Verdict { allow: 1, rule: 0 }),
    ];
    vec![
        Write::CreateVerdictMap { id, entries: Arc::from(entries) },
        Write::PutVerdicts { index: verdicts_index(slot, generation), map: id },
        Write::SetGeneration(generation),
    ]
}

/// Answers one byte with its own name, on every connection, until the listener's thread is left behind.
pub(crate) fn serve(netns: &NetNs, at: SocketAddr, name: u8) -> Result<()> {
    let listener = netns.run(move || TcpListener::bind(at))??;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    if stream.write_all(&[name]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

pub(crate) fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

pub(crate) fn dial(
    netns: &NetNs,
    to: (Ipv4Addr, u16),
    timeout: Duration,
) -> Result<std::io::Result<TcpStream>> {
    dial_to(netns, to.into(), timeout)
}

pub(crate) fn dial_to(
    netns: &NetNs,
    to: SocketAddr,
    timeout: Duration,
) -> Result<std::io::Result<TcpStream>> {
    netns.run(move || {
        let stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream)
    })
}

pub(crate) struct World {
    pub(crate) outside: NetNs,
    pub(crate) node: Node,
    pub(crate) a: NetNs,
    pub(crate) b: NetNs,
    b_slot: u32,
}

pub(crate) fn world(name: &str) -> Result<World> {
    let outside = NetNs::new(&format!("sk{name}o"))?;
    let mut node = Node::new(&format!("sk{name}n"), &outside, &[(NODE.into(), OUTSIDE.into())])?;
    let (a, _, _) = node.add_pod(&format!("sk{name}a"), &[A.into()])?;
    let (b, _, b_slot) = node.add_pod(&format!("sk{name}b"), &[B.into()])?;
    Ok(World { outside, node, a, b, b_slot })
}

#[test]
fn pods_of_one_node_reach_each_other_and_the_node_reaches_them() -> Result<()> {
    let world = world("loc")?;
    serve(&world.b, SocketAddr::from((B, 80)), b'b')?;
    ensure!(ask(&mut dial(&world.a, (B, 80), ANSWER_TIMEOUT)??)? == b'b');
    ensure!(ask(&mut dial(&world.node.netns, (B, 80), ANSWER_TIMEOUT)??)? == b'b');
    Ok(())
}

#[test]
fn a_cluster_address_answers_per_packet_and_the_answer_comes_from_it() -> Result<()> {
    let mut world = world("vip")?;
    serve(&world.b, SocketAddr::from((B, 8080)), b'b')?;
    world.node.apply(&service((VIP, 80), Proto::TCP, Scope::INTERNAL, 1, &[(B, 8080)]))?;
    // These sockets are in no cgroup of the node, so only the packets are translated.
    let mut stream = dial(&world.a, (VIP, 80), ANSWER_TIMEOUT)??;
    ensure!(ask(&mut stream)? == b'b');
    ensure!(stream.peer_addr()? == SocketAddr::from((VIP, 80)));
    world.node.apply(&service((VIP, 53), Proto::UDP, Scope::INTERNAL, 2, &[(B, 5353)]))?;
    let server = world.b.run(|| UdpSocket::bind((B, 5353)))??;
    let client = world.a.run(|| UdpSocket::bind((A, 0)))??;
    client.connect((VIP, 53))?;
    client.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    client.send(b"question")?;
    let mut buffer = [0; 16];
    let (n, from) = server.recv_from(&mut buffer)?;
    ensure!(&buffer[..n] == b"question" && from.ip() == IpAddr::V4(A));
    server.send_to(b"answer", from)?;
    let n = client.recv(&mut buffer)?;
    ensure!(&buffer[..n] == b"answer");
    Ok(())
}

#[test]
fn a_socket_is_refused_at_once_on_a_port_that_the_cluster_address_does_not_have() -> Result<()> {
    let mut world = world("rst")?;
    serve(&world.b, SocketAddr::from((B, 8080)), b'b')?;
    world.node.apply(&service((VIP, 80), Proto::TCP, Scope::INTERNAL, 1, &[(B, 8080)]))?;
    world.node.apply(&[Write::PutOtherPorts(addr(VIP), OtherPorts::REFUSED)])?;
    world.node.cgroup.make_threaded()?;
    world.a.run(|| {
        let refused = |port| {
            let found = TcpStream::connect_timeout(&SocketAddr::from((VIP, port)), ANSWER_TIMEOUT);
            ensure!(found.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "port {port}");
            anyhow::Ok(())
        };
        refused(81)?;
        world.node.cgroup.enter()?;
        refused(81)?;
        ensure!(ask(&mut TcpStream::connect_timeout(&SocketAddr::from((VIP, 80)), ANSWER_TIMEOUT)?)? == b'b');
        // connect() succeeds, so getaddrinfo learns the source address; packets are refused.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((VIP, 80))?;
        ensure!(socket.local_addr()?.ip() == IpAddr::V4(A));
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.send(b"question")?;
        ensure!(socket.recv(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused));
        Ok(())
    })?
}

/// Wraps of the array of connected sockets within which a socket gets the element of another.
const MAX_WRAPS: u32 = 20;

/// A TCP socket with the same element of `CONNECTED` as the one with the cookie.
fn with_same_element(cookie: u64) -> Result<OwnedFd> {
    for _ in 0..MAX_WRAPS * CONNECTED_MAX {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        if connected_index(socket_cookie(&socket)?) == connected_index(cookie) {
            return Ok(socket);
        }
    }
    bail!("no socket has the element of {cookie}")
}

#[test]
fn a_socket_knows_what_it_addressed_when_a_newer_one_has_its_element() -> Result<()> {
    let mut world = world("dis")?;
    serve(&world.b, SocketAddr::from((B, 8080)), b'b')?;
    let frontends = [80, 81, 82].map(|port| SocketAddr::from((VIP, port)));
    for (set, frontend) in (1..).zip(frontends) {
        let writes = service((VIP, frontend.port()), Proto::TCP, Scope::INTERNAL, set, &[(B, 8080)]);
        world.node.apply(&writes)?;
    }
    world.node.cgroup.make_threaded()?;
    world.a.run(|| {
        world.node.cgroup.enter()?;
        let mut open = vec![TcpStream::connect_timeout(&frontends[0], ANSWER_TIMEOUT)?];
        let cookie = socket_cookie(&open[0])?;
        for frontend in &frontends[1..] {
            let socket = with_same_element(cookie)?;
            rustix::net::connect(&socket, frontend)?;
            open.push(TcpStream::from(socket));
        }
        // The newest is closed first, then the oldest.
        for (gone, left) in [(None, &[0, 1, 2][..]), (Some(2), &[0, 1]), (Some(0), &[1])] {
            if let Some(gone) = gone {
                open[gone].shutdown(Shutdown::Both)?;
                open[gone] = TcpStream::connect_timeout(&SocketAddr::from((B, 8080)), ANSWER_TIMEOUT)?;
                ensure!(open[gone].peer_addr()? == SocketAddr::from((B, 8080)));
            }
            for socket in left {
                let peer = open[*socket].peer_addr()?;
                ensure!(peer == frontends[*socket], "without {gone:?}, {socket}: {peer}");
            }
        }
        Ok(())
    })?
}

/// Whether a connection of the calling thread's namespace has that end.
fn is_connected_to(ip: Ipv4Addr, port: u16) -> Result<bool> {
    let end = format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()));
    let connections = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    Ok(connections.lines().any(|line| line.split_whitespace().nth(2) == Some(&end)))
}

#[test]
fn sockets_of_pods_keep_the_cluster_address_if_only_the_nodes_are_translated() -> Result<()> {
    let mut world = world("slb")?;
    serve(&world.b, SocketAddr::from((B, 8080)), b'b')?;
    world.node.cgroup.make_threaded()?;
    for (number, mode) in (1..).zip([SocketLb::Host, SocketLb::All]) {
        world.node.socket_lb = mode;
        world.node.datapath = None;
        world.node.open()?;
        world.node.apply(&service((VIP, 80), Proto::TCP, Scope::INTERNAL, number, &[(B, 8080)]))?;
        for (netns, is_translated) in [(&world.a, mode == SocketLb::All), (&world.node.netns, true)] {
            netns.run(|| {
                world.node.cgroup.enter()?;
                let mut stream = TcpStream::connect_timeout(&SocketAddr::from((VIP, 80)), ANSWER_TIMEOUT)?;
                ensure!(ask(&mut stream)? == b'b' && stream.peer_addr()? == SocketAddr::from((VIP, 80)));
                let (ip, port) = if is_translated { (B, 8080) } else { (VIP, 80) };
                ensure!(is_connected_to(ip, port)?, "{mode:?}: no connection to {ip}:{port}");
                Ok(())
            })??;
        }
    }
    Ok(())
}

#[test]
fn a_new_process_switches_off_events_that_an_earlier_one_left_on() -> Result<()> {
    let mut world = world("obs")?;
    let path = world.node.bpffs()?.join(format!("v{}/maps/CONFIG", skep_abi::ABI_VERSION));
    let mut config: Array<MapData, NodeConfig> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
    let read = config.get(&0, 0)?;
    config.set(0, NodeConfig { observe: 1, ..read }, 0)?;
    world.node.datapath = None;
    world.node.open()?;
    ensure!(config.get(&0, 0)? == NodeConfig { observe: 0, ..read });
    Ok(())
}

#[test]
fn revoking_a_policy_cuts_an_established_connection_and_restoring_it_heals() -> Result<()> {
    let mut world = world("pol")?;
    serve(&world.b, SocketAddr::from((B, 80)), b'b')?;
    let mut stream = dial(&world.a, (B, 80), ANSWER_TIMEOUT)??;
    ensure!(ask(&mut stream)? == b'b');
    world.node.apply(&ingress(world.b_slot, 3, false))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    ensure!(ask(&mut stream).is_err(), "an established connection outlived its policy");
    ensure!(dial(&world.a, (B, 80), Duration::from_millis(300))?.is_err(), "a denied connection was opened");
    ensure!(
        ask(&mut dial(&world.node.netns, (B, 80), ANSWER_TIMEOUT)??)? == b'b',
        "the node is always allowed"
    );
    world.node.apply(&ingress(world.b_slot, 4, true))?;
    let start = Instant::now();
    ensure!(ask(&mut dial(&world.a, (B, 80), ANSWER_TIMEOUT)??)? == b'b');
    ensure!(start.elapsed() < ANSWER_TIMEOUT);
    Ok(())
}

#[test]
fn a_node_port_reaches_a_local_pod_with_the_clients_address() -> Result<()> {
    let mut world = world("npl")?;
    world.node.apply(&service((NODE, 30080), Proto::TCP, Scope::EXTERNAL, 1, &[(B, 80)]))?;
    let listener = world.b.run(|| TcpListener::bind((B, 80)))??;
    let client = dial(&world.outside, (NODE, 30080), ANSWER_TIMEOUT)??;
    let (_, from) = listener.accept()?;
    ensure!(from == client.local_addr()?);
    Ok(())
}

#[test]
fn a_pod_talks_to_the_outside_from_the_nodes_address() -> Result<()> {
    let mut world = world("msq")?;
    world
        .node
        .apply(&[Write::PutCluster { prefix_bits: 96 + 16, addr: addr(Ipv4Addr::new(10, 77, 0, 0)) }])?;
    let listener = world.outside.run(|| TcpListener::bind((OUTSIDE, 80)))??;
    let mut client = dial(&world.a, (OUTSIDE, 80), ANSWER_TIMEOUT)??;
    let (mut server, from) = listener.accept()?;
    ensure!(from.ip() == IpAddr::V4(NODE));
    server.write_all(b"x")?;
    let mut byte = [0];
    client.read_exact(&mut byte)?;
    Ok(())
}

/// A service that `a` reaches by a policy that allows it, and a connection to it.
fn connected(name: &str) -> Result<(World, TcpStream)> {
    let mut world = world(name)?;
    serve(&world.b, SocketAddr::from((B, 8080)), b'b')?;
    world.node.apply(&service((VIP, 80), Proto::TCP, Scope::INTERNAL, 1, &[(B, 8080)]))?;
    world.node.apply(&ingress(world.b_slot, 3, true))?;
    let mut stream = dial(&world.a, (VIP, 80), ANSWER_TIMEOUT)??;
    ensure!(ask(&mut stream)? == b'b');
    Ok((world, stream))
}

impl World {
    fn observed(&self) -> Result<Observed> {
        let datapath = self.node.datapath.as_ref().context("no datapath")?;
        Ok(self.node.netns.run(|| datapath.observed())??)
    }

    /// Ends the process and has its pins be those of another version.
    fn becomes_of_version(&mut self, version: u32) -> Result<()> {
        self.node.datapath = None;
        let folder = self.node.bpffs()?;
        let path = |version| folder.join(format!("v{version}"));
        Ok(std::fs::rename(path(skep_abi::ABI_VERSION), path(version))?)
    }

    /// Puts the maps of version 10 in the stead of those that came later, with a cluster address that refuses other ports; returns the
    /// key of the entry that says so.
    fn has_maps_of_version_10(&self) -> Result<ServiceKey> {
        let maps = self.node.bpffs()?.join(format!("v{}/maps", skep_abi::ABI_VERSION));
        let mut backends = HashMap::<MapData, [u32; 2], Backend>::create(16, BPF_F_NO_PREALLOC)?;
        backends.insert([1, 0], Backend { addr: addr(B), port: Be16::new(8080), reserved: 0 }, 0)?;
        backends.pin(maps.join("BACKENDS"))?;
        let services = Map::from_map_data(MapData::from_pin(maps.join("SERVICES"))?)?;
        let mut services = HashMap::<MapData, ServiceKey, ServiceValue>::try_from(services)?;
        let refused = ServiceKey { addr: addr(VIP), ..ServiceKey::default() };
        let value = ServiceValue { service: 1, flags: ServiceValue::REJECT, ..ServiceValue::default() };
        services.insert(refused, value, 0)?;
        for name in ["BACKEND_PAGES", "OTHER_PORTS"] {
            std::fs::remove_file(maps.join(name))?;
        }
        Ok(refused)
    }

    /// Which pins the links of socket hooks have: one that is replaced gets another number.
    fn socket_pins(&self) -> Result<[u64; 2]> {
        let links = self.node.bpffs()?.join(format!("v{}/links", skep_abi::ABI_VERSION));
        let number = |name: &str| std::fs::metadata(links.join(name)).map(|pin| pin.ino()).context("no pin");
        Ok([number("cgroup_connect4")?, number("cgroup_release")?])
    }

    /// How many programs see what `a` sends.
    fn programs(&self) -> Result<usize> {
        let interface = format!("v{}", self.a.name());
        let query = || SchedClassifier::query_tcx(&interface, TcAttachType::Ingress);
        Ok(self.node.netns.run(query)??.1.len())
    }
}

#[test]
fn a_new_process_adopts_the_maps_and_connections_go_on() -> Result<()> {
    let (mut world, mut stream) = connected("rst")?;
    let (before, pins) = (world.observed()?, world.socket_pins()?);
    world.node.datapath = None;
    ensure!(ask(&mut stream)? == b'b', "the kernel goes on without the process");
    world.node.open()?;
    let after = world.observed()?;
    ensure!(before == after, "what was written is what is read back: {before:?} {after:?}");
    ensure!(pins == world.socket_pins()?, "a socket hook had two programs for a moment");
    ensure!(ask(&mut stream)? == b'b');
    Ok(())
}

#[test]
fn an_upgrade_keeps_the_maps_that_mean_the_same_and_connections_go_on() -> Result<()> {
    let (mut world, mut stream) = connected("upg")?;
    let before = world.observed()?;
    let refused = world.has_maps_of_version_10()?;
    let before = Observed { other_ports: BTreeMap::from([(addr(VIP), OtherPorts::REFUSED)]), ..before };
    // Of the versions between, all that this test looks at is the same.
    world.becomes_of_version(5)?;
    ensure!(ask(&mut stream)? == b'b', "the kernel goes on without the process");
    world.node.open()?;
    let mut after = world.observed()?;
    ensure!(after.services.remove(&refused).is_some(), "the planner removes it");
    ensure!(before == after, "what was written is what is read back: {before:?} {after:?}");
    ensure!(ask(&mut stream)? == b'b');
    let mut again = dial(&world.a, (VIP, 80), ANSWER_TIMEOUT)??;
    ensure!(ask(&mut again)? == b'b', "new connections find their backend");
    ensure!(!world.node.bpffs()?.join(format!("v{}/maps/BACKENDS", skep_abi::ABI_VERSION)).exists());
    ensure!(world.programs()? == 1, "{} programs", world.programs()?);
    ensure!(!world.node.bpffs()?.join("v5").exists());
    Ok(())
}

#[test]
fn maps_of_a_version_that_is_not_understood_are_made_anew_and_programs_replaced() -> Result<()> {
    for version in [4, skep_abi::ABI_VERSION + 1] {
        let (mut world, _) = connected("unk")?;
        world.becomes_of_version(version)?;
        world.node.open()?;
        let found = world.observed()?;
        ensure!(found.services.is_empty() && found.pods.is_empty() && found.generation == 0, "{found:?}");
        ensure!(world.programs()? == 1, "{} programs", world.programs()?);
    }
    Ok(())
}
