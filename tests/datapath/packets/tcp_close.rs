//! The end of a connection: which entries go with it, and what a SYN finds where others stay.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skep_abi::DropReason;

use super::frame::{ACK, Body, FIN, Frame, SYN};
use super::lab::{Verdict, World, at};
use super::table::{POD, Table};

const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;

/// A packet: whether from the client; flags, number, acknowledged number, bytes of data.
type Step = (bool, u8, u32, u32, usize);

const OPEN: [Step; 3] =
    [(true, SYN, 1000, 0, 0), (false, SYN | ACK, 5000, 1001, 0), (true, ACK, 1001, 5001, 0)];

fn frame((client, server): (SocketAddr, SocketAddr), step: Step) -> Frame {
    let (from_client, flags, sequence, acknowledged, length) = step;
    let (from, to) = if from_client { (client, server) } else { (server, client) };
    Frame::new(from, to, Body::Tcp { flags, sequence, acknowledged, window: 9, data: vec![7; length] })
}

/// The entries that are left when all packets have passed, one being there after the first.
fn left(table: &mut Table, ends: (SocketAddr, SocketAddr), steps: &[Step]) -> Result<usize> {
    let before = table.lab.flows()?;
    for step in OPEN.iter().chain(steps) {
        let packet = frame(ends, *step);
        table.row(POD, &packet, Verdict::Redirect, &packet)?;
        if *step == OPEN[2] {
            ensure!(table.lab.flows()? == before + 1, "no entry for {ends:?}");
        }
    }
    Ok(table.lab.flows()? - before)
}

#[test]
fn the_last_acknowledgement_between_local_pods_takes_the_entry_along() -> Result<()> {
    let mut table = Table::new("pktf")?;
    let fin = FIN | ACK;
    let orderly: [&[Step]; 4] = [
        &[(true, fin, 1001, 5001, 0), (false, fin, 5001, 1002, 0), (true, ACK, 1002, 5002, 0)],
        &[(false, fin, 5001, 1001, 0), (true, fin, 1001, 5002, 0), (false, ACK, 5002, 1002, 0)],
        // Data in a FIN, and after the other end's.
        &[
            (true, fin, 1001, 5001, 33),
            (false, ACK, 5001, 1035, 0),
            (false, ACK, 5001, 1035, 100),
            (false, fin, 5101, 1035, 7),
            (true, ACK, 1035, 5109, 0),
        ],
        // An acknowledgement of data that the second FIN has overtaken is not the last one.
        &[
            (true, fin, 1001, 5001, 0),
            (false, ACK, 5001, 1002, 50),
            (false, fin, 5051, 1002, 0),
            (true, ACK, 1002, 5051, 0),
            (true, ACK, 1002, 5052, 0),
        ],
    ];
    for world in World::ALL {
        let ends = (at(world.a(), CLIENT), at(world.b(), SERVER));
        for (steps, ends) in orderly.iter().flat_map(|steps| [(steps, ends), (steps, (ends.1, ends.0))]) {
            ensure!(left(&mut table, ends, &steps[..steps.len() - 1])? == 1, "{steps:?} but the last");
            let last = frame(ends, steps[steps.len() - 1]);
            table.row(POD, &last, Verdict::Redirect, &last)?;
            ensure!(table.lab.flows()? == 0, "{world:?} {steps:?} left an entry");
        }
    }
    Ok(())
}

#[test]
fn what_may_still_be_asked_for_stays() -> Result<()> {
    let mut table = Table::new("pktg")?;
    let fin = FIN | ACK;
    for world in World::ALL {
        let (a, b) = (at(world.a(), CLIENT), at(world.b(), SERVER));
        // FINs that cross.
        let crossing = [(true, fin, 1001, 5001, 0), (false, fin, 5001, 1001, 0), (true, ACK, 1002, 5002, 0)];
        ensure!(left(&mut table, (a, b), &crossing)? == 1, "{world:?}");
        // The uplink may lose the last acknowledgement.
        let remote = at(world.remote(), SERVER);
        let before = table.lab.flows()?;
        for step in [OPEN[0], OPEN[2], (true, fin, 1001, 5001, 0), (true, ACK, 1002, 5002, 0)] {
            table.run(POD, &frame((a, remote), step))?;
        }
        ensure!(table.lab.flows()? == before + 1, "{world:?}");
    }
    Ok(())
}

#[test]
fn a_connection_the_other_way_is_not_under_the_verdict_of_what_stood_there() -> Result<()> {
    let mut table = Table::new("pkto")?;
    for world in World::ALL {
        let ends = (at(world.a(), CLIENT), at(world.shy(), SERVER));
        table.dropped(POD, &frame(ends, OPEN[0]), DropReason::PolicyIngress)?;
        let stray = frame(ends, (false, ACK, 5001, 1001, 9));
        table.row(POD, &stray, Verdict::Redirect, &stray)?;
        table.dropped(POD, &frame(ends, OPEN[0]), DropReason::PolicyIngress)?;
    }
    Ok(())
}
