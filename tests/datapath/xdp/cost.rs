//! Nanoseconds a packet beside one that the program does not look at. Prints; the bars are for regressions by a multiple.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use skep_abi::{Addr, Be16, Flow, FlowKey, Proto};
use skep_tests::bpffs;

use super::packet::{Family, Transport, Wire};
use super::uplink::{MANY_BACKENDS, NODE_MAC, PASS, TX, Uplink};

const NAME: &str = "sxcost";
/// A run is over what the run before left, and each takes one from the time to live: so many in a row. Before and after
/// a row the kernel waits for a grace period.
const ROW: u32 = 250;
const ROWS: u32 = 8;
const ROUNDS: usize = 5;
const FIRST_PACKETS: u16 = 200;

fn ends(family: Family) -> [SocketAddr; 4] {
    std::array::from_fn(|n| {
        let n = n as u16;
        let ip: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(10, 77, 8, n as u8).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 8, 0, 0, 0, 0, 0, n).into(),
        };
        SocketAddr::new(ip, 1_000 + n)
    })
}

fn end(addr: SocketAddr) -> skep_abi::SocketAddr {
    skep_abi::SocketAddr::new(Addr::from(addr.ip()), Be16::new(addr.port()))
}

/// What the programs stamp entries with; a flow that was silent for long is not XDP's.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Two entries that rewrite a packet of one into one of the other: what a run leaves is a packet of a known flow.
fn endless(family: Family, transport: Transport) -> Result<Vec<u8>> {
    let path = bpffs::folder(NAME)?.join(format!("v{}/maps/CONNTRACK", skep_abi::ABI_VERSION));
    let map = Map::from_map_data(MapData::from_pin(path)?)?;
    let mut flows: HashMap<_, FlowKey, Flow> = HashMap::try_from(map)?;
    let proto = if transport == Transport::Tcp { Proto::TCP } else { Proto::UDP };
    let [a, b, c, d] = ends(family);
    for ((low, high), (source, destination)) in [((a, b), (c, d)), ((c, d), (a, b))] {
        let (low, high) = (end(low), end(high));
        let key = FlowKey {
            low: low.addr,
            high: high.addr,
            low_port: low.port,
            high_port: high.port,
            proto,
            reserved: [0; 3],
        };
        let flags = Flow::TRANSIT | Flow::SOURCE | Flow::DESTINATION;
        let last_seen = monotonic();
        let flow =
            Flow { last_seen, flags, source: end(source), destination: end(destination), ..Flow::default() };
        flows.insert(key, flow, 0)?;
    }
    let mut wire = Wire::new(family, transport, 0);
    (wire.source, wire.destination, wire.ttl, wire.syn) = (a, b, u8::MAX, false);
    wire.bytes()
}

fn measure(uplink: &mut Uplink, packet: &[u8], verdict: u32) -> Result<f64> {
    let mut total = 0;
    for _ in 0..ROWS {
        let (got, out, ns) = uplink.repeat(packet, ROW)?;
        ensure!(got == verdict, "verdict {got}");
        ensure!(got == PASS || Wire::read(&out)?.ttl == u8::MAX - ROW as u8, "a run in the row passed");
        total += ns;
    }
    Ok(total as f64 / f64::from(ROWS))
}

fn first_packets(uplink: &mut Uplink, family: Family, round: usize) -> Result<f64> {
    let (mut sent, mut total) = (0, 0);
    for n in 0..FIRST_PACKETS {
        let mut wire = Wire::new(family, Transport::Udp, 1_024 + n);
        let last = round as u8 + 40;
        wire.destination.set_port(MANY_BACKENDS);
        wire.source.set_ip(match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        });
        let (verdict, _, ns) = uplink.repeat(&wire.bytes()?, 1)?;
        if verdict == TX {
            sent += 1;
            total += ns;
        }
    }
    // Where the ports that XDP tries are taken, TC finds one.
    ensure!(sent >= FIRST_PACKETS / 10 * 9, "only {sent} of {FIRST_PACKETS} first packets were sent on");
    Ok(total as f64 / f64::from(sent))
}

#[test]
fn a_known_flow_is_forwarded_in_little_more_than_a_lookup() -> Result<()> {
    let mut uplink = Uplink::new(NAME)?;
    // The next hop's MAC is the node's own, so that the frame a run sends is one for the node again.
    let mac = NODE_MAC.map(|byte| format!("{byte:02x}")).join(":");
    for (via, prefix) in [("10.78.0.88", "10.77.8.0/24"), ("fd78::88", "fd77:8::/64")] {
        uplink.netns.ip(&["neigh", "replace", via, "lladdr", &mac, "dev", "up0", "nud", "permanent"])?;
        uplink.netns.ip(&["route", "add", prefix, "via", via])?;
    }
    let mut other = vec![0xff; 64];
    other[12..14].copy_from_slice(&[0x08, 0x06]);
    for family in Family::ALL {
        for transport in Transport::ALL {
            let packet = endless(family, transport)?;
            let mut costs = Vec::new();
            for _ in 0..ROUNDS {
                let empty = measure(&mut uplink, &other, PASS)?;
                costs.push((measure(&mut uplink, &packet, TX)? - empty, empty));
            }
            costs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (cost, empty) = *costs.get(ROUNDS / 2).context("no rounds")?;
            let least = costs.first().map_or(0.0, |cost| cost.0);
            println!(
                "{family:?} {transport:?}: {cost:.0} ns (least {least:.0}) over {empty:.0} ns of a packet that is not IP"
            );
        }
        let mut firsts =
            (0..ROUNDS).map(|n| first_packets(&mut uplink, family, n)).collect::<Result<Vec<_>>>()?;
        firsts.sort_by(f64::total_cmp);
        println!(
            "{family:?}: {:.0} ns for the first packet of a flow, with the timer's own",
            firsts[ROUNDS / 2]
        );
    }
    for verified in uplink.datapath.verified()? {
        println!("{verified}");
    }
    Ok(())
}
