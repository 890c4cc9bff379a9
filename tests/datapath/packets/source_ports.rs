//! Source ports of masquerading: which one a flow gets, and who gives one up when none is free.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{ACK, Body, FIN, Frame, SYN};
use super::lab::{Verdict, World, at};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, Table, data};

/// Those that the lab's node has: it keeps the first 4,096 of the kernel's ephemeral ports.
const PORTS: std::ops::RangeInclusive<u16> = 36_864..=65_535;

fn datagram(from: SocketAddr, to: SocketAddr) -> Frame {
    Frame::new(from, to, data(Proto::UDP))
}

/// The port under which the outside sees the flow; `None`: there was none.
fn leaves(table: &mut Table, packet: &Frame) -> Result<Option<u16>> {
    table.row(POD, packet, Verdict::Pass, packet)?;
    let (verdict, bytes) = table.run(TO_OUTSIDE, packet)?;
    if verdict == Verdict::Drop(DropReason::NoPort) {
        return Ok(None);
    }
    ensure!(verdict == Verdict::Pass, "{verdict:?}");
    Ok(Some(Frame::ends(&bytes)?.0.port()))
}

#[test]
fn a_flow_keeps_its_own_port_if_no_other_flow_has_it() -> Result<()> {
    let mut table = Table::new("pkq1")?;
    for world in World::ALL {
        let outside = at(world.client(), 443);
        for number in [*PORTS.start(), 50_000, *PORTS.end()] {
            ensure!(leaves(&mut table, &datagram(at(world.a(), number), outside))? == Some(number));
            let other = leaves(&mut table, &datagram(at(world.b(), number), outside))?;
            ensure!(other.is_some_and(|other| other != number && PORTS.contains(&other)), "{other:?}");
            // Towards another end it is free.
            let elsewhere = at(world.client(), 444);
            ensure!(leaves(&mut table, &datagram(at(world.b(), number), elsewhere))? == Some(number));
        }
        // The node's own sockets may have these.
        for number in [1_024, 30_000, *PORTS.start() - 1] {
            let port = leaves(&mut table, &datagram(at(world.a(), number), outside))?;
            ensure!(port.is_some_and(|port| PORTS.contains(&port)), "{number}: {port:?}");
        }
    }
    Ok(())
}

#[test]
fn the_last_free_ports_are_found_and_then_those_of_the_longest_silence_are_taken() -> Result<()> {
    let mut table = Table::new("pkq2")?;
    // So many that no flow makes room for a newer one.
    table.lab.set_conntrack_max(1 << 20)?;
    let world = World::ALL[0];
    let outside = at(world.client(), 53);
    let free: BTreeSet<u16> = PORTS.step_by(100).collect();
    for number in PORTS.filter(|port| !free.contains(port)) {
        ensure!(leaves(&mut table, &datagram(at(world.a(), number), outside))? == Some(number));
    }
    // 99 % are taken, and nobody was silent for long.
    table.lab.renew()?;
    let mut found = BTreeSet::new();
    for number in (1_000..).take(free.len()) {
        let port = leaves(&mut table, &datagram(at(world.b(), number), outside))?;
        found.extend(port);
    }
    let taken = found.difference(&free).count();
    ensure!(found == free, "{} of {} were found, {taken} taken from others", found.len(), free.len());
    table.lab.renew()?;
    ensure!(leaves(&mut table, &datagram(at(world.b(), 900), outside))?.is_none(), "nothing is free");
    // Another end is no matter of that one.
    ensure!(leaves(&mut table, &datagram(at(world.b(), 901), at(world.client(), 54)))?.is_some());
    table.lab.age(31)?;
    let heir = datagram(at(world.b(), 902), outside);
    // The programs note for one tick, less than a second, that nothing is free.
    let deadline = Instant::now() + Duration::from_secs(10);
    let port = loop {
        let port = leaves(&mut table, &heir)?;
        ensure!(port.is_some() || Instant::now() < deadline, "silent flows keep their ports");
        if port.is_some() {
            break port;
        }
    };
    let answer = datagram(outside, at(world.node(), port.unwrap_or(0)));
    table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(at(world.b(), 902)))?;
    Ok(())
}

fn segment(flags: u8) -> Body {
    Body::Tcp { flags, sequence: 7, acknowledged: 0, window: 9, data: vec![] }
}

/// Connections to one end, opened and closed one after the other: ten times as many as there are ports.
const CONNECTIONS: u32 = 300_000;

#[test]
fn connections_that_are_closed_leave_their_ports_to_new_ones_at_once() -> Result<()> {
    let mut table = Table::new("pkq3")?;
    let world = World::ALL[0];
    let outside = at(world.client(), 443);
    let start = Instant::now();
    let refused = table.lab.session(|run| {
        let mut refused = 0;
        for i in 0..CONNECTIONS {
            // As a pod's kernel numbers its own.
            let ip = if i % 2 == 0 { world.a() } else { world.b() };
            let client = at(ip, 32_768 + (i / 2 % 28_232) as u16);
            let mut own = None;
            for flags in [SYN, ACK, FIN | ACK] {
                let packet = Frame::new(client, outside, segment(flags)).bytes();
                run(POD, &packet)?;
                let (action, out) = run(TO_OUTSIDE, &packet)?;
                if action != 0 {
                    refused += 1;
                    break;
                }
                let from = Frame::ends(&out)?.0;
                ensure!(from.ip() == world.node() && *own.get_or_insert(from) == from, "{from}, not {own:?}");
                let answer = Frame::new(outside, from, segment(flags | ACK)).bytes();
                let (action, out) = run(FROM_OUTSIDE, &answer)?;
                ensure!(action == 7 && Frame::ends(&out)?.1 == client, "an answer went astray: {action}");
            }
        }
        Ok(refused)
    })?;
    let rate = f64::from(CONNECTIONS) / start.elapsed().as_secs_f64();
    println!("{CONNECTIONS} connections to one end, {rate:.0} a second, {refused} refused");
    ensure!(refused == 0, "{refused} of {CONNECTIONS} refused");
    Ok(())
}
