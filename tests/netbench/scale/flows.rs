//! Flows: those that fill the table, and those that packets open.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use rustix::time::{ClockId, clock_gettime};
use skep_abi::{Be16, Flow, FlowKey, Proto, SocketAddr as End, TCP_ACK, TCP_SYN};
use skep_tests::netns::enter;

use super::view::View;

const PORT: u16 = 9_999;
/// Between two datagrams.
const INTERVAL: Duration = Duration::from_micros(500);
/// How long datagrams under way are waited for.
const SETTLE: Duration = Duration::from_millis(300);

/// Puts established flows of a pod of this node to those of others into the table; one in five is UDP.
pub(super) fn fill(maps: &Path, view: &View, from: Ipv4Addr, count: u32) -> Result<()> {
    let table = MapData::from_pin(maps.join("CONNTRACK"))?;
    let mut table: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(Map::from_map_data(table)?)?;
    let now = clock_gettime(ClockId::Monotonic);
    let last_seen = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let signals = TCP_SYN | TCP_ACK;
    for number in 0..count {
        let proto = if number % 5 == 0 { Proto::UDP } else { Proto::TCP };
        let pod = number % view.size.pods;
        let port = 1_024 + (number / view.size.pods) as u16;
        let source = End::new(std::net::IpAddr::V4(from).into(), Be16::new(port));
        let destination = End::new(std::net::IpAddr::V4(view.pod_addr(pod)).into(), Be16::new(8_080));
        let mut key = FlowKey::default();
        let from_high = key.locate(&source, &destination, proto);
        let flags = Flow::KEPT | Flow::REMOTE | if from_high { Flow::FROM_HIGH } else { 0 };
        let flow =
            Flow { last_seen, flags, tcp_flags_low: signals, tcp_flags_high: signals, ..Flow::default() };
        table.insert(key, flow, 0)?;
    }
    Ok(())
}

/// Datagrams from one pod to another at a steady rate.
pub(super) struct Datagrams {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
}

impl Datagrams {
    /// `churn`: each has a source port of its own, and so opens a flow.
    pub(super) fn start(from: PathBuf, to: PathBuf, addr: Ipv4Addr, churn: bool) -> Datagrams {
        let stop = Arc::new(AtomicBool::new(false));
        let (sending, receiving) = (stop.clone(), stop.clone());
        let receiver = std::thread::spawn(move || {
            enter(&to)?;
            receive(&receiving)
        });
        let sender = std::thread::spawn(move || {
            enter(&from)?;
            send((addr, PORT).into(), churn, &sending)
        });
        Datagrams { stop, sender, receiver }
    }

    /// How many were sent, and how many arrived.
    pub(super) fn stop(self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().ok().context("the sender panicked")??;
        let received = self.receiver.join().ok().context("the receiver panicked")??;
        Ok((sent, received))
    }
}

fn send(to: SocketAddr, churn: bool, stop: &AtomicBool) -> Result<u64> {
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let (mut socket, mut sent) = (open()?, 0);
    // The receiver is there first.
    std::thread::sleep(SETTLE);
    while !stop.load(Ordering::Relaxed) {
        if churn {
            socket = open()?;
        }
        socket.send_to(&[0], to)?;
        sent += 1;
        std::thread::sleep(INTERVAL);
    }
    Ok(sent)
}

fn receive(stop: &AtomicBool) -> Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    socket.set_read_timeout(Some(SETTLE / 10))?;
    let (mut received, mut last) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) || last.elapsed() < SETTLE {
        match socket.recv(&mut [0; 8]) {
            Ok(_) => (received, last) = (received + 1, Instant::now()),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(received)
}
