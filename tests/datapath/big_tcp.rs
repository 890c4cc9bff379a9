//! TCP packets of more than 64 KB: to pods and from them, by Service in packets, from the node, and masqueraded. Every byte is
//! compared.

use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::util::KernelVersion;
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::node::Node;

const PORT: u16 = 8_080;
/// Of a connection: so many that the small packets of its start do not matter.
const BYTES: usize = 192 << 20;
const PIECE: usize = 1 << 20;
/// Above what a packet had without: 64 KB, with its headers.
const PACKET_MIN: u64 = 90_000;
const TIMEOUT: Duration = Duration::from_secs(60);

struct World {
    outside: NetNs,
    node: Node,
    a: NetNs,
    b: NetNs,
}

fn ip(v4: bool, net: u8, host: u8) -> IpAddr {
    if v4 {
        return IpAddr::from([10, net, 5, host]);
    }
    IpAddr::from([0xfd00, u16::from(net), 5, 0, 0, 0, 0, u16::from(host)])
}

const A: u8 = 2;
const B: u8 = 3;
const FAMILIES: [bool; 2] = [true, false];

impl World {
    fn new(name: &str) -> Result<World> {
        let outside = NetNs::new(&format!("sk{name}o"))?;
        let addrs = FAMILIES.map(|v4| (ip(v4, 78, 1), ip(v4, 78, 254)));
        let mut node = Node::new(&format!("sk{name}n"), &outside, &addrs)?;
        node.big_tcp = true;
        node.datapath = None;
        node.open()?;
        let (a, _, _) = node.add_pod(&format!("sk{name}a"), &FAMILIES.map(|v4| ip(v4, 77, A)))?;
        let (b, _, _) = node.add_pod(&format!("sk{name}b"), &FAMILIES.map(|v4| ip(v4, 77, B)))?;
        for v4 in FAMILIES {
            let set = 1 + u32::from(v4);
            let backend = Backend { addr: Addr::from(ip(v4, 77, B)), port: Be16::new(PORT), reserved: 0 };
            let (addr, port, scope) = (Addr::from(ip(v4, 96, 1)), Be16::new(PORT), Scope::INTERNAL);
            let value = ServiceValue { set, count: 1, service: set, ..ServiceValue::default() };
            let put = Write::PutService(ServiceKey { addr, port, proto: Proto::TCP, scope }, value);
            node.apply(&Write::backend_set(set, &[backend]).chain([put]).collect::<Vec<_>>())?;
        }
        Ok(World { outside, node, a, b })
    }

    /// Bytes a packet that the namespace's interface sends while `from` sends to the server.
    fn size(&self, from: &NetNs, interface: &str, to: SocketAddr, server: (&NetNs, IpAddr)) -> Result<u64> {
        let (netns, addr) = server;
        let listener = netns.run(|| TcpListener::bind((addr, PORT)))??;
        let before = sent(from, interface)?;
        std::thread::scope(|scope| -> Result<()> {
            let receiver = scope.spawn(|| receive(&listener));
            let stream = from.run(|| TcpStream::connect_timeout(&to, TIMEOUT))??;
            stream.set_write_timeout(Some(TIMEOUT))?;
            send(stream).with_context(|| format!("send to {to}"))?;
            receiver.join().ok().context("the receiver panicked")?.with_context(|| format!("receive at {to}"))
        })?;
        let after = sent(from, interface)?;
        Ok((after.0 - before.0) / (after.1 - before.1).max(1))
    }
}

/// What no two pieces have in common at the same offset.
fn fill(piece: &mut [u8], state: &mut u64) {
    for word in piece.chunks_exact_mut(8) {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn send(mut stream: TcpStream) -> Result<()> {
    let (mut piece, mut state) = (vec![0; PIECE], 1);
    for _ in 0..BYTES / PIECE {
        fill(&mut piece, &mut state);
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn receive(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let (mut wanted, mut found, mut state) = (vec![0; PIECE], vec![0; PIECE], 1);
    for number in 0..BYTES / PIECE {
        fill(&mut wanted, &mut state);
        stream.read_exact(&mut found).with_context(|| format!("piece {number}"))?;
        ensure!(wanted == found, "piece {number} has other bytes");
    }
    ensure!(stream.read(&mut found)? == 0, "more than was sent");
    Ok(())
}

/// Bytes and packets that the interface sent.
fn sent(netns: &NetNs, interface: &str) -> Result<(u64, u64)> {
    let output = netns.command("ip").args(["-s", "-j", "link", "show", interface]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let field = |name: &str| links[0]["stats64"]["tx"][name].as_u64().context("no statistics");
    Ok((field("bytes")?, field("packets")?))
}

#[test]
fn packets_of_more_than_64_kb_pass_whole_on_every_way() -> Result<()> {
    if KernelVersion::current()? < KernelVersion::new(6, 3, 0) {
        println!("the kernel has no large packets of IPv4");
        return Ok(());
    }
    let world = World::new("big")?;
    let node = world.node.netns.name().to_owned();
    let to_b = format!("v{}", world.b.name());
    for v4 in FAMILIES {
        let at = |net, host| SocketAddr::new(ip(v4, net, host), PORT);
        let b = (&world.b, ip(v4, 77, B));
        let outside = (&world.outside, ip(v4, 78, 254));
        for (way, from, interface, to, server) in [
            ("to a pod", &world.a, "eth0", at(77, B), b),
            ("to a service", &world.a, "eth0", at(96, 1), b),
            ("from the node", &world.node.netns, to_b.as_str(), at(77, B), b),
            ("to the outside", &world.a, "eth0", at(78, 254), outside),
        ] {
            let size = world.size(from, interface, to, server).with_context(|| format!("{way}, {to}"))?;
            println!("{way}, {to}: {size} bytes a packet");
            ensure!(size > PACKET_MIN, "{way}, {to}: {size} bytes a packet");
        }
    }
    let (bytes, packets) = sent(&world.node.netns, "up0")?;
    println!("{node} sent {bytes} bytes in {packets} packets to the outside");
    ensure!(bytes / packets > PACKET_MIN, "the uplink had {} bytes a packet", bytes / packets);
    Ok(())
}
