//! How long entries live: flows that are silent for minutes, in the lab by ageing their entries; who may end a flow.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{ACK, Body, FIN, Frame, RST, SYN};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, Table, data, opening};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

fn tcp(flags: u8) -> Body {
    Body::Tcp { flags, sequence: 7, acknowledged: 0, window: 9, data: vec![] }
}

/// Packets of a connection: whether from the client, and the flags.
const HANDSHAKE: [(bool, u8); 3] = [(true, SYN), (false, SYN | ACK), (true, ACK)];

/// Seconds of silence after which an established connection is over here. No entry is older than the machine, which may have been
/// started a quarter of an hour ago.
const ESTABLISHED: u32 = 600;
/// As many seconds less a few.
const LONG: u64 = 580;

fn table(name: &str) -> Result<Table> {
    let mut table = Table::new(name)?;
    table.lab.set_established_timeout(ESTABLISHED)?;
    Ok(table)
}

/// Opens a pod's connection to the outside. Returns the end that the outside sees.
fn masquerade(
    table: &mut Table,
    a: SocketAddr,
    outside: SocketAddr,
    steps: &[(bool, u8)],
) -> Result<SocketAddr> {
    let mut own = None;
    for (from_client, flags) in steps {
        if *from_client {
            let packet = Frame::new(a, outside, tcp(*flags));
            table.row(POD, &packet, Verdict::Pass, &packet)?;
            own = Some(Frame::ends(&table.run(TO_OUTSIDE, &packet)?.1)?.0);
        } else {
            let answer = Frame::new(outside, own.context("an answer first")?, tcp(*flags));
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(a))?;
        }
    }
    own.context("no packet of the client")
}

/// The silence of a connection is that of both its entries, of which one sees one direction only.
#[test]
fn a_connection_to_the_outside_lives_through_long_silence() -> Result<()> {
    let mut table = table("pkl1")?;
    for world in World::ALL {
        let (a, outside) = (at(world.a(), 40_000), at(world.client(), 443));
        let own = masquerade(&mut table, a, outside, &HANDSHAKE)?;
        for age in [130, 200, 400, LONG] {
            table.lab.age(age)?;
            ensure!(table.lab.tidy()? == 0, "{world:?}: an entry went after {age} s");
            let answer = Frame::new(outside, own, tcp(ACK));
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(a))?;
            table.lab.age(age)?;
            ensure!(table.lab.tidy()? == 0, "{world:?}: an entry went after {age} s");
            let question = Frame::new(a, outside, tcp(ACK));
            table.row(POD, &question, Verdict::Pass, &question)?;
            table.row(TO_OUTSIDE, &question, Verdict::Pass, &question.from(own))?;
        }
        table.lab.age(u64::from(ESTABLISHED) + 1)?;
        ensure!(table.lab.tidy()? == 2, "{world:?}: both entries go together");
    }
    Ok(())
}

/// Only the pod sends: the entry of the answers, which sees nothing, keeps its port.
#[test]
fn the_port_of_a_flow_whose_answers_are_silent_stays_its_own() -> Result<()> {
    let mut table = Table::new("pkl2")?;
    for world in World::ALL {
        let (a, outside) = (at(world.a(), 40_000), at(world.client(), 514));
        let packet = Frame::new(a, outside, data(Proto::UDP));
        table.row(POD, &packet, Verdict::Pass, &packet)?;
        let own = Frame::ends(&table.run(TO_OUTSIDE, &packet)?.1)?.0;
        for _ in 0..5 {
            table.lab.age(100)?;
            ensure!(table.lab.tidy()? == 0);
            table.row(TO_OUTSIDE, &packet, Verdict::Pass, &packet.from(own))?;
        }
        let answer = Frame::new(outside, own, data(Proto::UDP));
        table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(a))?;
        table.lab.age(181)?;
        ensure!(table.lab.tidy()? == 2);
    }
    Ok(())
}

#[test]
fn a_pod_that_reaches_itself_may_be_silent_for_long() -> Result<()> {
    let mut table = table("pkl3")?;
    for world in World::ALL {
        let (a, frontend) = (at(world.a(), 40_000), at(world.vip(), port::HAIRPIN));
        let (_, bytes) = table.run(POD, &Frame::new(a, frontend, tcp(SYN)))?;
        let (from, to) = Frame::ends(&bytes)?;
        for (client, flags) in [(false, SYN | ACK), (true, ACK)] {
            let packet =
                if client { Frame::new(a, frontend, tcp(flags)) } else { Frame::new(to, from, tcp(flags)) };
            table.run(POD, &packet)?;
        }
        table.lab.age(LONG)?;
        ensure!(table.lab.tidy()? == 0, "{world:?}");
        let question = Frame::new(a, frontend, tcp(ACK));
        table.row(POD, &question, Verdict::Redirect, &question.from(from).to(to))?;
        let answer = Frame::new(to, from, tcp(ACK));
        table.row(POD, &answer, Verdict::Redirect, &answer.from(frontend).to(a))?;
        table.lab.age(u64::from(ESTABLISHED) + 1)?;
        ensure!(table.lab.tidy()? == 2);
    }
    Ok(())
}

/// Entries that are left after a connection through `vip`, closed by both ends or never answered, and a time of silence.
fn left(table: &mut Table, world: World, steps: &[(bool, u8)], silence: u64) -> Result<usize> {
    let (a, frontend, backend) =
        (at(world.a(), 40_000), at(world.vip(), port::LOCAL), at(world.b(), port::BACKEND));
    for (from_client, flags) in steps {
        let (packet, out) = match from_client {
            true => (Frame::new(a, frontend, tcp(*flags)), Frame::new(a, backend, tcp(*flags))),
            false => (Frame::new(backend, a, tcp(*flags)), Frame::new(frontend, a, tcp(*flags))),
        };
        table.row(POD, &packet, Verdict::Redirect, &out)?;
    }
    table.lab.age(silence)?;
    table.lab.flows()
}

#[test]
fn an_alias_goes_with_its_connection() -> Result<()> {
    let mut table = table("pkl4")?;
    let closed = [&HANDSHAKE[..], &[(true, FIN | ACK), (false, FIN | ACK), (true, ACK)]].concat();
    for world in World::ALL {
        ensure!(left(&mut table, world, &HANDSHAKE, LONG)? == 2, "{world:?}: open");
        table.lab.age(u64::from(ESTABLISHED) + 1)?;
        ensure!(left(&mut table, world, &closed, 8)? == 2, "{world:?}: closed just now");
        ensure!(left(&mut table, world, &closed, 11)? == 0, "{world:?}: closed");
        ensure!(left(&mut table, world, &HANDSHAKE[..1], 119)? == 2, "{world:?}: never answered");
        ensure!(left(&mut table, world, &[], 2)? == 0, "{world:?}: never answered");
    }
    Ok(())
}

/// RFC 5961, 3.2: who accepts a RST sends nothing more.
#[test]
fn a_reset_that_nobody_accepted_ends_nothing() -> Result<()> {
    let mut table = table("pkl5")?;
    for world in World::ALL {
        let ends = [at(world.a(), 40_000), at(world.b(), 80)];
        for sender in [0, 1] {
            let packet = |from: usize, flags| Frame::new(ends[from], ends[1 - from], tcp(flags));
            for (from, flags) in [(0, SYN), (1, SYN | ACK), (0, ACK), (sender, RST), (1 - sender, ACK)] {
                table.row(POD, &packet(from, flags), Verdict::Redirect, &packet(from, flags))?;
            }
            table.lab.age(LONG)?;
            ensure!(table.lab.flows()? == 1, "{world:?}: the connection goes on");
            for (from, flags) in [(sender, RST | ACK), (1 - sender, RST)] {
                table.row(POD, &packet(from, flags), Verdict::Redirect, &packet(from, flags))?;
            }
            table.lab.age(11)?;
            ensure!(table.lab.flows()? == 0, "{world:?}: it was reset");
        }
    }
    Ok(())
}

/// `shy` may open flows, and no pod may open one to it.
#[test]
fn the_end_that_was_pinged_may_not_ping_back_with_the_same_identifier() -> Result<()> {
    let mut table = Table::new("pkl6")?;
    for world in World::ALL {
        let (shy, b, outside) = (at(world.shy(), 77), at(world.b(), 77), at(world.client(), 77));
        let question = |from, to| Frame::new(from, to, Body::Echo { answer: false });
        let answer = |from, to| Frame::new(from, to, Body::Echo { answer: true });
        for _ in 0..2 {
            table.row(POD, &question(shy, b), Verdict::Redirect, &question(shy, b))?;
            table.row(POD, &answer(b, shy), Verdict::Redirect, &answer(b, shy))?;
            table.dropped(POD, &question(b, shy), DropReason::PolicyIngress)?;
        }
        table.row(POD, &question(shy, outside), Verdict::Pass, &question(shy, outside))?;
        let (_, bytes) = table.run(TO_OUTSIDE, &question(shy, outside))?;
        let node = at(world.node(), Frame::echo(&bytes)?);
        // It is the node that the outside pings then.
        table.row(
            FROM_OUTSIDE,
            &question(at(outside.ip(), node.port()), node),
            Verdict::Pass,
            &question(at(outside.ip(), node.port()), node),
        )?;
        table.row(FROM_OUTSIDE, &answer(outside, node), Verdict::Redirect, &answer(outside, node).to(shy))?;
    }
    Ok(())
}

fn chunk(kind: u8) -> Body {
    Body::Sctp(vec![kind, 0, 0, 4])
}

/// An association's packets: with the verification tag, which an INIT does not have.
#[test]
fn an_association_ends_with_its_last_chunk() -> Result<()> {
    let mut table = Table::new("pkl7")?;
    for world in World::ALL {
        let ends = [at(world.a(), 3_000), at(world.b(), 3_000)];
        let opened = [(0, INIT), (1, INIT_ACK), (0, 10), (1, 11), (0, 0), (1, 3)];
        for (last, left) in [(0, 1), (ABORT, 0), (SHUTDOWN_COMPLETE, 0)] {
            for (from, kind) in opened.iter().chain([&(0, last)]) {
                let packet = Frame::new(ends[*from], ends[1 - from], chunk(*kind));
                table.row(POD, &packet, Verdict::Redirect, &packet)?;
            }
            table.lab.age(11)?;
            ensure!(table.lab.flows()? == left, "{world:?}: after chunk {last}");
        }
    }
    Ok(())
}

/// SCTP clients use the same port again.
#[test]
fn an_association_that_begins_again_goes_to_a_backend_of_now() -> Result<()> {
    let mut table = Table::new("pkl8")?;
    for world in World::ALL {
        for (program, client, ip) in
            [(POD, world.a(), world.vip()), (FROM_OUTSIDE, world.client(), world.node())]
        {
            let number = if program == POD { port::LOCAL } else { port::NODE + port::LOCAL };
            let (client, frontend) = (at(client, 3_000), at(ip, number));
            let question = Frame::new(client, frontend, opening(Proto::SCTP));
            table.row(program, &question, Verdict::Redirect, &question.to(at(world.b(), port::BACKEND)))?;
            let scopes = if program == POD { port::SAME } else { port::NODE + port::SAME };
            table.lab.copy_service_of(at(ip, scopes), frontend, Proto::SCTP)?;
            table.row(program, &question, Verdict::Redirect, &question.to(at(world.b(), port::SAME)))?;
        }
    }
    Ok(())
}
