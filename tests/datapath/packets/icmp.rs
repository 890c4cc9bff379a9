//! ICMP errors about translated flows: what they quote is what the receiver sent, and they come to it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{Body, Frame};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, Table, data, each, opening};

/// What an error says.
#[derive(Clone, Copy, Debug)]
enum Kind {
    NoPort,
    TooBig,
    TimeExceeded,
}

const KINDS: [Kind; 3] = [Kind::NoPort, Kind::TooBig, Kind::TimeExceeded];

/// As much as fits, or the IP header and eight bytes.
#[derive(Clone, Copy, Debug)]
enum Length {
    Whole,
    Least,
}

/// An error from `by` about the packet.
fn error(by: IpAddr, kind: Kind, about: &Frame, length: Length) -> Frame {
    let v4 = about.is_v4();
    let (kind, code, word) = match (kind, v4) {
        (Kind::NoPort, true) => (3, 3, [0; 4]),
        (Kind::NoPort, false) => (1, 4, [0; 4]),
        (Kind::TooBig, true) => (3, 4, [0, 0, 5, 0]),
        (Kind::TooBig, false) => (2, 0, [0, 0, 5, 0]),
        (Kind::TimeExceeded, true) => (11, 0, [0; 4]),
        (Kind::TimeExceeded, false) => (3, 0, [0; 4]),
    };
    let mut rest = about.packet();
    if matches!(length, Length::Least) {
        rest.truncate(if v4 { 28 } else { 48 });
    }
    let to = at(about.source.ip(), 0);
    Frame::new(at(by, 0), to, Body::Icmp { kind, code, word, rest })
}

/// Its quote with the ends of `about`, from `by`. SCTP's checksum stays: it cannot be that of a part.
fn becomes(error: &Frame, by: IpAddr, about: &Frame) -> Frame {
    let Body::Icmp { kind, code, word, rest } = &error.body else { panic!("no error: {error:?}") };
    let mut quote = about.packet();
    quote.truncate(rest.len());
    let check = if about.is_v4() { 28..32 } else { 48..52 };
    if matches!(about.body, Body::Sctp(_)) && rest.len() >= check.end {
        quote[check.clone()].copy_from_slice(&rest[check]);
    }
    let body = Body::Icmp { kind: *kind, code: *code, word: *word, rest: quote };
    Frame { source: at(by, 0), destination: at(about.source.ip(), 0), body, ..error.clone() }
}

/// A flow: the packet as the client sent it and as it was seen behind the translation.
struct Seen {
    sent: Frame,
    seen: Frame,
}

impl Seen {
    /// Rows for an error about the packet and back along its way: from the other end, and from a router.
    fn errors(&self, table: &mut Table, program: &str, routed: bool, verdict: Verdict) -> Result<()> {
        for (kind, length) in KINDS.into_iter().flat_map(|k| [(k, Length::Whole), (k, Length::Least)]) {
            if routed {
                let router = if self.sent.is_v4() {
                    [10, 9, 9, 9].into()
                } else {
                    [0xfd00, 9, 0, 0, 0, 0, 0, 9].into()
                };
                let message = error(router, kind, &self.seen, length);
                table.row(program, &message, verdict, &becomes(&message, router, &self.sent))?;
            }
            let message = error(self.seen.destination.ip(), kind, &self.seen, length);
            let by = self.sent.destination.ip();
            table.row(program, &message, verdict, &becomes(&message, by, &self.sent))?;
        }
        Ok(())
    }
}

fn question(proto: Proto, from: SocketAddr, to: SocketAddr) -> Frame {
    Frame::new(from, to, opening(proto))
}

fn answer(proto: Proto, from: SocketAddr, to: SocketAddr) -> Frame {
    Frame::new(from, to, data(proto))
}

#[test]
fn errors_of_pods_and_routers_about_a_service_reach_the_client_and_the_backend() -> Result<()> {
    let mut table = Table::new("pkie")?;
    each(|world, proto, number| {
        let (a, vip, b) = (at(world.a(), number), at(world.vip(), port::LOCAL), at(world.b(), port::BACKEND));
        table.run(POD, &question(proto, a, vip))?;
        // What the backend says about the question, what the client says about the answer.
        let flow = Seen { sent: question(proto, a, vip), seen: question(proto, a, b) };
        flow.errors(&mut table, POD, false, Verdict::Redirect)?;
        let flow = Seen { sent: answer(proto, b, a), seen: answer(proto, vip, a) };
        flow.errors(&mut table, POD, false, Verdict::Redirect)?;
        let (vip, remote) = (at(world.vip(), port::REMOTE), at(world.remote(), port::BACKEND));
        table.run(POD, &question(proto, a, vip))?;
        let flow = Seen { sent: question(proto, a, vip), seen: question(proto, a, remote) };
        flow.errors(&mut table, FROM_OUTSIDE, true, Verdict::Redirect)
    })?;
    ensure!(table.rows == 6 * (2 + 6 + 6 + 12));
    Ok(())
}

#[test]
fn errors_about_node_ports_reach_the_client_and_the_backend() -> Result<()> {
    let mut table = Table::new("pkin")?;
    each(|world, proto, number| {
        let (client, b) = (at(world.client(), number), at(world.b(), port::BACKEND));
        let node = at(world.node(), port::NODE + port::LOCAL);
        table.run(FROM_OUTSIDE, &question(proto, client, node))?;
        let flow = Seen { sent: question(proto, client, node), seen: question(proto, client, b) };
        flow.errors(&mut table, POD, false, Verdict::Redirect)?;
        let flow = Seen { sent: answer(proto, b, client), seen: answer(proto, node, client) };
        flow.errors(&mut table, FROM_OUTSIDE, true, Verdict::Redirect)?;
        // Through this node to a backend elsewhere.
        let (node, remote) = (at(world.node(), port::NODE + port::REMOTE), at(world.remote(), port::BACKEND));
        let (_, bytes) = table.run(FROM_OUTSIDE, &question(proto, client, node))?;
        let ours = Frame::ends(&bytes)?.0;
        let flow = Seen { sent: question(proto, client, node), seen: question(proto, ours, remote) };
        flow.errors(&mut table, FROM_OUTSIDE, true, Verdict::Redirect)?;
        let flow = Seen { sent: answer(proto, remote, ours), seen: answer(proto, node, client) };
        flow.errors(&mut table, FROM_OUTSIDE, true, Verdict::Redirect)
    })
}

#[test]
fn errors_about_masqueraded_flows_reach_the_pod_and_the_outside() -> Result<()> {
    let mut table = Table::new("pkim")?;
    each(|world, proto, number| {
        let (a, outside) = (at(world.a(), number), at(world.client(), 443));
        table.run(POD, &question(proto, a, outside))?;
        let (_, bytes) = table.run(TO_OUTSIDE, &question(proto, a, outside))?;
        let node = Frame::ends(&bytes)?.0;
        let flow = Seen { sent: question(proto, a, outside), seen: question(proto, node, outside) };
        flow.errors(&mut table, FROM_OUTSIDE, true, Verdict::Redirect)?;
        let message = error(world.a(), Kind::NoPort, &answer(proto, outside, a), Length::Whole);
        table.row(POD, &message, Verdict::Pass, &message)?;
        let flow = Seen { sent: answer(proto, outside, node), seen: answer(proto, outside, a) };
        flow.errors(&mut table, TO_OUTSIDE, false, Verdict::Pass)
    })
}

#[test]
fn extensions_behind_the_quote_stay() -> Result<()> {
    let mut table = Table::new("pkix")?;
    for world in World::ALL {
        let (a, vip, b) = (at(world.a(), 40_000), at(world.vip(), port::LOCAL), at(world.b(), port::BACKEND));
        table.run(POD, &question(Proto::UDP, a, vip))?;
        // RFC 4884: 128 bytes of quote, counted in words of four or eight bytes, then an extension.
        let (seen, sent) = (question(Proto::UDP, a, b), question(Proto::UDP, a, vip));
        let extended = |about: &Frame, by| {
            let mut message = error(by, Kind::TimeExceeded, about, Length::Whole);
            if let Body::Icmp { word, rest, .. } = &mut message.body {
                word[usize::from(world.is_v4())] = if world.is_v4() { 32 } else { 16 };
                rest.resize(128, 0);
                rest.extend([0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef]);
            }
            message
        };
        let (by_b, by_vip) = (extended(&seen, world.b()), extended(&sent, world.vip()));
        table.row(POD, &by_b, Verdict::Redirect, &by_vip)?;
    }
    Ok(())
}

#[test]
fn an_error_is_taken_only_from_who_may_send_it_and_about_a_known_flow() -> Result<()> {
    let mut table = Table::new("pkis")?;
    each(|world, proto, number| {
        let (a, vip, b) = (at(world.a(), number), at(world.vip(), port::LOCAL), at(world.b(), port::BACKEND));
        table.run(POD, &question(proto, a, vip))?;
        let known = question(proto, a, b);
        for by in [world.client(), world.elsewhere(), world.vip()] {
            let spoofed = error(by, Kind::NoPort, &known, Length::Whole);
            table.dropped(POD, &spoofed, DropReason::Spoofed)?;
        }
        // About no flow that is known it is a packet like another: policy decides.
        for (to, passes) in [(world.b(), true), (world.closed(), false)] {
            let unknown = error(
                world.client(),
                Kind::TooBig,
                &question(proto, at(to, 9), at(world.client(), 9)),
                Length::Whole,
            );
            if passes {
                table.row(FROM_OUTSIDE, &unknown, Verdict::Redirect, &unknown)?;
            } else {
                table.dropped(FROM_OUTSIDE, &unknown, DropReason::PolicyIngress)?;
            }
        }
        Ok(())
    })
}
