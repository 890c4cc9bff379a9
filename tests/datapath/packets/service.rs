//! Services per packet: translation and its way back, refusals, source ranges, affinity, hairpin, masquerade.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{ACK, Body, FIN, Frame, RST, SYN};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, TO_POD, Table, data, each, opening};

/// The translated packet, its answer, and one more each way.
pub(super) fn conversation(
    table: &mut Table,
    proto: Proto,
    client: (&str, SocketAddr),
    frontend: SocketAddr,
    backend: SocketAddr,
) -> Result<()> {
    for body in [opening(proto), data(proto)] {
        let question = Frame::new(client.1, frontend, body);
        table.row(client.0, &question, Verdict::Redirect, &question.to(backend))?;
        let answer = Frame::new(backend, client.1, data(proto));
        table.row(POD, &answer, Verdict::Redirect, &answer.from(frontend))?;
    }
    Ok(())
}

#[test]
fn frontends_lead_to_backends_and_answers_come_from_frontends() -> Result<()> {
    let mut table = Table::new("pkt1")?;
    each(|world, proto, number| {
        let (a, client, b) = (at(world.a(), number), at(world.client(), number), world.b());
        let backend = at(b, port::BACKEND);
        conversation(&mut table, proto, (POD, a), at(world.vip(), port::LOCAL), backend)?;
        conversation(&mut table, proto, (POD, a), at(world.vip(), port::SAME), at(b, port::SAME))?;
        let node = at(world.node(), port::NODE + port::LOCAL);
        conversation(&mut table, proto, (POD, at(world.a(), number + 1)), node, backend)?;
        conversation(&mut table, proto, (FROM_OUTSIDE, client), node, backend)?;
        let balancer = at(world.balancer(), port::LOCAL);
        conversation(&mut table, proto, (FROM_OUTSIDE, at(world.client(), number + 1)), balancer, backend)?;
        conversation(&mut table, proto, (POD, at(world.a(), number + 2)), balancer, backend)
    })?;
    ensure!(table.rows == 6 * 6 * 4);
    Ok(())
}

/// The kernel hands the same port out again soon when the server closed first.
#[test]
fn a_client_port_that_is_used_again_has_its_answers_from_the_frontend_again() -> Result<()> {
    let mut table = Table::new("pktr")?;
    let end = || Body::Tcp { flags: FIN | ACK, sequence: 1004, acknowledged: 84, window: 9, data: vec![] };
    for world in World::ALL {
        let (backend, number) = (at(world.b(), port::BACKEND), 42_000);
        let inside = (POD, at(world.a(), number), at(world.vip(), port::LOCAL));
        let node = at(world.node(), port::NODE + port::LOCAL);
        for (program, client, frontend) in [inside, (FROM_OUTSIDE, at(world.client(), number), node)] {
            for _ in 0..3 {
                conversation(&mut table, Proto::TCP, (program, client), frontend, backend)?;
                let answer = Frame::new(backend, client, end());
                table.row(POD, &answer, Verdict::Redirect, &answer.from(frontend))?;
                let question = Frame::new(client, frontend, end());
                table.row(program, &question, Verdict::Redirect, &question.to(backend))?;
            }
        }
    }
    Ok(())
}

/// A client that was faster than its service asks again, and is served.
#[test]
fn a_syn_repeated_once_there_is_a_service_goes_to_it() -> Result<()> {
    let mut table = Table::new("pktl")?;
    for world in World::ALL {
        let (a, frontend) = (at(world.a(), 43_000), at(world.vip(), port::LATE));
        let question = Frame::new(a, frontend, opening(Proto::TCP));
        for _ in 0..2 {
            table.row(POD, &question, Verdict::Pass, &question)?;
        }
        table.lab.copy_service(world, Proto::TCP, port::LOCAL, port::LATE)?;
        conversation(&mut table, Proto::TCP, (POD, a), frontend, at(world.b(), port::BACKEND))?;
    }
    Ok(())
}

/// Datagrams do not say that they begin: the agent takes away what leads past the service.
#[test]
fn datagrams_sent_before_there_was_a_service_go_to_it_once_flows_are_tidied() -> Result<()> {
    let mut table = Table::new("pktu")?;
    for world in World::ALL {
        let (a, frontend) = (at(world.a(), 43_000), at(world.vip(), port::LATE));
        let direct = Frame::new(at(world.a(), 43_002), at(world.b(), port::BACKEND), data(Proto::UDP));
        let question = Frame::new(a, frontend, opening(Proto::UDP));
        table.row(POD, &question, Verdict::Pass, &question)?;
        table.row(POD, &direct, Verdict::Redirect, &direct)?;
        ensure!(table.lab.tidy()? == 0, "no service, nothing is led past one");
        table.lab.copy_service(world, Proto::UDP, port::LOCAL, port::LATE)?;
        ensure!(table.lab.tidy()? == 1);
        let other = at(world.a(), 43_001);
        conversation(&mut table, Proto::UDP, (POD, other), frontend, at(world.b(), port::BACKEND))?;
        table.row(POD, &question, Verdict::Redirect, &question.to(at(world.b(), port::BACKEND)))?;
        ensure!(table.lab.tidy()? == 0, "what is led to its backend stays");
        let now = table.lab.observed()?;
        let mut earlier = now.clone();
        let late = earlier.services.iter_mut().filter(|(key, _)| key.port.get() == port::LATE);
        late.for_each(|(_, value)| value.count = 0);
        let during = [earlier.clone(), now.clone()];
        ensure!(table.lab.tidy_while(during)? == 0, "its backend may be younger than the walk");
        ensure!(table.lab.tidy_while([now, earlier.clone()])? == 0, "and the next walk finds what is stale");
        ensure!(table.lab.tidy_while([earlier.clone(), earlier])? > 0);
    }
    Ok(())
}

/// The kernel gives one port to several connections if they go to different addresses.
#[test]
fn flows_of_one_client_port_through_two_frontends_stay_apart_at_their_backend() -> Result<()> {
    let mut table = Table::new("pkta")?;
    each(|world, proto, number| {
        let backend = at(world.b(), port::BACKEND);
        let balancer = at(world.balancer(), port::LOCAL);
        let inside = (POD, at(world.a(), number), at(world.vip(), port::LOCAL));
        let outside = (FROM_OUTSIDE, at(world.client(), number), at(world.node(), port::NODE + port::LOCAL));
        for (program, client, frontend) in [inside, outside] {
            conversation(&mut table, proto, (program, client), frontend, backend)?;
            let (_, bytes) = table.run(program, &Frame::new(client, balancer, opening(proto)))?;
            let (from, to) = Frame::ends(&bytes)?;
            ensure!(from.ip() == client.ip() && from != client && to == backend, "{from} {to}");
            for body in [opening(proto), data(proto)] {
                let question = Frame::new(client, balancer, body);
                table.row(program, &question, Verdict::Redirect, &question.from(from).to(backend))?;
                let answer = Frame::new(backend, from, data(proto));
                table.row(POD, &answer, Verdict::Redirect, &answer.from(balancer).to(client))?;
            }
            // The first flow goes on as before.
            conversation(&mut table, proto, (program, client), frontend, backend)?;
        }
        Ok(())
    })
}

#[test]
fn a_service_without_backends_refuses_from_the_frontend() -> Result<()> {
    let mut table = Table::new("pkt2")?;
    each(|world, proto, number| {
        let outside =
            [at(world.node(), port::NODE + port::NO_BACKEND), at(world.balancer(), port::NO_BACKEND)];
        let outside = outside.map(|frontend| (FROM_OUTSIDE, at(world.client(), number), frontend));
        let inside = (POD, at(world.a(), number), at(world.vip(), port::NO_BACKEND));
        for (program, client, frontend) in outside.into_iter().chain([inside]) {
            for body in [opening(proto), data(proto)] {
                let question = Frame::new(client, frontend, body);
                table.row(program, &question, Verdict::Redirect, &refusal(&question))?;
            }
        }
        let hidden = Frame::new(at(world.a(), number), at(world.vip(), port::NOBODY_HERE), opening(proto));
        table.dropped(POD, &hidden, DropReason::NoBackend)?;
        let hidden = Frame::new(
            at(world.client(), number),
            at(world.node(), port::NODE + port::NOBODY_HERE),
            opening(proto),
        );
        table.dropped(FROM_OUTSIDE, &hidden, DropReason::NoBackend)
    })?;
    // A reset is answered by nothing.
    for world in World::ALL {
        let reset = Body::Tcp { flags: RST, sequence: 1, acknowledged: 0, window: 0, data: vec![] };
        let reset = Frame::new(at(world.a(), 41_000), at(world.vip(), port::NO_BACKEND), reset);
        table.dropped(POD, &reset, DropReason::NoBackend)?;
    }
    Ok(())
}

#[test]
fn a_cluster_address_refuses_on_the_ports_that_it_does_not_have() -> Result<()> {
    let mut table = Table::new("pktx")?;
    for world in World::ALL {
        let (a, nowhere) = (at(world.a(), 43_000), at(world.vip(), port::LATE));
        let early = Frame::new(a, nowhere, opening(Proto::TCP));
        table.row(POD, &early, Verdict::Pass, &early)?;
        table.lab.refuse_rest(world)?;
        table.row(POD, &early, Verdict::Redirect, &refusal(&early))?;
    }
    each(|world, proto, number| {
        let (a, nowhere) = (at(world.a(), number), at(world.vip(), port::LATE));
        for body in [opening(proto), data(proto)] {
            let question = Frame::new(a, nowhere, body);
            table.row(POD, &question, Verdict::Redirect, &refusal(&question))?;
        }
        // From outside only what has a port concerns the node.
        let outside = Frame::new(at(world.client(), number), nowhere, opening(proto));
        table.row(FROM_OUTSIDE, &outside, Verdict::Pass, &outside)?;
        let backend = at(world.b(), port::BACKEND);
        conversation(&mut table, proto, (POD, a), at(world.vip(), port::LOCAL), backend)?;
        let (other, late) = (at(world.a(), number + 1_000), at(world.vip(), port::LATE + number));
        table.lab.copy_service(world, proto, port::LOCAL, late.port())?;
        conversation(&mut table, proto, (POD, other), late, backend)
    })
}

/// What refuses the packet (RFC 9293 3.10.7.1, RFC 792, RFC 4443).
pub(super) fn refusal(question: &Frame) -> Frame {
    let body = match &question.body {
        Body::Tcp { flags, sequence, acknowledged, data, .. } => {
            let (sequence, acknowledged, flags) = match flags & ACK {
                0 => (0, sequence + data.len() as u32 + u32::from(flags & SYN != 0), RST | ACK),
                _ => (*acknowledged, 0, RST),
            };
            Body::Tcp { flags, sequence, acknowledged, window: 0, data: vec![] }
        }
        _ => {
            let (kind, code) = if question.is_v4() { (3, 3) } else { (1, 4) };
            let mut rest = question.packet();
            rest.truncate(508);
            Body::Icmp { kind, code, word: [0; 4], rest }
        }
    };
    question.answer(body)
}

#[test]
fn a_long_datagram_is_quoted_in_part() -> Result<()> {
    let mut table = Table::new("pkt3")?;
    for world in World::ALL {
        for length in [0, 1, 2, 3, 479, 480, 481, 500, 1200] {
            let (a, frontend) = (at(world.a(), 40_000), at(world.vip(), port::NO_BACKEND));
            let question = Frame::new(a, frontend, Body::Udp(vec![0xa5; length]));
            table.row(POD, &question, Verdict::Redirect, &refusal(&question))?;
        }
    }
    Ok(())
}

#[test]
fn source_ranges_bind_clients_outside_and_pods() -> Result<()> {
    let mut table = Table::new("pkt4")?;
    each(|world, proto, number| {
        for port in [port::LOCAL, port::NO_BACKEND] {
            let frontend = at(world.balancer(), port);
            for (program, ip) in [(FROM_OUTSIDE, world.stranger()), (POD, world.b())] {
                let question = Frame::new(at(ip, number), frontend, opening(proto));
                table.dropped(program, &question, DropReason::SourceRange)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_sticky_client_stays_and_others_spread() -> Result<()> {
    let mut table = Table::new("pkt5")?;
    each(|world, proto, number| {
        let frontend = at(world.vip(), port::STICKY);
        let mut seen = BTreeSet::new();
        for port in number..number + 12 {
            let question = Frame::new(at(world.b(), port), frontend, opening(proto));
            let (_, bytes) = table.run(POD, &question)?;
            let (from, to) = Frame::ends(&bytes)?;
            // To itself it comes as from the service.
            ensure!(to.port() == port::BACKEND && (from.ip() == world.b() || from.ip() == world.vip()));
            seen.insert(to);
        }
        ensure!(seen.len() == 1, "one client saw {seen:?}");
        let mut seen = BTreeSet::new();
        for host in 1..60 {
            let client = at(world.outside(host), number);
            let frontend = at(world.node(), port::NODE + port::STICKY);
            let (_, bytes) = table.run(FROM_OUTSIDE, &Frame::new(client, frontend, opening(proto)))?;
            seen.insert(Frame::ends(&bytes)?.1);
        }
        ensure!(seen.len() == 3, "59 clients saw {seen:?}");
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let mut table = Table::new("pkt6")?;
    each(|world, proto, number| {
        let (a, frontend) = (at(world.a(), number), at(world.vip(), port::HAIRPIN));
        let question = Frame::new(a, frontend, opening(proto));
        let (_, bytes) = table.run(POD, &question)?;
        let (from, to) = Frame::ends(&bytes)?;
        ensure!(from.ip() == world.vip() && to == at(world.a(), port::BACKEND), "{from} {to}");
        table.row(POD, &question, Verdict::Redirect, &question.from(from).to(to))?;
        let answer = Frame::new(to, from, data(proto));
        table.row(POD, &answer, Verdict::Redirect, &answer.from(frontend).to(a))
    })
}

#[test]
fn a_backend_elsewhere_is_reached_through_this_node() -> Result<()> {
    let mut table = Table::new("pkt7")?;
    each(|world, proto, number| {
        let (client, node) = (at(world.client(), number), at(world.node(), port::NODE + port::REMOTE));
        let question = Frame::new(client, node, opening(proto));
        let (_, bytes) = table.run(FROM_OUTSIDE, &question)?;
        let (from, to) = Frame::ends(&bytes)?;
        ensure!(from.ip() == world.node() && to == at(world.remote(), port::BACKEND), "{from} {to}");
        for body in [opening(proto), data(proto)] {
            let question = Frame::new(client, node, body);
            table.row(FROM_OUTSIDE, &question, Verdict::Redirect, &question.from(from).to(to))?;
            let answer = Frame::new(to, from, data(proto));
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.from(node).to(client))?;
        }
        let (a, vip) = (at(world.a(), number), at(world.vip(), port::REMOTE));
        let question = Frame::new(a, vip, opening(proto));
        table.row(POD, &question, Verdict::Redirect, &question.to(to))?;
        let answer = Frame::new(to, a, data(proto));
        table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.from(vip))
    })
}

#[test]
fn pods_reach_the_outside_as_the_node_and_only_as_themselves() -> Result<()> {
    let mut table = Table::new("pkt8")?;
    each(|world, proto, number| {
        let (a, outside) = (at(world.a(), number), at(world.client(), 443));
        let question = Frame::new(a, outside, opening(proto));
        table.row(POD, &question, Verdict::Pass, &question)?;
        let (_, bytes) = table.run(TO_OUTSIDE, &question)?;
        let (from, to) = Frame::ends(&bytes)?;
        ensure!(from.ip() == world.node() && to == outside, "{from} {to}");
        table.row(TO_OUTSIDE, &question, Verdict::Pass, &question.from(from))?;
        let answer = Frame::new(outside, from, data(proto));
        table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(a))?;
        for (source, target) in [(world.elsewhere(), world.b()), (world.client(), world.b())] {
            let spoofed = Frame::new(at(source, number), at(target, 80), opening(proto));
            table.dropped(POD, &spoofed, DropReason::Spoofed)?;
        }
        let own = Frame::new(at(world.node(), number), outside, opening(proto));
        table.row(TO_OUTSIDE, &own, Verdict::Pass, &own)
    })
}

#[test]
fn policy_holds_for_every_way_to_a_pod() -> Result<()> {
    let mut table = Table::new("pkt9")?;
    each(|world, proto, number| {
        let (a, client, closed) = (at(world.a(), number), at(world.client(), number), at(world.closed(), 80));
        for (program, from, to) in [
            (POD, a, closed),
            (POD, a, at(world.vip(), port::CLOSED)),
            (POD, a, at(world.node(), port::NODE + port::CLOSED)),
            (FROM_OUTSIDE, client, closed),
            (FROM_OUTSIDE, client, at(world.node(), port::NODE + port::CLOSED)),
            (FROM_OUTSIDE, client, at(world.balancer(), port::CLOSED)),
            (FROM_OUTSIDE, at(world.remote(), number), closed),
        ] {
            table.dropped(program, &Frame::new(from, to, opening(proto)), DropReason::PolicyIngress)?;
        }
        for to in [at(world.b(), 80), at(world.client(), 80), at(world.vip(), port::LOCAL)] {
            let packet = Frame::new(at(world.closed(), number), to, opening(proto));
            table.dropped(POD, &packet, DropReason::PolicyEgress)?;
        }
        // What the node itself sends is allowed; a test run has no interface that it came from.
        let own = Frame::new(at(world.node(), number), closed, opening(proto));
        table.row(TO_POD, &own, Verdict::Pass, &own)?;
        let answer = Frame::new(closed, at(world.node(), number), data(proto));
        table.row(POD, &answer, Verdict::Pass, &answer)
    })
}

#[test]
fn an_echo_passes_and_its_answer_finds_back() -> Result<()> {
    let mut table = Table::new("pkta")?;
    for world in World::ALL {
        let (a, b, outside) = (at(world.a(), 77), at(world.b(), 77), at(world.client(), 77));
        let question = Frame::new(a, b, Body::Echo { answer: false });
        table.row(POD, &question, Verdict::Redirect, &question)?;
        let answer = Frame::new(b, a, Body::Echo { answer: true });
        table.row(POD, &answer, Verdict::Redirect, &answer)?;
        let question = Frame::new(a, outside, Body::Echo { answer: false });
        table.row(POD, &question, Verdict::Pass, &question)?;
        let (_, bytes) = table.run(TO_OUTSIDE, &question)?;
        let id = Frame::echo(&bytes)?;
        let node = at(world.node(), id);
        table.row(TO_OUTSIDE, &question, Verdict::Pass, &question.from(node))?;
        let answer = Frame::new(outside, node, Body::Echo { answer: true });
        table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(a))?;
        let closed = Frame::new(a, at(world.closed(), 77), Body::Echo { answer: false });
        table.dropped(POD, &closed, DropReason::PolicyIngress)?;
    }
    Ok(())
}

#[test]
fn a_cluster_address_that_no_service_has_is_dropped_at_once() -> Result<()> {
    let mut table = Table::new("pktu")?;
    each(|world, proto, number| {
        let unassigned: std::net::IpAddr =
            if world.is_v4() { [10, 96, 0, 77].into() } else { "fd00:60::77".parse()? };
        let packet = |from| Frame::new(at(from, number), at(unassigned, 80), opening(proto));
        // Without the flag nothing is known of such addresses.
        table.lab.set_service_cidrs(&[])?;
        table.row(POD, &packet(world.a()), Verdict::Pass, &packet(world.a()))?;
        table.lab.forget_flows()?;
        table.lab.set_service_cidrs(&["10.96.0.0/16", "fd00:60::/64"])?;
        table.dropped(POD, &packet(world.a()), DropReason::NoService)?;
        table.dropped(FROM_OUTSIDE, &packet(world.client()), DropReason::NoService)?;
        if proto != Proto::SCTP {
            table.dropped(TO_OUTSIDE, &packet(world.node()), DropReason::NoService)?;
        }
        // Others have their service, or are none of these.
        let served = Frame::new(at(world.a(), number), at(world.vip(), port::LOCAL), opening(proto));
        let backend = served.to(at(world.b(), port::BACKEND));
        table.row(POD, &served, Verdict::Redirect, &backend)?;
        let outside = Frame::new(at(world.a(), number), at(world.client(), 80), opening(proto));
        table.row(POD, &outside, Verdict::Pass, &outside)
    })
}

#[test]
fn pods_keep_their_addresses_towards_networks_that_are_exempt() -> Result<()> {
    let mut table = Table::new("pktv")?;
    for (number, exempt) in (500..).zip([&["10.200.0.0/24", "fd00:c8::/64"][..], &["10.201.0.0/16"], &[]]) {
        table.lab.set_masquerade_exemptions(exempt)?;
        for world in World::ALL {
            for to in [world.client(), world.stranger()] {
                let packet = Frame::new(at(world.a(), number), at(to, 53), data(Proto::UDP));
                table.row(POD, &packet, Verdict::Pass, &packet)?;
                let is_exempt = exempt
                    .iter()
                    .any(|network| network.parse().is_ok_and(|n: ipnetwork::IpNetwork| n.contains(to)));
                let (verdict, out) = table.run(TO_OUTSIDE, &packet)?;
                let source = if is_exempt { world.a() } else { world.node() };
                ensure!(verdict == Verdict::Pass && Frame::ends(&out)?.0.ip() == source, "{exempt:?} {to}");
            }
        }
    }
    Ok(())
}
