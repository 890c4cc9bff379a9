//! One run: worlds are made, measured and taken down, and the report is written.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use xtask::bench::report::Report;
use xtask::progress::Step;

use crate::joined::Joined;
use crate::requests::{self, Effort};
use crate::samples::Samples;
use crate::skep::Skep;
use crate::source::Source;
use crate::spliced::Spliced;
use crate::tcp_route::TcpRoute;
use crate::world::{Loopback, Routed, Subject, Veth, Way};
use crate::{ablation, agent, control, forward, new_flow, policy, programs, targets, tcp_route};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only see that everything can be measured: few services, one round, short windows
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Requests only of these subjects, such as `veth` or `skep`; may be repeated
    #[arg(long)]
    subject: Vec<String>,
    /// Programs of this object beside those that are built in, for the ablation; may be repeated
    #[arg(long)]
    object: Vec<PathBuf>,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Where the report goes
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Requests,
    NodePort,
    Programs,
    Policy,
    Control,
    Agent,
    /// Only if it is asked for
    Ablation,
}

/// How much is measured.
struct Scale {
    effort: Effort,
    /// Services of the peers, and of Skep.
    peers: Vec<u32>,
    skep: Vec<u32>,
    /// At which numbers all services are programmed.
    all: Vec<u32>,
    /// Services behind throughput, node ports and the agent.
    usual: u32,
    /// Networks of one policy.
    networks: u32,
    packets: Duration,
    repeat: u32,
    changes: u32,
}

impl Scale {
    fn new(quick: bool, rounds: Option<u32>) -> Scale {
        let millis = Duration::from_millis;
        let rounds = rounds.unwrap_or(if quick { 1 } else { 5 });
        let (window, packets) = if quick { (millis(40), millis(100)) } else { (millis(500), millis(1_000)) };
        let effort = Effort { rounds, window, iperf_seconds: 1 };
        match quick {
            true => Scale {
                effort,
                peers: vec![20],
                skep: vec![20],
                all: vec![20],
                usual: 20,
                networks: 100,
                packets,
                repeat: 1_000,
                changes: 5,
            },
            false => Scale {
                effort,
                peers: vec![1, 1_000, 10_000],
                skep: vec![1, 1_000, 10_000, 100_000],
                all: vec![10_000, 100_000],
                usual: 10_000,
                networks: 8_000,
                packets,
                repeat: 1_000_000,
                changes: 500,
            },
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scale = Scale::new(arguments.quick, arguments.rounds);
    let is_wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut samples = Samples::default();
    if is_wanted(Part::Requests) || is_wanted(Part::NodePort) {
        let worlds = Worlds::new(&scale)?;
        if is_wanted(Part::Requests) {
            // A second for each is too long for a quick run.
            let throughput = |subject: &Subject| match arguments.quick {
                true => subject.policy == Some(true),
                false => subject.services.is_none_or(|services| services == scale.usual),
            };
            let throughput =
                |subject: &Subject| throughput(subject) && !tcp_route::SUBJECTS.contains(&subject.name);
            let mut ways = worlds.ways();
            ways.retain(|way| is_asked(&arguments.subject, way.subject.name));
            requests::measure(&ways, throughput, scale.effort, &mut samples)?;
        }
        if is_wanted(Part::Requests) && is_asked(&arguments.subject, "spliced") {
            worlds.spliced.behaviour(&mut samples)?;
        }
        if is_wanted(Part::NodePort) {
            worlds.node_port(&scale, &mut samples)?;
        }
        for (services, skep) in scale.skep.iter().zip(&worlds.skep) {
            control::map_memory(&skep.machine, *services, &mut samples)?;
        }
    }
    if is_wanted(Part::Programs) {
        programs::measure(scale.effort.rounds, scale.repeat, &mut samples)?;
        forward::measure(scale.effort.rounds, scale.repeat, &mut samples)?;
        new_flow::measure(scale.effort.rounds, &mut samples)?;
    }
    if is_wanted(Part::Policy) {
        policy::measure(scale.networks, scale.effort.rounds, &mut samples)?;
    }
    if is_wanted(Part::Control) {
        control::program_all(&scale.all, scale.effort.rounds, &mut samples)?;
    }
    if is_wanted(Part::Agent) {
        agent::measure(scale.usual, scale.changes, scale.effort.rounds, &mut samples)?;
    }
    if arguments.only.contains(&Part::Ablation) {
        ablation::measure(
            scale.effort,
            |name| is_asked(&arguments.subject, name),
            &arguments.object,
            &mut samples,
        )?;
    }
    let rows = targets::rows(&samples);
    Report { name: "net", headline: targets::headline(&rows), rows: &rows }.publish(&arguments.folder)
}

/// Every subject's namespaces, side by side.
struct Worlds {
    loopback: Loopback,
    spliced: Spliced,
    veth: Veth,
    joined: Joined,
    routed: Routed,
    nftables: Vec<(u32, Routed)>,
    iptables: Vec<(u32, Routed)>,
    skep: Vec<Skep>,
    skep_big_tcp: Skep,
    tcp_route: TcpRoute,
}

impl Worlds {
    fn new(scale: &Scale) -> Result<Worlds> {
        let step = Step::new("namespaces, rules, maps");
        let worlds = Worlds {
            loopback: Loopback::new()?,
            spliced: Spliced::new()?,
            veth: Veth::new()?,
            joined: Joined::new()?,
            routed: Routed::new("nb-r")?,
            nftables: peers(scale, "nb-n", &step, Routed::nftables)?,
            iptables: peers(scale, "nb-i", &step, Routed::iptables)?,
            skep: scale
                .skep
                .iter()
                .map(|services| {
                    step.say(format!("skep, {services} services"));
                    Skep::new(&format!("nb-s{services}"), *services)
                })
                .collect::<Result<_>>()?,
            skep_big_tcp: Skep::with_big_tcp("nb-sbig", scale.usual)?,
            tcp_route: TcpRoute::new(scale.usual)?,
        };
        step.done("made");
        Ok(worlds)
    }

    fn ways(&self) -> Vec<Way> {
        let mut ways = vec![
            self.loopback.way(),
            self.spliced.way(),
            self.veth.way(),
            self.joined.way(),
            self.routed.direct(),
        ];
        for (name, worlds) in [("nftables", &self.nftables), ("iptables", &self.iptables)] {
            ways.extend(worlds.iter().map(|(services, world)| world.service(name, *services)));
        }
        ways.extend(self.skep.iter().chain([&self.skep_big_tcp]).flat_map(Skep::ways));
        ways.extend(self.tcp_route.ways());
        ways
    }

    /// Packets that come to a node port and go on to another node.
    fn node_port(&self, scale: &Scale, samples: &mut Samples) -> Result<()> {
        let step = Step::new("node ports");
        let subject = |name| Subject { name, services: Some(scale.usual), policy: None };
        let mut sources = Vec::new();
        let usual = |worlds: &'_ [(u32, Routed)]| worlds.iter().position(|(n, _)| *n == scale.usual);
        for (name, worlds) in [("nftables", &self.nftables), ("iptables", &self.iptables)] {
            if let Some((_, world)) = usual(worlds).and_then(|at| worlds.get(at)) {
                sources.push((subject(name), Source::new(&world.node, &world.uplink, false)?));
            }
        }
        for (_, skep) in scale.skep.iter().zip(&self.skep).filter(|(n, _)| **n == scale.usual) {
            sources.push((subject("skep"), Source::new(&skep.machine.node, &skep.machine.uplink, true)?));
        }
        for _ in 0..scale.effort.rounds {
            for (subject, source) in &mut sources {
                samples.put("nodeport_pps", "1/s", *subject, source.run(scale.packets)?);
            }
        }
        step.done("measured");
        Ok(())
    }
}

fn is_asked(subjects: &[String], name: &str) -> bool {
    subjects.is_empty() || subjects.iter().any(|subject| subject == name)
}

fn peers(
    scale: &Scale,
    prefix: &str,
    step: &Step,
    make: impl Fn(&str, u32) -> Result<Routed>,
) -> Result<Vec<(u32, Routed)>> {
    let worlds = scale.peers.iter().map(|services| {
        step.say(format!("{prefix}, {services} services"));
        Ok((*services, make(&format!("{prefix}{services}"), *services)?))
    });
    worlds.collect()
}
