//! Real packets through XDP on a veth uplink, and every change of hook under them.
//!
//! What a veth asks of XDP in the driver (6.18):
//! - What `XDP_TX` sends is taken by the peer only while the peer has an XDP program too. With GRO alone it is queued
//!   there, but no poll is scheduled (`veth_xdp_flush`); with neither it is lost, and counted as `xdp_tx_errors`.
//! - A socket's packet comes with a checksum that a device is yet to finish, since veth claims to do that. `xdp_node`
//!   leaves such packets to TC; [`World::wire`] sees to both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, ServiceValue};
use skep_datapath::{Datapath, XdpHook, XdpMode};
use skep_netplan::Write;
use skep_tests::bpffs;

use super::packet::{Family, Transport};
use super::world::{Client, World, ethtool};
use crate::namespaces::ANSWER_TIMEOUT;
use crate::node::Node;

const PLAIN: u16 = 30_080;
const AFFINE: u16 = 30_081;
/// Source ranges that admit all clients, and that admit none.
const RANGED: u16 = 30_082;
const CLOSED: u16 = 30_083;

const TIMES: u64 = 20;

/// A counter of the uplink, over its queues.
fn counter(node: &Node, name: &str) -> Result<u64> {
    let all = ethtool(&node.netns, &["-S", "up0"])?;
    let lines = all.lines().filter_map(|line| line.trim().split_once(": "));
    let of_queues = lines.filter(|(key, _)| key.starts_with("rx_queue_") && key.ends_with(name));
    Ok(of_queues.map(|(_, value)| value.parse::<u64>()).sum::<Result<u64, _>>()?)
}

fn reopen(node: &mut Node, mode: XdpMode) -> Result<Option<XdpHook>> {
    node.datapath = None;
    node.xdp = mode;
    node.open()?;
    Ok(node.datapath.as_ref().and_then(Datapath::xdp))
}

fn is_attached(node: &Node) -> Result<bool> {
    let output = node.netns.command("ip").args(["link", "show", "up0"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

/// Takes `tc_node_ingress` from the uplink: what is forwarded then, XDP forwards.
fn without_tc(name: &str, uplink: u32) -> Result<()> {
    let pin = format!("v{}/links/uplink-{uplink}-ingress", skep_abi::ABI_VERSION);
    Ok(std::fs::remove_file(bpffs::folder(name)?.join(pin))?)
}

fn ask_all(clients: &mut [Client], times: u64) -> Result<()> {
    for _ in 0..times {
        clients.iter_mut().try_for_each(Client::ask)?;
    }
    Ok(())
}

/// Asks, and how many of the packets there and back XDP in the driver sent on.
fn sent_on(world: &World, clients: &mut [Client]) -> Result<u64> {
    let before = counter(&world.balancer, "xdp_tx")?;
    ask_all(clients, TIMES)?;
    Ok(counter(&world.balancer, "xdp_tx")? - before)
}

/// Packets of `clients`, at least.
fn least(clients: &[Client]) -> u64 {
    2 * TIMES * clients.len() as u64
}

#[test]
fn a_node_port_is_answered_by_another_nodes_pod_through_every_change_of_hook() -> Result<()> {
    let name = "sxnod";
    let mut world = World::new(name)?;
    world.expose(PLAIN, ServiceValue::default())?;
    ensure!(world.balancer.datapath.as_ref().and_then(Datapath::xdp).is_none(), "none on a veth unasked");
    ensure!(reopen(&mut world.balancer, XdpMode::Driver)? == Some(XdpHook::Driver));
    // The packets of sockets, as the veth brings them.
    let mut clients = world.dial_all(PLAIN)?;
    ensure!(sent_on(&world, &mut clients)? == 0, "an unfinished checksum was sent on");

    world.wire()?;
    let least = least(&clients);
    let sent = sent_on(&world, &mut clients)?;
    ensure!(sent >= least, "only {sent} packets went through XDP");
    // Open every flow again, now that the neighbours are known.
    let mut clients = world.dial_all(PLAIN)?;
    ensure!(sent_on(&world, &mut clients)? >= least);
    world.balancer.datapath = None;
    ensure!(sent_on(&world, &mut clients)? >= least, "without an agent");
    ensure!(reopen(&mut world.balancer, XdpMode::Driver)? == Some(XdpHook::Driver));
    ask_all(&mut clients, 1)?;
    ensure!(sent_on(&world, &mut clients)? >= least, "after a restart");
    ensure!(counter(&world.balancer, "xdp_tx_errors")? == 0);

    ensure!(reopen(&mut world.balancer, XdpMode::Generic)? == Some(XdpHook::Generic));
    ensure!(sent_on(&world, &mut clients)? == 0, "the driver's hook is empty");
    let uplink =
        world.balancer.datapath.as_ref().and_then(|datapath| Some(datapath.links().uplinks.first()?.index));
    without_tc(&format!("{name}b"), uplink.context("no uplink")?)?;
    ask_all(&mut clients, TIMES).context("behind the driver, alone")?;

    ensure!(reopen(&mut world.balancer, XdpMode::Off)?.is_none());
    ensure!(!is_attached(&world.balancer)?);
    ensure!(sent_on(&world, &mut clients)? == 0, "TC goes on with the flows");
    ensure!(reopen(&mut world.balancer, XdpMode::Driver)? == Some(XdpHook::Driver));
    // A flow that was silent for a second goes up once.
    ask_all(&mut clients, 1)?;
    ensure!(sent_on(&world, &mut clients)? >= least, "XDP goes on with the flows");
    world.balancer.datapath = None;
    Datapath::remove(&bpffs::folder(&format!("{name}b"))?)?;
    // The kernel lets go of a link some time after its pin.
    let start = Instant::now();
    while is_attached(&world.balancer)? {
        ensure!(start.elapsed() < ANSWER_TIMEOUT, "a program stayed on the uplink");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn restarts_of_the_agent_lose_no_packet() -> Result<()> {
    let mut world = World::new("sxres")?;
    world.expose(PLAIN, ServiceValue::default())?;
    world.wire()?;
    reopen(&mut world.balancer, XdpMode::Driver)?;
    let mut clients = Family::ALL
        .map(|family| world.dial(family, Transport::Udp, PLAIN))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    ask_all(&mut clients, TIMES)?;
    let (stop, World { balancer, .. }) = (AtomicBool::new(false), &mut world);
    std::thread::scope(|scope| -> Result<()> {
        // One datagram at a time, so that a lost one shows as an answer that does not come.
        let asking = scope.spawn(|| -> Result<u64> {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                ask_all(&mut clients, 1).with_context(|| format!("after {times} answers"))?;
                times += 1;
            }
            Ok(times)
        });
        let reopened = (0..5).try_for_each(|_| reopen(balancer, XdpMode::Driver).map(drop));
        stop.store(true, Ordering::Relaxed);
        let times = asking.join().map_err(|_| anyhow::anyhow!("the client ended badly"))??;
        reopened?;
        ensure!(times > 100, "only {times} questions");
        Ok(())
    })
}

#[test]
fn what_tc_does_works_beside_xdp() -> Result<()> {
    let mut world = World::new("sxtcs")?;
    world.wire()?;
    let [all_clients, no_client] = [7, 8];
    for list in [Addr::V4_PREFIX_BITS, 0].map(|prefix_bits| {
        let addr = if prefix_bits == 0 { Addr::UNSPECIFIED } else { Addr::from_v4_word(0) };
        Write::PutRange { list: all_clients, prefix_bits, addr }
    }) {
        world.balancer.apply(&[list])?;
    }
    let plain = ServiceValue::default();
    world.expose(AFFINE, ServiceValue { affinity_seconds: 10_800, ..plain })?;
    world.expose(RANGED, ServiceValue { ranges: all_clients, ..plain })?;
    world.expose(CLOSED, ServiceValue { ranges: no_client, ..plain })?;
    for mode in [XdpMode::Driver, XdpMode::Generic] {
        ensure!(reopen(&mut world.balancer, mode)?.is_some());
        for port in [AFFINE, RANGED] {
            let mut clients = world.dial_all(port).with_context(|| format!("{mode} {port}"))?;
            ask_all(&mut clients, 2).with_context(|| format!("{mode} {port}"))?;
        }
    }
    ensure!(world.dial(Family::V4, Transport::Tcp, CLOSED).is_err(), "outside of the source ranges");
    Ok(())
}
