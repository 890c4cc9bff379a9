//! Two nodes with a router between them that knows no pod: what reaches pods of the other node goes by the overlay.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::node::Node;

const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 81, 1, 1), Ipv4Addr::new(10, 81, 2, 1)];
const ROUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 81, 1, 254), Ipv4Addr::new(10, 81, 2, 254)];
const A: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 80, 2, 2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

struct World {
    router: NetNs,
    nodes: [Node; 2],
    a: NetNs,
    b: NetNs,
}

fn world(name: &str) -> Result<World> {
    let router = NetNs::new(&format!("so{name}r"))?;
    let start = |i: usize| {
        Node::with_overlay(&format!("so{name}{i}"), &router, &[(NODES[i].into(), ROUTER[i].into())])
    };
    let mut nodes = [start(0)?, start(1)?];
    router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    let (a, ..) = nodes[0].add_pod(&format!("so{name}a"), &[A.into()])?;
    let (b, ..) = nodes[1].add_pod(&format!("so{name}b"), &[B.into()])?;
    let network = |third: u8| -> Result<ipnetwork::IpNetwork> { Ok(format!("10.80.{third}.0/24").parse()?) };
    for (i, node) in nodes.iter_mut().enumerate() {
        let other = 1 - i;
        let mut writes: Vec<Write> = [1, 2]
            .map(|third| Addr::from(IpAddr::from([10, 80, third, 0])))
            .map(|addr| Write::PutCluster { prefix_bits: 96 + 24, addr })
            .into();
        writes.push(Write::PutNode(IpAddr::from(NODES[other]).into()));
        writes.push(Write::PutRoute { cidr: network(other as u8 + 1)?, via: NODES[other].into() });
        node.apply(&writes)?;
    }
    Ok(World { router, nodes, a, b })
}

/// Takes one connection and answers a byte; gives where it came from.
fn answer(listener: &TcpListener) -> Result<IpAddr> {
    let (mut stream, from) = listener.accept()?;
    stream.write_all(b"b")?;
    Ok(from.ip())
}

fn ask(netns: &NetNs, to: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let mut stream =
        netns.run(move || TcpStream::connect_timeout(&SocketAddr::from(to), ANSWER_TIMEOUT))??;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn asked(netns: &NetNs, to: (Ipv4Addr, u16), listener: &TcpListener) -> Result<IpAddr> {
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(listener));
        ask(netns, to)?;
        answering.join().map_err(|_| anyhow::anyhow!("the listener ended badly"))?
    })
}

#[test]
fn pods_reach_pods_of_other_nodes_and_so_do_nodes_with_their_own_addresses() -> Result<()> {
    let world = world("dir")?;
    let listener = world.b.run(|| TcpListener::bind((B, 80)))??;
    ensure!(asked(&world.a, (B, 80), &listener)? == IpAddr::V4(A));
    ensure!(asked(&world.nodes[0].netns, (B, 80), &listener)? == IpAddr::V4(NODES[0]));
    Ok(())
}

#[test]
fn a_full_packet_fits_whole() -> Result<()> {
    let world = world("mtu")?;
    let mtu = world.nodes[0].datapath.as_ref().context("no datapath")?.pod_mtu();
    ensure!(mtu == 1450, "{mtu}");
    let server = world.b.run(|| UdpSocket::bind((B, 9)))??;
    server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let client = world.a.run(|| UdpSocket::bind((A, 0)))??;
    let payload = vec![7; mtu as usize - 28];
    client.send_to(&payload, (B, 9))?;
    let mut buffer = [0; 2048];
    let (length, from) = server.recv_from(&mut buffer)?;
    ensure!(length == payload.len() && from.ip() == IpAddr::V4(A));
    Ok(())
}

/// `b` behind the first node's port.
fn node_port(flags: u32) -> Vec<Write> {
    let backend = Backend { addr: Addr::from(IpAddr::V4(B)), port: Be16::new(80), reserved: 0 };
    let at = Addr::from(IpAddr::V4(NODES[0]));
    let key = ServiceKey { addr: at, port: Be16::new(30080), proto: Proto::TCP, scope: Scope::EXTERNAL };
    let value = ServiceValue { set: 1, count: 1, service: 1, flags, ..ServiceValue::default() };
    Write::backend_set(1, &[backend]).chain([Write::PutService(key, value)]).collect()
}

#[test]
fn a_node_port_leads_through_the_overlay_and_back() -> Result<()> {
    let mut world = world("npo")?;
    world.nodes[0].apply(&node_port(0))?;
    let listener = world.b.run(|| TcpListener::bind((B, 80)))??;
    // The router is a client here.
    let from = asked(&world.router, (NODES[0], 30080), &listener)?;
    ensure!(from == IpAddr::V4(NODES[0]), "{from}");
    Ok(())
}

#[test]
fn direct_return_leads_through_the_overlay_and_not_back() -> Result<()> {
    let mut world = world("dsr")?;
    world.nodes.iter_mut().try_for_each(|node| node.apply(&node_port(ServiceValue::DSR)))?;
    let listener = world.b.run(|| TcpListener::bind((B, 80)))??;
    // By its address on the first node's link.
    let from = asked(&world.router, (NODES[0], 30080), &listener)?;
    ensure!(from == IpAddr::V4(ROUTER[0]), "{from}");
    Ok(())
}

#[test]
fn a_pod_speaks_to_another_node_from_its_own_nodes_address() -> Result<()> {
    let world = world("out")?;
    let listener = world.nodes[1].netns.run(|| TcpListener::bind((NODES[1], 80)))??;
    ensure!(asked(&world.a, (NODES[1], 80), &listener)? == IpAddr::V4(NODES[0]));
    Ok(())
}

#[test]
fn a_new_process_finds_its_routes_and_one_without_an_overlay_takes_it_away() -> Result<()> {
    let mut world = world("rst")?;
    let listener = world.b.run(|| TcpListener::bind((B, 80)))??;
    world.nodes[0].datapath = None;
    ensure!(asked(&world.a, (B, 80), &listener)? == IpAddr::V4(A), "the kernel goes on without the process");
    world.nodes[0].open()?;
    let node = &world.nodes[0];
    let datapath = node.datapath.as_ref().context("no datapath")?;
    ensure!(node.netns.run(|| datapath.observed())??.routes.len() == 1);
    ensure!(asked(&world.a, (B, 80), &listener)? == IpAddr::V4(A));
    world.nodes[0].set_overlay(false)?;
    let node = &world.nodes[0];
    let datapath = node.datapath.as_ref().context("no datapath")?;
    ensure!(node.netns.run(|| datapath.observed())??.routes.is_empty(), "the routes went with the device");
    Ok(())
}
