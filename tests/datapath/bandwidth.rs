//! Bandwidth of pods on the wire: TCP flows through limited pods have the limit, others everything.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, BURST_NS, Backend, Be16, DropReason, Pod, Proto, Scope, ServiceKey, ServiceValue};
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
/// What a flow is given to send, as a time at the rate it should get.
const FLOW_DURATION: Duration = Duration::from_secs(4);
/// A flow without progress for this long has ended.
const IDLE_LIMIT: Duration = Duration::from_secs(2);
/// Losses at the end of a flow are repaired by timeouts only, each twice as long as the one before.
const MIN_SHARE_OF_RATE: f64 = 0.6;
/// The longest packet that a pod sends, which passes as a whole.
const PACKET_BYTES: f64 = 65_536.0;
/// In bits a second; flows without a limit are faster.
const FREE_RATE: u64 = 1_000_000_000;
/// Of a full frame's bytes those that an application sends: 1,448 of 1,514.
const PAYLOAD: f64 = 1448.0 / 1514.0;

fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

/// The bytes that an application can send in `time` at `rate`, in bits a second.
fn sendable(rate: u64, time: Duration) -> f64 {
    rate as f64 / 8.0 * PAYLOAD * time.as_secs_f64()
}

/// How long a connection takes for what it can send in [`FLOW_DURATION`] at `rate`: from its first byte to its last, as who counts
/// in between takes what TCP held back behind a lost packet for the rate.
fn flow(from: &NetNs, server: &NetNs, to: SocketAddr, listen: SocketAddr, rate: u64) -> Result<Duration> {
    let size = sendable(rate, FLOW_DURATION) as usize;
    let listener = server.run(|| TcpListener::bind(listen))??;
    let begin = Instant::now();
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, IDLE_LIMIT))??;
    let (mut peer, _) = listener.accept()?;
    stream.set_write_timeout(Some(IDLE_LIMIT))?;
    peer.set_read_timeout(Some(IDLE_LIMIT))?;
    let sender = std::thread::spawn(move || stream.write_all(&vec![0; size]));
    let read = std::io::copy(&mut peer, &mut std::io::sink()).context("the flow stands still")?;
    let lasted = begin.elapsed();
    sender.join().ok().context("the sender ended badly")??;
    ensure!(read == size as u64, "{read} bytes of {size} arrived");
    Ok(lasted)
}

/// The flow had its rate, and no more than a bucket lets pass: what fits into its time with the burst before it.
fn has_limit(what: &str, lasted: Duration, rate: u64, burst: Duration) -> Result<()> {
    let share = FLOW_DURATION.as_secs_f64() / lasted.as_secs_f64();
    let most = sendable(rate, FLOW_DURATION) / (sendable(rate, lasted + burst) + PACKET_BYTES);
    println!("{what}: {share:.3} of the limit, {most:.3} of the most");
    ensure!(
        share > MIN_SHARE_OF_RATE && most <= 1.0,
        "{what}: {share:.3} of the limit, {most:.3} of the most"
    );
    Ok(())
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
        world.node.apply(&Write::backend_set(1, &[backend]).collect::<Vec<_>>())?;
        world.node.apply(&[
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
        let drops = datapath.counters()?.drops()?;
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
        ("from a limited pod to the outside", a, &world.outside, at(OUTSIDE), at(OUTSIDE), 20_000_000),
        ("from a limited pod to a pod", a, c, at(C), at(C), 20_000_000),
        ("from a pod to a limited pod", c, b, at(B), at(B), 100_000_000),
        ("from outside to a limited pod", &world.outside, b, frontend, at(B), 100_000_000),
        ("from the node to a limited pod", &world.node.netns, b, at(B), at(B), 100_000_000),
    ] {
        let lasted = flow(from, server, to, listen, limit)?;
        has_limit(what, lasted, limit, Duration::from_nanos(BURST_NS))?;
    }
    let before = world.over()?;
    ensure!(before > 0, "nothing was dropped");
    // What a limited pod gets in the direction that is not limited, and what others get.
    for (what, from, server, to) in [("to a", c, a, at(A)), ("to c", b, c, at(C))] {
        let lasted = flow(from, server, to, to, FREE_RATE)?;
        println!("{what}, without limit: {lasted:?}");
        ensure!(lasted < FLOW_DURATION, "{what}: {lasted:?} without limit");
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
        let lasted = flow(a, server, to, listen, LIMIT)?;
        println!("{} packets dropped so far", world.over()?);
        has_limit(what, lasted, LIMIT, Duration::from_nanos(if paces { 0 } else { BURST_NS }))?;
    }
    let over = world.over()?;
    ensure!((over == 0) == paces, "{over} packets were dropped");
    Ok(())
}
