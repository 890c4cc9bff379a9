//! Two pods joined by a program that does nothing but bring packets from one to the other: what any network of BPF programs
//! at TC spends, so what is left to be saved.

use anyhow::{Context, Result};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use aya::{Ebpf, EbpfLoader};
use skep_tests::netns::NetNs;
use xtask::build_ebpf::bench_object;

use crate::cluster::OPEN;
use crate::skep::{Machine, add_link};
use crate::world::{self, Subject, Way};

pub(crate) struct Joined {
    pods: [NetNs; 2],
    _programs: [Ebpf; 2],
    /// Only its links lie on the way.
    _machine: Machine,
}

impl Joined {
    pub(crate) fn new() -> Result<Joined> {
        let mut machine = Machine::new("nb-j")?;
        let pods = [world::pod("nb-j-a")?, world::pod("nb-j-b")?];
        let [a, b] = [(&pods[0], OPEN.client.1), (&pods[1], OPEN.server.1)]
            .map(|(pod, addr)| machine.work(|datapath| add_link(datapath, pod, addr)));
        let (a, b) = (a?.ifindex, b?.ifindex);
        let programs = [join(&machine, &pods[0], b)?, join(&machine, &pods[1], a)?];
        Ok(Joined { pods, _programs: programs, _machine: machine })
    }

    pub(crate) fn way(&self) -> Way {
        let [client, server] = self.pods.each_ref().map(world::place);
        Way::direct(Subject::plain("redirect"), client, server, OPEN.server.1)
    }
}

/// Sends all that the pod sends to the other one, whose host side has the index.
fn join(machine: &Machine, pod: &NetNs, to: u32) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().override_global("DEVICE", &to, true).load_file(bench_object())?;
    let program: &mut SchedClassifier = ebpf.program_mut("join_tc").context("no join_tc")?.try_into()?;
    program.load()?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let device = world::host_side(pod);
    machine.node.run(|| program.attach_with_options(&device, TcAttachType::Ingress, order))??;
    Ok(ebpf)
}
