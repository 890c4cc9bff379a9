//! A source of UDP packets, and how many of them one core of a node passes on.
//!
//! What the node does with them it does in the threads that its uplink is polled by, on a core that is theirs alone.
//! Source and sink share another one, the sink first. Frames are made by BPF_PROG_TEST_RUN on live frames and redirected
//! to the outside's end of the uplink, so they reach the node as a driver's would, before an skb exists. What the node
//! forwards to the other node comes back to the same end, has a hardware address that no interface has, and is counted and dropped
//! there: by the stack what was an skb, by an XDP program what was none. Each is the cheaper way to take it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use etherparse::PacketBuilder;
use rustix::process::Pid;
use serde_json::Value;
use skep_tests::netns::NetNs;
use xtask::build_ebpf::bench_object;

use crate::cluster::{NODE_ADDR, NODE_PORT, OUTSIDE_ADDR};
use crate::placement::{self, Core};
use crate::world::{UPLINK, Uplink};

const HEADERS: usize = 42;
/// The least of an Ethernet frame, without its checksum.
const FRAME: usize = 60;
/// Frames of one batch, and of one system call, which ends with a long wait for its pages.
const BATCH: u32 = 64;
const CALL: u32 = 1 << 20;

pub(crate) struct Source<'a> {
    uplink: &'a Uplink,
    /// The source's program, and the sink's.
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl<'a> Source<'a> {
    /// A node that forwards by XDP asks for a `sink`: a veth takes such frames only if it has XDP itself.
    pub(crate) fn new(node: &NetNs, uplink: &'a Uplink, sink: bool) -> Result<Source<'a>> {
        // A veth takes frames only if its other end polls, which GRO makes it do.
        for (netns, device) in [(node, UPLINK), (&uplink.outside, uplink.device)] {
            let output = netns.command("ethtool").args(["-K", device, "gro", "on"]).output()?;
            ensure!(
                output.status.success(),
                "ethtool -K {device}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let (from, to) = (link(&uplink.outside, uplink.device)?, link(node, UPLINK)?);
        let index = from["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        let index = index.context("no ifindex")?;
        let frame = frame(hardware(&from)?, hardware(&to)?)?;
        let mut template = [0; HEADERS];
        template.copy_from_slice(&frame[..HEADERS]);
        let ebpf = uplink.outside.run(|| -> Result<Ebpf> {
            let mut loader = EbpfLoader::new();
            loader.override_global("TEMPLATE", &template, true).override_global("DEVICE", &index, true);
            let mut ebpf = loader.load_file(bench_object())?;
            program(&mut ebpf, "send_xdp")?.load()?;
            if sink {
                let sink = program(&mut ebpf, "sink_xdp")?;
                sink.load()?;
                sink.attach(uplink.device, XdpMode::Driver)?;
            }
            Ok(ebpf)
        })??;
        poll_on(node, UPLINK, Core::Last)?;
        poll_on(&uplink.outside, uplink.device, Core::First)?;
        Ok(Source { uplink, ebpf, frame })
    }

    /// Packets a second that come back.
    pub(crate) fn run(&mut self, window: Duration) -> Result<f64> {
        let Source { uplink, ebpf, frame } = self;
        let before = received(uplink)?;
        let seconds = uplink.outside.run(|| -> Result<f64> {
            placement::pin_to(Core::First)?;
            let program = program(ebpf, "send_xdp")?;
            let start = Instant::now();
            while start.elapsed() < window {
                let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                let data_in = Some(&frame[..]);
                program.test_run(TestRunOptions { data_in, repeat: CALL, attrs, ..TestRunOptions::new() })?;
            }
            Ok(start.elapsed().as_secs_f64())
        })??;
        Ok((received(uplink)? - before) as f64 / seconds)
    }
}

/// Has a device polled by threads of its own, on a core.
fn poll_on(netns: &NetNs, device: &str, core: Core) -> Result<()> {
    let before = napi_threads()?;
    // `ip` enters with a /sys that is the namespace's.
    let write = format!("echo 1 > /sys/class/net/{device}/threaded");
    let output = Command::new("ip").args(["netns", "exec", netns.name(), "sh", "-c", &write]).output()?;
    ensure!(output.status.success(), "{write}: {}", String::from_utf8_lossy(&output.stderr));
    let own: Vec<Pid> = napi_threads()?.into_iter().filter(|thread| !before.contains(thread)).collect();
    ensure!(!own.is_empty(), "{device} has no threads of its own");
    own.into_iter().try_for_each(|thread| placement::place_thread(thread, core))
}

fn napi_threads() -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        let folder = process?.path();
        let id = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // One that ended meanwhile has no name any more.
        let is_napi = || std::fs::read(folder.join("comm")).is_ok_and(|name| name.starts_with(b"napi/"));
        threads.extend(id.and_then(Pid::from_raw).filter(|_| is_napi()));
    }
    Ok(threads)
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no {name}"))?.try_into()?)
}

/// To the node port, from the outside; the program makes flows of it.
fn frame(from: [u8; 6], to: [u8; 6]) -> Result<Vec<u8>> {
    let ends = [OUTSIDE_ADDR, NODE_ADDR].map(|addr: Ipv4Addr| addr.octets());
    let builder = PacketBuilder::ethernet2(from, to).ipv4(ends[0], ends[1], 64).udp(20_000, NODE_PORT);
    let payload = [0; FRAME - HEADERS];
    let mut frame = Vec::with_capacity(FRAME);
    builder.write(&mut frame, &payload)?;
    // No checksum (RFC 768): the source port varies.
    frame[HEADERS - 2..HEADERS].fill(0);
    Ok(frame)
}

pub(crate) fn link(netns: &NetNs, device: &str) -> Result<Value> {
    let mut command = Command::new("ip");
    let output = command.args(["-n", netns.name(), "-s", "-j", "link", "show", "dev", device]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut links: Value = serde_json::from_slice(&output.stdout)?;
    Ok(links[0].take())
}

pub(crate) fn hardware(link: &Value) -> Result<[u8; 6]> {
    let text = link["address"].as_str().context("no hardware address")?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("a hardware address has six bytes")
}

fn received(uplink: &Uplink) -> Result<u64> {
    let link = link(&uplink.outside, uplink.device)?;
    link["stats64"]["rx"]["packets"].as_u64().context("no count of packets")
}
