//! Bandwidth of pods: every packet is counted once, whichever way it comes or goes; two CPUs spend from one bucket.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_abi::logic::gcra::wire_time_ns;
use skep_abi::{Addr, BURST_NS, Direction, DropReason, Pod, Proto};
use skep_datapath::Datapath;
use skep_netplan::Write;

use super::frame::Frame;
use super::lab::{Lab, Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_POD, Table, opening};

/// At this rate every packet is worth more than a burst.
const SLOW: u64 = 1_000;
/// Behind the slots of the other pods.
const FIRST_SLOT: u32 = 100;

struct Limits {
    table: Table,
    slot: u32,
    generation: u32,
}

impl Limits {
    /// Gives the pod a limit and a bucket that is full.
    fn limit(&mut self, ip: IpAddr, direction: Direction, rate: u64) -> Result<()> {
        self.slot += 1;
        let mut pod = Pod { ifindex: 1, slot: self.slot, ..Pod::default() };
        match direction {
            Direction::INGRESS => pod.ingress_rate = rate,
            _ => pod.egress_rate = rate,
        }
        self.table.lab.node.apply(&[Write::PutPod(Addr::from(ip), pod)])
    }

    /// Raises the generation, as a change of policy does, so that flows are evaluated again.
    fn raise_generation(&mut self) -> Result<()> {
        self.generation += 2;
        self.table.lab.node.apply(&[Write::SetGeneration(self.generation)])
    }

    fn passes(&mut self, program: &str, packet: &Frame) -> Result<()> {
        let (verdict, _) = self.table.run(program, packet)?;
        ensure!(!matches!(verdict, Verdict::Drop(_)), "{program} {packet:?}: {verdict:?}");
        Ok(())
    }

    fn passes_once(&mut self, program: &str, packet: &Frame) -> Result<()> {
        self.passes(program, packet)?;
        self.table.dropped(program, packet, DropReason::Bandwidth)
    }

    /// Of the flow that the packet opens: its first packet, one of an established flow, and one that is evaluated again.
    fn counted(&mut self, program: &str, packet: &Frame, pod: IpAddr, direction: Direction) -> Result<()> {
        self.limit(pod, direction, SLOW)?;
        self.passes_once(program, packet)?;
        self.limit(pod, direction, SLOW)?;
        self.passes_once(program, packet)?;
        self.raise_generation()?;
        self.limit(pod, direction, SLOW)?;
        self.passes_once(program, packet)?;
        // Nothing of the limit stays with the flow.
        self.limit(pod, direction, 0)?;
        self.raise_generation()?;
        (0..3).try_for_each(|_| self.passes(program, packet))
    }
}

fn udp(from: SocketAddr, to: SocketAddr) -> Frame {
    Frame::new(from, to, opening(Proto::UDP))
}

#[test]
fn every_packet_of_a_limited_pod_is_counted_once_on_every_way() -> Result<()> {
    let mut limits = Limits { table: Table::new("pkb1")?, slot: FIRST_SLOT, generation: 3 };
    for world in World::ALL {
        let (a, b) = (world.a(), world.b());
        let (vip, node) = (world.vip(), at(world.node(), port::NODE + port::LOCAL));
        let mut client = at(a, 43_000);
        let mut next = |ip| {
            client.set_port(client.port() + 1);
            at(ip, client.port())
        };
        for (program, packet, pod, direction) in [
            (POD, udp(next(a), at(b, 80)), a, Direction::EGRESS),
            (POD, udp(next(a), at(b, 80)), b, Direction::INGRESS),
            (POD, udp(next(a), at(vip, port::LOCAL)), a, Direction::EGRESS),
            (POD, udp(next(a), at(vip, port::LOCAL)), b, Direction::INGRESS),
            (POD, udp(next(a), at(vip, port::HAIRPIN)), a, Direction::EGRESS),
            (POD, udp(next(a), at(world.remote(), 80)), a, Direction::EGRESS),
            (POD, udp(next(a), at(world.stranger(), 80)), a, Direction::EGRESS),
            (POD, udp(next(a), at(world.node(), 80)), a, Direction::EGRESS),
            (FROM_OUTSIDE, udp(next(world.client()), node), b, Direction::INGRESS),
            (FROM_OUTSIDE, udp(next(world.remote()), at(b, 80)), b, Direction::INGRESS),
            (TO_POD, udp(next(world.node()), at(b, 80)), b, Direction::INGRESS),
        ] {
            limits.counted(program, &packet, pod, direction).with_context(|| format!("{packet:?}"))?;
        }
        // An answer is the answering pod's, and what comes from a service is none of the service's.
        let question = udp(next(a), at(vip, port::LOCAL));
        let answer = udp(at(b, port::BACKEND), question.source);
        limits.passes(POD, &question)?;
        limits.limit(b, Direction::EGRESS, SLOW)?;
        limits.raise_generation()?;
        limits.passes_once(POD, &answer)?;
        (0..3).try_for_each(|_| limits.passes(POD, &question))?;
        limits.limit(b, Direction::EGRESS, 0)?;
        limits.raise_generation()?;
    }
    Ok(())
}

#[test]
fn two_cpus_spend_from_one_bucket_and_the_next_agent_finds_it() -> Result<()> {
    let mut lab = Lab::new("pkb2")?;
    let world = World::ALL[0];
    let packet = udp(at(world.a(), 44_000), at(world.b(), 80)).bytes();
    // A packet every ten microseconds, and one takes less than one.
    let rate = packet.len() as u64 * 800_000;
    let pod = Pod { ifindex: 1, slot: FIRST_SLOT, egress_rate: rate, ..Pod::default() };
    lab.node.apply(&[Write::PutPod(Addr::from(world.a()), pod)])?;
    // Programs of two loads work on the maps of one.
    let mut first = lab.node.datapath.take().context("no datapath")?;
    lab.node.open()?;
    let mut second = lab.node.datapath.take().context("no datapath")?;
    let netns = &lab.node.netns;
    let repeat = 1_000_000;
    let begin = Instant::now();
    let run = |datapath: &mut Datapath| netns.run(|| datapath.test_run(POD, &packet, repeat).map(drop));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&mut first));
        run(&mut second)??;
        other.join().map_err(|_| anyhow::anyhow!("a run ended badly"))??.context("a run")
    })?;
    let took = begin.elapsed();
    let over = second
        .counters()?
        .drops()?
        .into_iter()
        .find(|count| count.reason == DropReason::Bandwidth && count.packets > 0);
    let passed = 2 * u64::from(repeat) - over.map_or(0, |count| count.packets);
    let cost = Duration::from_nanos(wire_time_ns(packet.len() as u64, rate));
    let most = (took + Duration::from_nanos(BURST_NS)).div_duration_f64(cost);
    println!("{passed} passed in {took:?}, {most:.0} at most");
    // What the runs' own beginning and end take is in the time.
    ensure!(passed as f64 <= most + 1.0, "{passed} passed, {most} may");
    ensure!(passed as f64 >= most * 0.9, "{passed} passed of {most}");
    Ok(())
}

#[test]
fn a_flow_that_was_refused_is_opened_from_the_same_port_once_it_may() -> Result<()> {
    let mut limits = Limits { table: Table::new("pkb3")?, slot: FIRST_SLOT, generation: 3 };
    for world in World::ALL {
        for (program, client, service) in
            [(POD, world.a(), world.vip()), (FROM_OUTSIDE, world.client(), world.node())]
        {
            let number = |port| if program == POD { port } else { port::NODE + port };
            let frontend = at(service, number(port::LOCAL));
            let (b, closed) = (world.b(), world.closed());
            limits.limit(b, Direction::INGRESS, SLOW)?;
            limits.passes(program, &udp(at(client, 45_000), frontend))?;
            let over = udp(at(client, 45_001), frontend);
            limits.table.dropped(program, &over, DropReason::Bandwidth)?;
            let forbidden = udp(at(client, 45_002), at(service, number(port::CLOSED)));
            limits.table.dropped(program, &forbidden, DropReason::PolicyIngress)?;
            limits.limit(b, Direction::INGRESS, 0)?;
            // In another slot it is under no policy.
            limits.limit(closed, Direction::INGRESS, 0)?;
            limits.raise_generation()?;
            for (question, backend) in [(over, b), (forbidden, closed)] {
                let backend = at(backend, port::BACKEND);
                limits.table.row(program, &question, Verdict::Redirect, &question.to(backend))?;
                let answer = udp(backend, question.source);
                limits.table.row(POD, &answer, Verdict::Redirect, &answer.from(question.destination))?;
            }
            let pod = Pod { ifindex: 1, slot: 2, ..Pod::default() };
            limits.table.lab.node.apply(&[Write::PutPod(Addr::from(closed), pod)])?;
            limits.raise_generation()?;
        }
    }
    Ok(())
}
