//! Datagrams in fragments over the wire: in whatever order they come they arrive whole, and floods of what never will do
//! not.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use skep_abi::{Addr, Backend, Be16, DropReason, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::namespaces::ANSWER_TIMEOUT;
use crate::node::Node;
use crate::packets::fragments::pieces;
use crate::packets::frame::{Body, Frame};

const ETHERNET: usize = 14;
const PORT: u16 = 80;
const BACKEND: u16 = 8080;
/// Of the message, each but the last with 256 bytes.
const OFFSETS: [usize; 4] = [0, 256, 512, 768];
/// Longer than any fragment waits.
const FRAGMENT_EXPIRY: Duration = Duration::from_millis(400);

/// Both families' addresses alike.
fn ip(v4: bool, net: u8, host: u8) -> IpAddr {
    if v4 {
        return IpAddr::from([10, net, 12, host]);
    }
    IpAddr::from([0xfd00, u16::from(net), 12, 0, 0, 0, 0, u16::from(host)])
}

fn both(net: u8, host: u8) -> [IpAddr; 2] {
    [true, false].map(|v4| ip(v4, net, host))
}

/// Packets as they are, headers included.
struct Raw(OwnedFd);

impl Raw {
    fn new(netns: &NetNs, v4: bool) -> Result<Raw> {
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        Ok(Raw(netns.run(|| socket(family, SocketType::RAW, Some(ipproto::RAW)))??))
    }

    fn send(&self, frame: &[u8], to: IpAddr) -> Result<()> {
        sendto(&self.0, &frame[ETHERNET..], SendFlags::empty(), &SocketAddr::new(to, 0))?;
        Ok(())
    }
}

struct World {
    node: Node,
    outside: NetNs,
    a: NetNs,
    _b: NetNs,
    server: UdpSocket,
}

impl World {
    /// A node with the pods `a` and `b`; `b` is behind a cluster address and the node's.
    fn new(name: &str) -> Result<World> {
        let outside = NetNs::new(&format!("sk{name}o"))?;
        let addrs = [true, false].map(|v4| (ip(v4, 78, 1), ip(v4, 78, 254)));
        let mut node = Node::new(&format!("sk{name}n"), &outside, &addrs)?;
        let (a, _, _) = node.add_pod(&format!("sk{name}a"), &both(77, 2))?;
        let (b, _, _) = node.add_pod(&format!("sk{name}b"), &both(77, 3))?;
        let mut writes = Vec::new();
        for (v4, set) in [(true, 1), (false, 2)] {
            let backend = Backend { addr: Addr::from(ip(v4, 77, 3)), port: Be16::new(BACKEND), reserved: 0 };
            writes.extend(Write::backend_set(set, &[backend]));
            let value = ServiceValue { set, count: 1, service: set, ..ServiceValue::default() };
            for (net, scope) in [(96, Scope::INTERNAL), (78, Scope::EXTERNAL)] {
                let (addr, port) = (Addr::from(ip(v4, net, 1)), Be16::new(PORT));
                writes.push(Write::PutService(ServiceKey { addr, port, proto: Proto::UDP, scope }, value));
            }
        }
        node.apply(&writes)?;
        let server = b.run(|| UdpSocket::bind(("::", BACKEND)))??;
        server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(World { node, outside, a, _b: b, server })
    }

    /// Who asks where: a pod the cluster address, the outside the node.
    fn ways(&self, v4: bool) -> [(&NetNs, IpAddr, IpAddr); 2] {
        [(&self.a, ip(v4, 77, 2), ip(v4, 96, 1)), (&self.outside, ip(v4, 78, 254), ip(v4, 78, 1))]
    }

    fn expect(&self, data: &[u8]) -> Result<()> {
        let mut buffer = [0; 2048];
        let (length, _) = self.server.recv_from(&mut buffer)?;
        ensure!(&buffer[..length] == data, "another datagram of {length} bytes");
        Ok(())
    }

    fn dropped(&self) -> Result<u64> {
        let datapath = self.node.datapath.as_ref().context("no datapath")?;
        let drops = datapath.counters()?.drops()?;
        Ok(drops.iter().filter(|drop| drop.reason == DropReason::Fragment).map(|drop| drop.packets).sum())
    }
}

fn data(seed: usize) -> Vec<u8> {
    (0..1000).map(|i| (i * 7 + seed * 13) as u8).collect()
}

fn datagram(from: IpAddr, to: IpAddr, seed: usize) -> Frame {
    let source = SocketAddr::new(from, 41_000 + (seed % 1000) as u16);
    Frame::new(source, SocketAddr::new(to, PORT), Body::Udp(data(seed)))
}

fn orders() -> Vec<[usize; 4]> {
    let all = (0..256).map(|n| [n >> 6, n >> 4 & 3, n >> 2 & 3, n & 3]);
    all.filter(|order| (0..4).all(|piece| order.contains(&piece))).collect()
}

#[test]
fn a_datagram_in_four_fragments_arrives_in_every_order() -> Result<()> {
    let world = World::new("fro")?;
    let orders = orders();
    ensure!(orders.len() == 24);
    let mut seed = 0;
    for v4 in [true, false] {
        for (netns, from, to) in world.ways(v4) {
            let raw = Raw::new(netns, v4)?;
            for order in &orders {
                seed += 1;
                let pieces = pieces(&datagram(from, to, seed), seed as u32, &OFFSETS);
                order.iter().try_for_each(|piece| raw.send(&pieces[*piece], to))?;
                world.expect(&data(seed)).with_context(|| format!("{from} to {to}, order {order:?}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_wait_for_a_first_one_that_is_late_and_not_for_one_that_never_comes() -> Result<()> {
    let world = World::new("frw")?;
    for v4 in [true, false] {
        for ((netns, from, to), seed) in world.ways(v4).into_iter().zip(1..) {
            let raw = Raw::new(netns, v4)?;
            let (late, never) = (datagram(from, to, seed), datagram(from, to, seed + 500));
            let pieces_late = pieces(&late, seed as u32 + 10, &OFFSETS);
            let pieces_never = pieces(&never, seed as u32 + 20, &OFFSETS);
            let before = world.dropped()?;
            for piece in [1, 2, 3] {
                raw.send(&pieces_late[piece], to)?;
                raw.send(&pieces_never[piece], to)?;
            }
            std::thread::sleep(Duration::from_millis(100));
            raw.send(&pieces_late[0], to)?;
            world.expect(&data(seed)).with_context(|| format!("{from} to {to}"))?;
            std::thread::sleep(FRAGMENT_EXPIRY);
            let dropped = world.dropped()? - before;
            ensure!(dropped == 3, "{from} to {to}: {dropped} fragments were dropped");
        }
    }
    Ok(())
}

#[test]
fn a_flood_of_fragments_without_a_first_one_takes_no_more_than_the_links_rate() -> Result<()> {
    let world = World::new("frf")?;
    let [_, (netns, from, to)] = world.ways(true);
    let raw = Raw::new(netns, true)?;
    // What waits is charged to a sender of this machine; one from elsewhere is held up by nothing.
    set_socket_send_buffer_size_force(&raw.0, 1 << 26)?;
    let mut piece = pieces(&datagram(from, to, 900), 0, &OFFSETS).swap_remove(1);
    let begin = Instant::now();
    for id in 30_000..50_000_u16 {
        // The kernel fills the checksum in.
        piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
        raw.send(&piece, to)?;
    }
    // In order, a datagram does not wait behind the flood.
    let pieces_whole = pieces(&datagram(from, to, 950), 1, &OFFSETS);
    pieces_whole.iter().try_for_each(|piece| raw.send(piece, to))?;
    world.expect(&data(950))?;
    let took = begin.elapsed();
    std::thread::sleep(FRAGMENT_EXPIRY);
    // What came back after its time; the link held the rest no longer than it takes to lose it.
    let (dropped, length) = (world.dropped()?, 290.0);
    let most = (took + FRAGMENT_EXPIRY).as_secs_f64() * 2e6 / length + 262_144.0 / length;
    println!("{dropped} of 20000 had their time on the link, {most:.0} may in {took:?}");
    ensure!(dropped > 0 && (dropped as f64) < most, "{dropped} of 20000, {most} may");
    // The link is empty again.
    let pieces = pieces(&datagram(from, to, 951), 2, &OFFSETS);
    [3, 2, 1, 0].iter().try_for_each(|piece| raw.send(&pieces[*piece], to))?;
    world.expect(&data(951))
}
