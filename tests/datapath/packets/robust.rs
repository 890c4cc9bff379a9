//! What is cut off, bent or random: nothing passes that should be dropped, and every length is read within bounds.

use anyhow::{Result, ensure};
use skep_abi::DropReason;

use skep_tests::random_policies::Random;

use super::frame::{Body, Frame};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, TO_POD, Table, each, opening};

const PROGRAMS: [&str; 4] = [POD, TO_POD, FROM_OUTSIDE, TO_OUTSIDE];
const ETHERNET: usize = 14;
const ROUNDS: usize = 4_000;

/// Bytes up to the end of the ports, and for TCP of the flags.
fn needed(frame: &Frame) -> usize {
    least(frame) + if matches!(frame.body, Body::Tcp { .. }) { 14 } else { 8 }
}

/// A shorter packet the kernel refuses to run.
fn least(frame: &Frame) -> usize {
    ETHERNET + if frame.is_v4() { 20 } else { 40 }
}

#[test]
fn truncated_headers_are_dropped_by_every_program() -> Result<()> {
    let mut table = Table::new("pkr1")?;
    each(|world, proto, number| {
        let packet = Frame::new(at(world.a(), number), at(world.vip(), port::LOCAL), opening(proto));
        let (bytes, needed) = (packet.bytes(), needed(&packet));
        for length in least(&packet)..needed {
            for program in PROGRAMS {
                let (verdict, _) = table.lab.run(program, &bytes[..length])?;
                ensure!(
                    verdict == Verdict::Drop(DropReason::Malformed),
                    "{program} {length} of {needed}: {verdict:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn bent_ip_headers_are_dropped() -> Result<()> {
    let mut table = Table::new("pkr2")?;
    each(|world, proto, number| {
        let packet = Frame::new(at(world.a(), number), at(world.b(), 80), opening(proto));
        let v4 = packet.is_v4();
        // Another version than Ethernet says; a header shorter than any.
        let bent: &[u8] = if v4 { &[0x05, 0x65, 0xf5, 0x44, 0x40] } else { &[0x00, 0x45, 0xf0] };
        for first in bent {
            let mut bytes = packet.bytes();
            bytes[ETHERNET] = *first;
            for program in PROGRAMS {
                let (verdict, _) = table.lab.run(program, &bytes)?;
                ensure!(verdict == Verdict::Drop(DropReason::Malformed), "{program} {first:#x}: {verdict:?}");
            }
        }
        // A later fragment whose first one was not seen.
        if v4 {
            let mut bytes = packet.bytes();
            bytes[ETHERNET + 7] = 9;
            let (verdict, _) = table.lab.run(POD, &bytes)?;
            ensure!(verdict == Verdict::Wait, "{verdict:?}");
        }
        Ok(())
    })
}

#[test]
fn whatever_is_bent_nothing_reaches_a_closed_pod_or_leaves_under_a_foreign_address() -> Result<()> {
    let mut table = Table::new("pkr3")?;
    let mut random = Random(0x5eed);
    let mut passed = 0;
    for _ in 0..ROUNDS {
        let world = World::ALL[random.below(2)];
        let proto = super::lab::PROTOS[random.below(3)];
        let sources = [world.a(), world.closed(), world.elsewhere(), world.client(), world.remote()];
        let targets = [
            at(world.closed(), 80),
            at(world.vip(), port::CLOSED),
            at(world.balancer(), port::CLOSED),
            at(world.node(), port::NODE + port::CLOSED),
            at(world.b(), 80),
        ];
        let (source, target) = (sources[random.below(5)], targets[random.below(5)]);
        let packet = Frame::new(at(source, 50_000 + random.below(9) as u16), target, opening(proto));
        let mut bytes = packet.bytes();
        for _ in 0..random.below(4) {
            let place = ETHERNET + random.below(bytes.len() - ETHERNET);
            bytes[place] = random.below(256) as u8;
        }
        bytes.truncate(least(&packet) + random.below(2 * bytes.len()));
        let program = [POD, FROM_OUTSIDE][random.below(2)];
        let (verdict, out) = table.lab.run(program, &bytes)?;
        if matches!(verdict, Verdict::Drop(_) | Verdict::Wait) {
            continue;
        }
        passed += 1;
        let address = |bytes: &[u8], v4_at: usize, v6_at: usize| {
            let (at, length) = if world.is_v4() { (v4_at, 4) } else { (v6_at, 16) };
            bytes.get(ETHERNET + at..ETHERNET + at + length).map(<[u8]>::to_vec)
        };
        let octets = |ip: std::net::IpAddr| match ip {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (sent_by, goes_to) = (address(&bytes, 12, 8), address(&out, 16, 24));
        // Its traffic with itself no policy forbids.
        let to_itself = sent_by == goes_to;
        ensure!(
            to_itself || goes_to != Some(octets(world.closed())),
            "{program} {verdict:?} {bytes:02x?} to a closed pod"
        );
        if program == POD {
            let own = [world.a(), world.b(), world.closed()].map(|ip| Some(octets(ip)));
            let discovery = !world.is_v4() && sent_by.as_ref().is_some_and(|ip| ip[0] == 0xfe || ip[0] == 0);
            ensure!(own.contains(&sent_by) || discovery, "{verdict:?} {bytes:02x?} is not the pod's");
        }
    }
    ensure!(passed > ROUNDS / 20, "only {passed} of {ROUNDS} passed: the run shows little");
    Ok(())
}
