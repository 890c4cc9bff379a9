//! Two pods whose sockets exchange data past TCP, by a socket map (BPF_MAP_TYPE_SOCKHASH) and a program for messages: how fast a
//! splice of sockets would be, and what of TCP's behaviour the kernel then keeps.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, SockHash};
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::{NetNs, connect};
use xtask::build_ebpf::bench_object;
use xtask::progress::Step;

use crate::cluster::OPEN;
use crate::placement::Placement;
use crate::samples::Samples;
use crate::sockets;
use crate::world::{self, Subject, Way};

pub(crate) struct Spliced {
    pods: [NetNs; 2],
    cgroup: Cgroup,
    _programs: Ebpf,
}

impl Spliced {
    pub(crate) fn new() -> Result<Spliced> {
        let pods = [world::pod("nb-sp-a")?, world::pod("nb-sp-b")?];
        let [from, to] = [OPEN.client.1, OPEN.server.1].map(|addr| format!("{addr}/24"));
        connect((&pods[0], "eth0", &from), (&pods[1], "eth0", &to))?;
        let cgroup = Cgroup::new("nb-spliced")?;
        let programs = splice(&cgroup)?;
        Ok(Spliced { pods, cgroup, _programs: programs })
    }

    pub(crate) fn way(&self) -> Way {
        let [client, server] = self.pods.each_ref().map(|pod| self.place(pod));
        Way::direct(Subject::plain("spliced"), client, server, OPEN.server.1)
    }

    fn place(&self, pod: &NetNs) -> Placement {
        Placement { cgroup: Some(self.cgroup.path().to_owned()), ..world::place(pod) }
    }

    /// What sockets do, with TCP between them and spliced.
    pub(crate) fn behaviour(&self, samples: &mut Samples) -> Result<()> {
        let step = Step::new("behaviour of spliced sockets");
        let pod = &self.pods[0];
        for (name, place) in [("loopback", world::place(pod)), ("spliced", self.place(pod))] {
            sockets::measure(Subject::plain(name), &place, samples)?;
        }
        step.done("measured");
        Ok(())
    }
}

/// Splices the connections between sockets that processes of the cgroup open from now on.
fn splice(cgroup: &Cgroup) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load_file(bench_object())?;
    let sockets = SockHash::<MapData, [u32; 4]>::try_from(ebpf.take_map("SPLICED").context("no SPLICED")?)?;
    let message: &mut SkMsg = ebpf.program_mut("splice_message").context("no splice_message")?.try_into()?;
    message.load()?;
    message.attach(sockets.fd())?;
    let established = ebpf.program_mut("splice_established").context("no splice_established")?;
    let established: &mut SockOps = established.try_into()?;
    established.load()?;
    established.attach(std::fs::File::open(cgroup.path())?, CgroupAttachMode::Single)?;
    Ok(ebpf)
}
