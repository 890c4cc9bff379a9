//! Unanswered flows, and pods with many flows: what they take from others.

use std::net::SocketAddr;

use anyhow::{Result, anyhow, ensure};
use aya::util::nr_cpus;
use rustix::thread::{CpuSet, sched_setaffinity};
use skep_abi::logic::openers::ring_len;
use skep_abi::{Addr, DropReason, Flow, Pod, Proto};
use skep_netplan::Write;

use super::frame::{ACK, Body, Frame, RST, SYN};
use super::lab::{Lab, Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, data};

/// Entries of the lab's table of flows: an eighth is for unanswered flows, a quarter for one pod's.
const ENTRIES: u32 = 8_192;
/// Connections that are there before.
const KEPT: u16 = 200;
/// New flows: more than the table has room for.
const FLOOD: u32 = 20_000;

fn lab(name: &str) -> Result<Lab> {
    let mut lab = Lab::new(name)?;
    lab.set_conntrack_max(ENTRIES)?;
    Ok(lab)
}

fn segment(flags: u8) -> Body {
    Body::Tcp { flags, sequence: 7, acknowledged: 0, window: 9, data: vec![] }
}

/// Runs the packet; the packet that goes on.
fn goes_on(lab: &mut Lab, program: &str, packet: &Frame) -> Result<Vec<u8>> {
    let (verdict, out) = lab.run(program, &packet.bytes())?;
    ensure!(matches!(verdict, Verdict::Pass | Verdict::Redirect), "{program}: {verdict:?} for {packet:?}");
    Ok(out)
}

/// Opens a connection from a pod to the outside and has it established; the end that the outside sees.
fn connect(lab: &mut Lab, client: SocketAddr, outside: SocketAddr) -> Result<SocketAddr> {
    let syn = Frame::new(client, outside, segment(SYN));
    goes_on(lab, POD, &syn)?;
    let ours = Frame::ends(&goes_on(lab, TO_OUTSIDE, &syn)?)?.0;
    goes_on(lab, FROM_OUTSIDE, &Frame::new(outside, ours, segment(SYN | ACK)))?;
    let ack = Frame::new(client, outside, segment(ACK));
    goes_on(lab, POD, &ack)?;
    goes_on(lab, TO_OUTSIDE, &ack)?;
    Ok(ours)
}

fn connections(
    lab: &mut Lab,
    pod: std::net::IpAddr,
    outside: SocketAddr,
) -> Result<Vec<(SocketAddr, SocketAddr)>> {
    let one = |number| {
        let client = at(pod, 40_000 + number);
        Ok((client, connect(lab, client, outside)?))
    };
    (0..KEPT).map(one).collect()
}

/// How many of the connections no longer bring an answer to their pod.
fn broken(lab: &mut Lab, connections: &[(SocketAddr, SocketAddr)], outside: SocketAddr) -> Result<usize> {
    let mut broken = 0;
    for (client, ours) in connections {
        let (_, out) = lab.run(FROM_OUTSIDE, &Frame::new(outside, *ours, segment(ACK)).bytes())?;
        broken += usize::from(Frame::ends(&out)?.1 != *client);
    }
    Ok(broken)
}

#[test]
fn a_flood_that_nobody_answers_breaks_no_connection() -> Result<()> {
    let mut lab = lab("pkp1")?;
    for world in World::ALL {
        lab.forget_flows()?;
        let outside = at(world.client(), 443);
        let kept = connections(&mut lab, world.a(), outside)?;
        let before = lab.evictions()?;
        for number in 0..FLOOD {
            let from = at(world.b(), 10_000 + (number % 50_000) as u16);
            let datagram = Frame::new(from, at(world.client(), 53), data(Proto::UDP));
            goes_on(&mut lab, POD, &datagram)?;
            lab.run(TO_OUTSIDE, &datagram.bytes())?;
        }
        let broken = broken(&mut lab, &kept, outside)?;
        ensure!(broken == 0, "{broken} of {KEPT} connections broke");
        ensure!(lab.evictions()? > before, "nothing was evicted");
    }
    Ok(())
}

/// Clients whose addresses are not theirs never acknowledge.
#[test]
fn connections_that_outsiders_leave_half_open_break_no_other() -> Result<()> {
    let mut lab = lab("pkp2")?;
    let world = World::ALL[0];
    let outside = at(world.client(), 443);
    let kept = connections(&mut lab, world.a(), outside)?;
    let frontend = at(world.node(), port::NODE + port::LOCAL);
    for number in 0..FLOOD {
        let client = at(world.outside((number % 250) as u8), 1_024 + (number / 250) as u16);
        goes_on(&mut lab, FROM_OUTSIDE, &Frame::new(client, frontend, segment(SYN)))?;
        let answer = Frame::new(at(world.b(), port::BACKEND), client, segment(SYN | ACK));
        goes_on(&mut lab, POD, &answer)?;
    }
    let broken = broken(&mut lab, &kept, outside)?;
    ensure!(broken == 0, "{broken} of {KEPT} connections broke");
    Ok(())
}

#[test]
fn a_pod_with_many_answered_flows_takes_no_more_than_its_share() -> Result<()> {
    let mut lab = lab("pkp3")?;
    let world = World::ALL[0];
    let outside = at(world.client(), 443);
    let interface = lab.interface("up0")?;
    let pod = Pod { ifindex: interface, slot: 3, ..Pod::default() };
    lab.node.apply(&[Write::PutPod(Addr::from(world.elsewhere()), pod)])?;
    lab.at.interface = interface;
    let kept = connections(&mut lab, world.elsewhere(), outside)?;
    lab.at.interface = 0;
    let server = at(world.client(), 53);
    let ask = |lab: &mut Lab, number: u32| -> Result<()> {
        let from = at(world.b(), 10_000 + (number % 50_000) as u16);
        let question = Frame::new(from, server, data(Proto::UDP));
        goes_on(lab, POD, &question)?;
        let (verdict, out) = lab.run(TO_OUTSIDE, &question.bytes())?;
        ensure!(verdict == Verdict::Pass, "{verdict:?}");
        goes_on(lab, FROM_OUTSIDE, &Frame::new(server, Frame::ends(&out)?.0, data(Proto::UDP)))?;
        Ok(())
    };
    for number in 0..FLOOD {
        ask(&mut lab, number)?;
    }
    let share = ENTRIES as usize / 8;
    let held = |lab: &Lab| -> Result<usize> {
        let flows = lab.flow_entries()?;
        let is_held =
            |flow: &&Flow| flow.flags & Flow::KEPT != 0 && flow.low_ifindex.max(flow.high_ifindex) == 1;
        Ok(flows.values().filter(is_held).count())
    };
    let at_most = held(&lab)?;
    ensure!(at_most <= share && at_most > share / 2, "{at_most} flows are kept, and the share is {share}");
    let broken = broken(&mut lab, &kept, outside)?;
    ensure!(broken == 0, "{broken} of {KEPT} connections broke");
    // Those that expire make room in the share.
    lab.age(200)?;
    lab.tidy()?;
    ensure!(held(&lab)? == 0, "datagrams' flows live longer than 200 s");
    ask(&mut lab, 1)?;
    ensure!(held(&lab)? == 1, "a new flow is not kept");
    Ok(())
}

/// A key leaves its ring later than its flow ends. A flow that has the key by then keeps its entry.
#[test]
fn a_key_that_a_new_flow_has_leaves_its_ring_without_the_flow() -> Result<()> {
    const IN_FLIGHT: u16 = 5;
    let mut lab = lab("pkor")?;
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(None, &cpu)?;
    let ring = ring_len(ENTRIES, nr_cpus().map_err(|(what, error)| anyhow!("read {what}: {error}"))? as u32);
    for world in World::ALL {
        // Each flow begins shortly before the ring loses the key of the flow before it with the same ports.
        let ports = ring as u16 - IN_FLIGHT + 1;
        let flow = |number: u16| (at(world.a(), 10_000 + number % ports), at(world.b(), 81));
        for number in 0..ports * 3 {
            let (client, server) = flow(number);
            goes_on(&mut lab, POD, &Frame::new(client, server, segment(SYN)))?;
            let Some(before) = number.checked_sub(IN_FLIGHT) else { continue };
            let (client, server) = flow(before);
            ensure!(lab.has_flow(client, server, Proto::TCP)?, "flow {before} has lost its entry");
            lab.run(POD, &Frame::new(client, server, segment(RST)).bytes())?;
        }
    }
    Ok(())
}

/// New flows a second in the test of the budget: few, so that a slow machine opens more than the budget is refilled by.
const RATE: u32 = 20;

#[test]
fn a_pod_opens_no_more_flows_than_its_budget_and_others_have_theirs() -> Result<()> {
    let mut lab = Lab::new("pkob")?;
    lab.set_pod_new_flows(RATE)?;
    let world = World::ALL[0];
    let (client, other) = (world.a(), world.elsewhere());
    let outside = at(world.client(), port::BACKEND);
    let open = |lab: &mut Lab, pod, number: u32| {
        let port = 1_024 + number as u16;
        lab.run(POD, &Frame::new(at(pod, port), outside, data(Proto::UDP)).bytes())
            .map(|(verdict, _)| verdict)
    };
    let start = std::time::Instant::now();
    let mut passed = 0;
    let mut refused = 0;
    for number in 0..RATE * 3 {
        match open(&mut lab, client, number)? {
            Verdict::Drop(DropReason::FlowRate) => refused += 1,
            Verdict::Pass | Verdict::Redirect => passed += 1,
            verdict => anyhow::bail!("{verdict:?}"),
        }
    }
    let refilled = (start.elapsed().as_secs_f64() * f64::from(RATE)) as u32 + 1;
    ensure!((RATE..=RATE + refilled).contains(&passed), "{passed} passed, {refused} refused");
    ensure!(refused > 0, "no flow was refused in {:?}", start.elapsed());
    // A known flow is no new one, and another pod has its own budget.
    ensure!(open(&mut lab, client, 0)? != Verdict::Drop(DropReason::FlowRate));
    let uplink = lab.interface("up0")?;
    lab.node.apply(&[Write::PutPod(other.into(), Pod { ifindex: uplink, slot: 3, ..Pod::default() })])?;
    lab.at = skep_datapath::At { interface: uplink, came_by: uplink };
    ensure!(open(&mut lab, other, 0)? != Verdict::Drop(DropReason::FlowRate));
    Ok(())
}
