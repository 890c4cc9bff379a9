//! Nanoseconds that `xdp_node` spends on a packet that it forwards, over those of an empty program.
//!
//! What a test run leaves of a packet is what the next one begins with, and each hop takes one from its time to live. So
//! a program of the benchmark's puts the headers back and goes on to the one that is measured, empty or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use aya::maps::ProgramArray;
use aya::programs::{TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use etherparse::PacketBuilder;
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_datapath::Datapath;
use skep_netplan::Write;
use xtask::build_ebpf::bench_object;
use xtask::progress::Step;

use crate::cluster::{NODE_ADDR, NODE_PORT};
use crate::placement;
use crate::samples::Samples;
use crate::skep::Machine;
use crate::source::{hardware, link, program};
use crate::world::{Subject, UPLINK};

/// `again_xdp` puts back so much.
const RESTORED: usize = 80;
const XDP_TX: u32 = 3;
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const CLIENT_PORT: u16 = 40_000;
const TARGET: u16 = 5_353;

/// Who talks, in one family.
struct Ends {
    subject: &'static str,
    client: IpAddr,
    node: IpAddr,
    backend: IpAddr,
    set: u32,
}

fn ends() -> [Ends; 2] {
    let v6 = |net, host| IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, net, 0, 0, 0, host));
    [
        Ends {
            subject: "xdp_node",
            client: Ipv4Addr::new(192, 0, 2, 1).into(),
            node: NODE_ADDR.into(),
            backend: Ipv4Addr::new(10, 128, 0, 1).into(),
            set: 1,
        },
        Ends { subject: "xdp_node_v6", client: v6(2, 1), node: v6(0, 1), backend: v6(1, 1), set: 2 },
    ]
}

pub(crate) fn measure(rounds: u32, repeat: u32, samples: &mut Samples) -> Result<()> {
    let step = Step::new("test runs of XDP");
    let ends = ends();
    let mut machine = Machine::with_addrs("nb-xdp", &ends.each_ref().map(|ends| ends.node))?;
    machine.node.ip(&["addr", "add", &format!("{}/64", ends[1].node), "dev", UPLINK, "nodad"])?;
    let mac = ROUTER_MAC.map(|byte| format!("{byte:02x}")).join(":");
    for (router, network) in [("10.78.0.9", "0.0.0.0/1"), ("fd78::9", "fd00::/8")] {
        machine.node.ip(&["neigh", "add", router, "lladdr", &mac, "dev", UPLINK])?;
        machine.node.ip(&["route", "add", network, "via", router])?;
    }
    machine.node.ip(&["route", "add", "192.0.2.0/24", "via", "10.78.0.9"])?;
    let uplink = link(&machine.node, UPLINK)?;
    let index = uplink["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
    let (own, index) = (hardware(&uplink)?, index.context("no ifindex")?);
    machine.work(|datapath| {
        placement::pin()?;
        placement::come_first()?;
        for ends in &ends {
            datapath.apply(&ends.service())?;
            let (there, back) = open(datapath, ends, own)?;
            for packet in [there, back] {
                let mut again = Again::new(&packet, index)?;
                for _ in 0..rounds {
                    let nanos = again.over_empty(datapath, repeat)?;
                    samples.put("prog_ns", "ns", Subject::plain(ends.subject), nanos);
                }
            }
        }
        Ok(())
    })?;
    step.done("measured");
    Ok(())
}

/// Opens a flow by its first packet; a later one of it, and an answer, as the node gets them.
fn open(datapath: &mut Datapath, ends: &Ends, own: [u8; 6]) -> Result<(Vec<u8>, Vec<u8>)> {
    let asked = [(ends.client, CLIENT_PORT), (ends.node, NODE_PORT)];
    let (verdict, sent, _) = datapath.test_run("xdp_node", &packet(own, asked, true)?, 1)?;
    ensure!(verdict == XDP_TX, "verdict {verdict} for the first packet of {}", ends.subject);
    // The source port, which is the node's choice, is where the IP header ends.
    let at = if ends.node.is_ipv4() { 34 } else { 54 };
    let port = sent.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let answered = [(ends.backend, TARGET), (ends.node, port.context("no source port")?)];
    Ok((packet(own, asked, false)?, packet(own, answered, false)?))
}

fn packet(
    to: [u8; 6],
    [(from, sport), (addressed, dport)]: [(IpAddr, u16); 2],
    first: bool,
) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, to);
    let builder = match (from, addressed) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("two families in one packet"),
    };
    let builder = builder.tcp(sport, dport, 1, 1_000);
    let builder = if first { builder.syn() } else { builder.ack(1) };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[0; 26])?;
    Ok(packet)
}

impl Ends {
    fn service(&self) -> Vec<Write> {
        let backend = Backend { addr: Addr::from(self.backend), port: Be16::new(TARGET), reserved: 0 };
        let (addr, port) = (Addr::from(self.node), Be16::new(NODE_PORT));
        let key = ServiceKey { addr, port, proto: Proto::TCP, scope: Scope::EXTERNAL };
        let value = ServiceValue { set: self.set, count: 1, service: self.set, ..ServiceValue::default() };
        Write::backend_set(self.set, &[backend]).chain([Write::PutService(key, value)]).collect()
    }
}

/// The same packet, come from the uplink, as often as is wanted.
struct Again {
    ebpf: Ebpf,
    measured: ProgramArray<aya::maps::MapData>,
    packet: Vec<u8>,
    context: Vec<u8>,
}

impl Again {
    fn new(packet: &[u8], uplink: u32) -> Result<Again> {
        let mut headers = [0; RESTORED];
        headers.copy_from_slice(packet.get(..RESTORED).context("a packet that is too short")?);
        let mut ebpf =
            EbpfLoader::new().override_global("HEADERS_AGAIN", &headers, true).load_file(bench_object())?;
        program(&mut ebpf, "again_xdp")?.load()?;
        program(&mut ebpf, "empty_xdp")?.load()?;
        let measured = ProgramArray::try_from(ebpf.take_map("MEASURED").context("no MEASURED")?)?;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, packet.len() as u32, 0, uplink, 0, 0].map(u32::to_ne_bytes).concat();
        Ok(Again { ebpf, measured, packet: packet.to_vec(), context })
    }

    fn over_empty(&mut self, datapath: &Datapath, repeat: u32) -> Result<f64> {
        self.measured.set(0, program(&mut self.ebpf, "empty_xdp")?.fd()?, 0)?;
        let (_, least) = self.run(repeat)?;
        self.measured.set(0, datapath.program_fd("xdp_node")?, 0)?;
        // A flow that was silent goes up once.
        self.run(1)?;
        let (verdict, nanos) = self.run(repeat)?;
        ensure!(verdict == XDP_TX, "verdict {verdict}");
        Ok(nanos - least)
    }

    /// Verdict and nanoseconds.
    fn run(&mut self, repeat: u32) -> Result<(u32, f64)> {
        let options = TestRunOptions {
            data_in: Some(&self.packet),
            ctx_in: Some(&self.context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = program(&mut self.ebpf, "again_xdp")?.test_run(options)?;
        Ok((result.return_value, result.duration.as_nanos() as f64))
    }
}
