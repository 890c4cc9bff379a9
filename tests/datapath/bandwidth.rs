//! Bandwidth of pods on the wire: TCP flows through limited pods have the limit, others everything.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, BackendKey, Be16, DropReason, Pod, Proto, Scope, ServiceKey, ServiceValue};
use skep_datapath::PodInterface;
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::node::Node;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 11, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 11, 3);
const C: Ipv4Addr = Ipv4Addr::new(10, 77, 11, 4);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 11, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 11, 254);
const PORT: u16 = 5_001;
const NODE_PORT: u16 = 30_001;
/// The burst is over by then.
const LEAD: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(3);
/// Of a full frame's bytes those that an application sends: 1,448 of 1,514.
const PAYLOAD: f64 = 1448.0 / 1514.0;

fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

/// Bits a second that one connection gets once it runs.
fn throughput(from: &NetNs, server: &NetNs, to: SocketAddr, listen: SocketAddr) -> Result<f64> {
    let listener = server.run(|| TcpListener::bind(listen))??;
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
    let (mut peer, _) = listener.accept()?;
    let end = Instant::now() + LEAD + MEASURED;
    stream.set_write_timeout(Some(LEAD))?;
    let sender = std::thread::spawn(move || {
        let block = [0; 65_536];
        while Instant::now() < end && stream.write(&block).is_ok() {}
    });
    peer.set_read_timeout(Some(LEAD))?;
    let mut block = vec![0; 1 << 20];
    let (begin, mut bytes) = (Instant::now() + LEAD, 0);
    while Instant::now() < end {
        let read = peer.read(&mut block).context("the flow stands still")?;
        if Instant::now() >= begin {
            bytes += read;
        }
    }
    drop(peer);
    sender.join().ok().context("the sender ended badly")?;
    Ok(bytes as f64 * 8.0 / MEASURED.as_secs_f64())
}

struct World {
    node: Node,
    outside: NetNs,
    pods: Vec<(Ipv4Addr, NetNs, PodInterface, u32)>,
}

impl World {
    /// Three pods, and a service of the second one's.
    fn new(name: &str) -> Result<World> {
        let outside = NetNs::new(&format!("{name}o"))?;
        let node = Node::new(&format!("{name}n"), &outside, &[(NODE.into(), OUTSIDE.into())])?;
        let mut world = World { node, outside, pods: Vec::new() };
        for (pod, ip) in [("a", A), ("b", B), ("c", C)] {
            let (netns, interface, slot) = world.node.add_pod(&format!("{name}{pod}"), &[ip.into()])?;
            world.pods.push((ip, netns, interface, slot));
        }
        let backend = Backend { addr: addr(B), port: Be16::new(PORT), reserved: 0 };
        let key =
            |scope| ServiceKey { addr: addr(NODE), port: Be16::new(NODE_PORT), proto: Proto::TCP, scope };
        let value = ServiceValue { set: 1, count: 1, service: 1, ..ServiceValue::default() };
        world.node.apply(&[
            Write::PutBackend(BackendKey { set: 1, slot: 0 }, backend),
            Write::PutService(key(Scope::INTERNAL), value),
            Write::PutService(key(Scope::EXTERNAL), value),
        ])?;
        Ok(world)
    }

    fn limit(&mut self, at: usize, ingress_rate: u64, egress_rate: u64) -> Result<()> {
        let (ip, _, PodInterface { ifindex, mac, host_mac }, slot) = self.pods[at];
        let pod = Pod { ifindex, slot, mac, host_mac, ingress_rate, egress_rate, ..Pod::default() };
        self.node.apply(&[Write::PutPod(addr(ip), pod)])
    }

    fn over(&self) -> Result<u64> {
        let datapath = self.node.datapath.as_ref().context("no datapath")?;
        let drops = self.node.netns.run(|| datapath.drops())??;
        Ok(drops.iter().filter(|drop| drop.reason == DropReason::Bandwidth).map(|drop| drop.packets).sum())
    }
}

#[test]
fn tcp_through_a_limited_pod_gets_its_limit_and_other_pods_all_there_is() -> Result<()> {
    let mut world = World::new("skbw")?;
    let at = |ip: Ipv4Addr| SocketAddr::from((ip, PORT));
    let frontend = SocketAddr::from((NODE, NODE_PORT));
    world.limit(0, 0, 20_000_000)?;
    world.limit(1, 100_000_000, 0)?;
    let [(_, a, ..), (_, b, ..), (_, c, ..)] = &world.pods[..] else { anyhow::bail!("three pods") };
    for (what, from, server, to, listen, limit) in [
        ("from a limited pod to the outside", a, &world.outside, at(OUTSIDE), at(OUTSIDE), 20e6),
        ("from a limited pod to a pod", a, c, at(C), at(C), 20e6),
        ("from a pod to a limited pod", c, b, at(B), at(B), 100e6),
        ("from outside to a limited pod", &world.outside, b, frontend, at(B), 100e6),
        ("from the node to a limited pod", &world.node.netns, b, at(B), at(B), 100e6),
    ] {
        let got = throughput(from, server, to, listen)?;
        println!("{what}: {:.1} of {:.1} Mbit/s", got / 1e6, limit * PAYLOAD / 1e6);
        let share = got / (limit * PAYLOAD);
        ensure!((0.85..=1.15).contains(&share), "{what}: {share:.3} of the limit");
    }
    let before = world.over()?;
    ensure!(before > 0, "nothing was dropped");
    // What a limited pod gets in the direction that is not limited, and what others get.
    for (what, from, server, to) in [("to a", c, a, at(A)), ("to c", b, c, at(C))] {
        let got = throughput(from, server, to, to)?;
        println!("{what}, without limit: {:.0} Mbit/s", got / 1e6);
        ensure!(got > 1e9, "{what}: {got} bits a second without limit");
    }
    Ok(())
}

/// What is printed where packets wait for their time.
pub(crate) const PACED: &str = "what is over waits";

/// With `fq` TCP hears of no loss; without it, what is over is dropped.
#[test]
fn what_a_limited_pod_sends_waits_where_the_kernel_has_fq() -> Result<()> {
    const LIMIT: u64 = 4_000_000;
    let mut world = World::new("skbp")?;
    let paces = world.node.datapath.as_ref().context("no datapath")?.paces();
    println!("{}", if paces { PACED } else { "what is over is dropped" });
    world.limit(0, 0, LIMIT)?;
    let [(_, a, ..), (_, b, ..), (_, c, ..)] = &world.pods[..] else { anyhow::bail!("three pods") };
    let at = |ip: Ipv4Addr| SocketAddr::from((ip, PORT));
    for (what, server, to, listen) in [
        ("to the outside", &world.outside, at(OUTSIDE), at(OUTSIDE)),
        ("to a pod", c, at(C), at(C)),
        ("to a service", b, SocketAddr::from((NODE, NODE_PORT)), at(B)),
    ] {
        let got = throughput(a, server, to, listen)?;
        let share = got / (LIMIT as f64 * PAYLOAD);
        println!("{what}: {share:.3} of the limit, {} packets dropped so far", world.over()?);
        ensure!((0.85..=1.15).contains(&share), "{what}: {share:.3} of the limit");
    }
    let over = world.over()?;
    ensure!((over == 0) == paces, "{over} packets were dropped");
    Ok(())
}
