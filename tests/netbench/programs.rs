//! Nanoseconds that each program spends on a packet of an established flow, over those of an empty program of its type.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use skep_abi::{Addr, Pod};
use skep_datapath::Datapath;
use skep_netplan::Write;
use xtask::build_ebpf::bench_object;
use xtask::progress::Step;

use crate::cluster::{NODE_ADDR, OPEN, remote_pod};
use crate::placement;
use crate::samples::Samples;
use crate::skep::Machine;
use crate::world::Subject;

/// The interface that a test run's packets seem to be on: loopback (`bpf_prog_test_run_skb`).
const INTERFACE: u32 = 1;

/// A program, the flow that it is measured on, and the program that opens that flow.
struct Case {
    program: &'static str,
    opener: &'static str,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

fn cases() -> [Case; 4] {
    let (here, there, away) = (OPEN.client.1, OPEN.server.1, remote_pod(0));
    let case = |program, opener, from, to| Case { program, opener, from, to };
    [
        case("tc_pod_egress", "tc_pod_egress", here, there),
        case("tc_pod_ingress", "tc_pod_ingress", NODE_ADDR, here),
        case("tc_node_ingress", "tc_node_ingress", away, here),
        case("tc_node_egress", "tc_pod_egress", here, away),
    ]
}

pub(crate) fn measure(rounds: u32, repeat: u32, samples: &mut Samples) -> Result<()> {
    let step = Step::new("test runs");
    let mut machine = Machine::new("nb-prog")?;
    machine.work(|datapath| {
        placement::pin()?;
        placement::come_first()?;
        let mut empty = Ebpf::load_file(bench_object())?;
        let empty: &mut SchedClassifier = empty.program_mut("empty_tc").context("no empty_tc")?.try_into()?;
        empty.load()?;
        know_pods(datapath)?;
        for case in cases() {
            let (_, _, nanos) = datapath.test_run(case.opener, &case.packet(true)?, 1)?;
            ensure!(nanos > 0, "{} was not run", case.opener);
            let packet = case.packet(false)?;
            for _ in 0..rounds {
                let options = TestRunOptions { data_in: Some(&packet), repeat, ..TestRunOptions::new() };
                let least = empty.test_run(options)?.duration.as_nanos() as f64;
                let (_, _, nanos) = datapath.test_run(case.program, &packet, repeat)?;
                samples.put("prog_ns", "ns", Subject::plain(case.program), nanos as f64 - least);
            }
        }
        Ok(())
    })?;
    step.done("measured");
    Ok(())
}

/// Two pods of this node, both on the interface of the test runs, and where the other node's pods are.
fn know_pods(datapath: &mut Datapath) -> Result<()> {
    let pods = [OPEN.client.1, OPEN.server.1];
    let known = Pod { ifindex: INTERFACE, ..Pod::default() };
    let mut writes: Vec<Write> = pods.map(|ip| Write::PutPod(addr(ip), known)).to_vec();
    writes.push(Write::PutCluster { prefix_bits: Addr::V4_PREFIX_BITS + 9, addr: addr(remote_pod(0)) });
    Ok(datapath.apply(&writes)?)
}

fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(std::net::IpAddr::V4(ip))
}

impl Case {
    /// The packet that opens the flow, or a later one.
    fn packet(&self, first: bool) -> Result<Vec<u8>> {
        let (from, to) = (self.from.octets(), self.to.octets());
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64).tcp(40_000, 8080, 1, 1000);
        let builder = if first { builder.syn() } else { builder.ack(1) };
        let mut packet = Vec::new();
        builder.write(&mut packet, &[0; 10])?;
        Ok(packet)
    }
}
