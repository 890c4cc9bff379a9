//! Fragments: a later one goes where its first one went, in both families and directions; one that comes before it waits,
//! and so does what belongs to no first one, or hides its ports in a second.

use anyhow::{Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{ACK, Body, Frame};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, Table, each};

const ETHERNET: usize = 14;
/// Bytes of the message in the first fragment.
const SPLIT: usize = 32;

fn long(proto: Proto) -> Body {
    let data = vec![0x5a; 64];
    match proto {
        Proto::TCP => Body::Tcp { flags: ACK, sequence: 1, acknowledged: 1, window: 1, data },
        Proto::UDP => Body::Udp(data),
        _ => Body::Sctp(data),
    }
}

/// The frame in two fragments, the first with `split` bytes behind the IP header.
fn fragments(frame: &Frame, id: u32, split: usize) -> [Vec<u8>; 2] {
    let [first, later] = pieces(frame, id, &[0, split]).try_into().expect("two");
    [first, later]
}

/// The frame in fragments that begin so many bytes behind the IP header.
pub(crate) fn pieces(frame: &Frame, id: u32, offsets: &[usize]) -> Vec<Vec<u8>> {
    let whole = frame.bytes();
    let header = ETHERNET + if frame.is_v4() { 20 } else { 40 };
    let (head, message) = whole.split_at(header);
    let ends = offsets.iter().skip(1).copied().chain([message.len()]);
    let piece = |(offset, end): (usize, usize)| {
        let (part, more) = (&message[offset..end], end < message.len());
        let mut bytes = head.to_vec();
        let place = (offset / 8) as u16;
        if frame.is_v4() {
            bytes[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(id as u16).to_be_bytes());
            let flags = place | if more { 0x2000 } else { 0 };
            bytes[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&flags.to_be_bytes());
            bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
            let check = !super::frame::sum(&bytes[ETHERNET..]);
            bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&check.to_be_bytes());
        } else {
            bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut bytes[ETHERNET + 6], 44);
            bytes.extend([next, 0]);
            bytes.extend((place << 3 | u16::from(more)).to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        bytes.extend(part);
        bytes
    };
    offsets.iter().copied().zip(ends).map(piece).collect()
}

fn row(table: &mut Table, program: &str, packet: &[u8], verdict: Verdict, out: &[u8]) -> Result<()> {
    table.rows += 1;
    let (got, bytes) = table.lab.run(program, packet)?;
    ensure!(got == verdict, "{program} {packet:02x?}: {got:?} instead of {verdict:?}");
    ensure!(
        matches!(verdict, Verdict::Drop(_)) || bytes == out,
        "{program} {packet:02x?}: out {bytes:02x?} instead of {out:02x?}"
    );
    Ok(())
}

#[test]
fn later_fragments_go_where_the_first_one_went_and_come_back_the_same_way() -> Result<()> {
    let mut table = Table::new("pkf1")?;
    each(|world, proto, number| {
        // The checksum of SCTP covers ports and the whole message, so its ports cannot change in a part of it.
        let (port, target) = match proto {
            Proto::SCTP => (port::SAME, port::SAME),
            _ => (port::LOCAL, port::BACKEND),
        };
        let (backend, node) = (at(world.b(), target), at(world.node(), port::NODE + port));
        let inside = (POD, at(world.a(), number), at(world.vip(), port));
        for (program, client, frontend) in [inside, (FROM_OUTSIDE, at(world.client(), number), node)] {
            // The node port of that service is another number than its target.
            if proto == Proto::SCTP && program == FROM_OUTSIDE {
                continue;
            }
            let question = Frame::new(client, frontend, long(proto));
            let answer = Frame::new(backend, client, long(proto));
            for (program, packet, out) in
                [(program, &question, &question.to(backend)), (POD, &answer, &answer.from(frontend))]
            {
                let id = 7 + u32::from(number);
                let [first, later] = fragments(packet, id, SPLIT);
                let [first_out, later_out] = fragments(out, id, SPLIT);
                // To wait, as it is.
                row(&mut table, program, &later, Verdict::Wait, &later)?;
                row(&mut table, program, &first, Verdict::Redirect, &first_out)?;
                row(&mut table, program, &later, Verdict::Redirect, &later_out)?;
                // Sent once more by the network.
                row(&mut table, program, &later, Verdict::Redirect, &later_out)?;
                let [_, stranger] = fragments(packet, id + 1000, SPLIT);
                row(&mut table, program, &stranger, Verdict::Wait, &stranger)?;
            }
        }
        Ok(())
    })?;
    ensure!(table.rows == 100, "{} rows", table.rows);
    Ok(())
}

#[test]
fn a_first_fragment_without_its_ports_or_flags_is_dropped_and_what_follows_goes_nowhere() -> Result<()> {
    let mut table = Table::new("pkf2")?;
    for world in World::ALL {
        let client = at(world.a(), 40_500);
        let packet = Frame::new(client, at(world.vip(), port::LOCAL), long(Proto::TCP));
        // The flags stand in the 14th byte (RFC 1858, tiny fragments).
        let [first, later] = fragments(&packet, 99, 8);
        row(&mut table, POD, &first, Verdict::Drop(DropReason::Malformed), &[])?;
        row(&mut table, POD, &later, Verdict::Wait, &later)?;
        let packet = Frame::new(client, at(world.closed(), 80), long(Proto::UDP));
        let [first, later] = fragments(&packet, 98, SPLIT);
        row(&mut table, POD, &first, Verdict::Drop(DropReason::PolicyIngress), &[])?;
        row(&mut table, POD, &later, Verdict::Drop(DropReason::PolicyIngress), &[])?;
    }
    Ok(())
}

#[test]
fn sctp_in_fragments_is_dropped_where_its_ports_would_change() -> Result<()> {
    let mut table = Table::new("pkf3")?;
    for world in World::ALL {
        let client = at(world.a(), 40_600);
        let packet = Frame::new(client, at(world.vip(), port::LOCAL), long(Proto::SCTP));
        let [first, _] = fragments(&packet, 97, SPLIT);
        row(&mut table, POD, &first, Verdict::Drop(DropReason::Rewrite), &[])?;
    }
    Ok(())
}
