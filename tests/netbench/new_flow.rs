//! Nanoseconds that `tc_pod_egress` spends on the first packet of a flow between two pods, over those of an empty program: the
//! look-ups of services, pods and policies, and the new entry, which takes the room of an older one.

use std::sync::Arc;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use skep_abi::{
    Addr, Be16, CLASS_ANY, Direction, Pod, Proto, Verdict, VerdictKey, isolated_bit, open_bit, verdicts_index,
};
use skep_datapath::{Datapath, Trial};
use skep_netplan::{VerdictMapId, Write};
use xtask::build_ebpf::bench_object;
use xtask::progress::Step;

use crate::cluster::{NODE_ADDR, OPEN};
use crate::placement;
use crate::samples::Samples;
use crate::skep::Machine;
use crate::world::Subject;

/// The interface that a test run's packets seem to be on: loopback (`bpf_prog_test_run_skb`).
const INTERFACE: u32 = 1;
/// Flows of one sample: more than have room without an answer.
const FLOWS: u32 = 60_000;
const PORT: u16 = 8_080;

/// With the agent's programs.
pub(crate) fn measure(rounds: u32, samples: &mut Samples) -> Result<()> {
    let step = Step::new("test runs of new flows");
    measure_trial("tc_pod_egress", Trial::default(), rounds, samples)?;
    step.done("measured");
    Ok(())
}

/// `new_flow_ns` of the subject.
pub(crate) fn measure_trial(
    name: &'static str,
    trial: Trial,
    rounds: u32,
    samples: &mut Samples,
) -> Result<()> {
    let mut machine = Machine::open("nb-new", &[NODE_ADDR.into()], trial)?;
    machine.work(|datapath| {
        placement::pin()?;
        placement::come_first()?;
        let mut fresh = Fresh::new()?;
        for policy in [false, true] {
            datapath.apply(&pods(policy))?;
            let subject = Subject { policy: Some(policy), ..Subject::plain(name) };
            for _ in 0..rounds {
                samples.put("new_flow_ns", "ns", subject, fresh.over_empty(datapath)?);
            }
        }
        Ok(())
    })
}

/// Client and server; under policy the one may only send to, and the other only receive at, the port.
fn pods(policy: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    let ends = [(OPEN.client.1, Direction::EGRESS), (OPEN.server.1, Direction::INGRESS)];
    for (slot, (ip, direction)) in (0..).zip(ends) {
        let other = if direction == Direction::EGRESS { Direction::INGRESS } else { Direction::EGRESS };
        let mut isolated = open_bit(0, other);
        if policy {
            isolated |= isolated_bit(0);
            let id = VerdictMapId(u64::from(slot));
            writes.push(Write::CreateVerdictMap { id, entries: Arc::new(entries(direction, other)) });
            writes.push(Write::PutVerdicts { index: verdicts_index(slot, 0), map: id });
        } else {
            isolated |= open_bit(0, direction);
        }
        let pod = Pod { ifindex: INTERFACE, slot, isolated, ..Pod::default() };
        writes.push(Write::PutPod(Addr::from(std::net::IpAddr::V4(ip)), pod));
    }
    writes
}

fn entries(policed: Direction, open: Direction) -> [(u32, VerdictKey, Verdict); 3] {
    let default = |direction| VerdictKey::new(direction, 0, Proto(0), Be16::new(0));
    let allowed = VerdictKey::new(policed, CLASS_ANY, Proto::TCP, Be16::new(PORT));
    [
        (VerdictKey::DIRECTION_BITS, default(policed), Verdict { allow: 0, rule: 0 }),
        (VerdictKey::DIRECTION_BITS, default(open), Verdict { allow: 1, rule: 0 }),
        (VerdictKey::PORT_BITS, allowed, Verdict { allow: 1, rule: 1 }),
    ]
}

/// A packet that opens another flow in each run.
struct Fresh {
    ebpf: Ebpf,
    measured: ProgramArray<MapData>,
    packet: Vec<u8>,
}

impl Fresh {
    fn new() -> Result<Fresh> {
        let mut ebpf = Ebpf::load_file(bench_object())?;
        for name in ["fresh_tc", "empty_tc"] {
            classifier(&mut ebpf, name)?.load()?;
        }
        let measured = ProgramArray::try_from(ebpf.take_map("MEASURED_TC").context("no MEASURED_TC")?)?;
        let (from, to) = (OPEN.client.1.octets(), OPEN.server.1.octets());
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(from, to, 64)
            .tcp(1, PORT, 1, 1_000)
            .syn()
            .write(&mut packet, &[])?;
        Ok(Fresh { ebpf, measured, packet })
    }

    fn over_empty(&mut self, datapath: &Datapath) -> Result<f64> {
        self.measured.set(0, classifier(&mut self.ebpf, "empty_tc")?.fd()?, 0)?;
        let least = self.run()?;
        self.measured.set(0, datapath.program_fd("tc_pod_egress")?, 0)?;
        Ok(self.run()? - least)
    }

    fn run(&mut self) -> Result<f64> {
        let options = TestRunOptions { data_in: Some(&self.packet), repeat: FLOWS, ..TestRunOptions::new() };
        let result = classifier(&mut self.ebpf, "fresh_tc")?.test_run(options)?;
        Ok(result.duration.as_nanos() as f64)
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no {name}"))?;
    Ok(program.try_into()?)
}
