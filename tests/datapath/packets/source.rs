//! Sources: a source address belongs to its sender, and a packet that is dropped for its source leaves no trace.

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, Be16, DropReason, OVERLAY_PORT, Proto, Scope, ServiceKey, ServiceValue};
use skep_datapath::At;
use skep_netplan::Write;

use super::fragments::pieces;
use super::frame::{Body, Frame, RST, SYN};
use super::lab::{Lab, Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, TO_POD, Table, data, each, opening};

const ETHERNET: usize = 14;

fn udp(from: std::net::SocketAddr, to: std::net::SocketAddr) -> Frame {
    Frame::new(from, to, opening(Proto::UDP))
}

fn tcp(from: std::net::SocketAddr, to: std::net::SocketAddr, flags: u8) -> Frame {
    Frame::new(from, to, Body::Tcp { flags, sequence: 5, acknowledged: 0, window: 9, data: vec![] })
}

#[test]
fn from_the_network_come_neither_this_node_nor_its_pods() -> Result<()> {
    let mut table = Table::new("pks1")?;
    each(|world, proto, number| {
        for source in [world.node(), world.a(), world.elsewhere()] {
            for target in [
                at(world.b(), 80),
                at(world.closed(), 80),
                at(world.node(), port::NODE + port::LOCAL),
                at(world.node(), port::NODE + port::REMOTE),
                at(world.vip(), port::LOCAL),
                at(world.node(), 22),
            ] {
                for body in [opening(proto), data(proto)] {
                    let packet = Frame::new(at(source, number), target, body);
                    table.dropped(FROM_OUTSIDE, &packet, DropReason::Spoofed)?;
                }
            }
        }
        // Nor within a flow that is known.
        let known = Frame::new(at(world.a(), number), at(world.b(), 80), opening(proto));
        table.row(POD, &known, Verdict::Redirect, &known)?;
        let before = table.lab.flow_entries()?;
        for packet in [&known, &known.answer(data(proto))] {
            table.dropped(FROM_OUTSIDE, packet, DropReason::Spoofed)?;
        }
        ensure!(table.lab.flow_entries()? == before);
        Ok(())
    })
}

#[test]
fn a_packet_dropped_for_its_source_changes_no_flow() -> Result<()> {
    let mut table = Table::new("pks2")?;
    for world in World::ALL {
        let (a, elsewhere) = (at(world.a(), 41_000), at(world.elsewhere(), 80));
        table.run(POD, &tcp(a, elsewhere, SYN))?;
        let masqueraded = tcp(at(world.elsewhere(), 41_000), at(world.client(), 443), SYN);
        let before = table.lab.flow_entries()?;
        ensure!(!before.is_empty());
        for flags in [SYN, RST] {
            table.dropped(POD, &tcp(elsewhere, a, flags), DropReason::Spoofed)?;
            table.dropped(FROM_OUTSIDE, &tcp(elsewhere, a, flags), DropReason::Spoofed)?;
            table.dropped(FROM_OUTSIDE, &tcp(a, elsewhere, flags), DropReason::Spoofed)?;
        }
        table.dropped(POD, &masqueraded, DropReason::Spoofed)?;
        ensure!(table.lab.flow_entries()? == before, "{world:?}: a spoofed segment changed an entry");
    }
    Ok(())
}

#[test]
fn a_first_fragment_with_a_wrong_source_is_not_kept() -> Result<()> {
    let mut table = Table::new("pks3")?;
    for world in World::ALL {
        let long = |from, to| Frame::new(from, to, Body::Udp(vec![7; 64]));
        for (program, source, target) in [
            (POD, world.client(), world.b()),
            (POD, world.elsewhere(), world.b()),
            (FROM_OUTSIDE, world.a(), world.b()),
            (FROM_OUTSIDE, world.node(), world.b()),
        ] {
            let [first, later] =
                pieces(&long(at(source, 1000), at(target, 80)), 321, &[0, 32]).try_into().expect("two");
            let (verdict, _) = table.lab.run(program, &first)?;
            ensure!(verdict == Verdict::Drop(DropReason::Spoofed), "{program} {verdict:?}");
            let (verdict, _) = table.lab.run(program, &later)?;
            ensure!(verdict == Verdict::Wait, "{program}: the later fragment found ports, {verdict:?}");
        }
    }
    Ok(())
}

fn icmp(world: World, from: &str, to: &str, kind: u8, hops: u8) -> Result<Frame> {
    let body = Body::Icmp { kind, code: 0, word: [0; 4], rest: vec![0; 24] };
    let parse = |text: &str| anyhow::Ok(at(text.parse()?, 0));
    let (from, to) = if world.is_v4() { (at(world.a(), 0), parse(to)?) } else { (parse(from)?, parse(to)?) };
    Ok(Frame { hops, ..Frame::new(from, to, body) })
}

#[test]
fn pods_are_no_routers_and_solicit_only_on_their_link() -> Result<()> {
    let mut table = Table::new("pks4")?;
    let [v4, v6] = World::ALL;
    let own = v6.a().to_string();
    for source in ["fe80::7", &own, "::"] {
        for kind in [134, 137] {
            for to in ["ff02::1", &v6.node().to_string(), &v6.b().to_string()] {
                table.dropped(POD, &icmp(v6, source, to, kind, 255)?, DropReason::Router)?;
            }
        }
    }
    for (kind, hops) in [(133, 255), (135, 255), (136, 255), (143, 1), (131, 1)] {
        let packet = icmp(v6, "fe80::7", "ff02::2", kind, hops)?;
        table.row(POD, &packet, Verdict::Pass, &packet)?;
        // From farther away, or of another kind.
        table.dropped(POD, &Frame { hops: 64, ..packet }, DropReason::Spoofed)?;
    }
    table.dropped(POD, &icmp(v6, "fe80::7", "ff02::1", 200, 255)?, DropReason::Spoofed)?;
    for kind in [5, 9] {
        table.dropped(POD, &icmp(v4, "", "224.0.0.1", kind, 255)?, DropReason::Router)?;
    }
    Ok(())
}

#[test]
fn an_error_comes_only_from_an_end_of_the_flow_and_to_the_other() -> Result<()> {
    let mut table = Table::new("pks5")?;
    each(|world, proto, number| {
        let (a, elsewhere) = (at(world.a(), number), at(world.elsewhere(), 80));
        let known = Frame::new(a, elsewhere, opening(proto));
        table.row(POD, &known, Verdict::Redirect, &known)?;
        let error = |by, to, about: &Frame| {
            let (kind, code) = if world.is_v4() { (3, 3) } else { (1, 4) };
            let body = Body::Icmp { kind, code, word: [0; 4], rest: about.packet() };
            Frame::new(at(by, 0), at(to, 0), body)
        };
        // `b` is not the end that the packet went to.
        table.dropped(POD, &error(world.b(), world.a(), &known), DropReason::Spoofed)?;
        // The packet's own source may say what it got back, and only to the one that sent it.
        let answer = known.answer(data(proto));
        let right = error(world.a(), world.elsewhere(), &answer);
        table.row(POD, &right, Verdict::Redirect, &right)?;
        // To another receiver it is an error about no flow: policy decides.
        let wrong = error(world.a(), world.closed(), &answer);
        table.dropped(POD, &wrong, DropReason::PolicyIngress)
    })
}

#[test]
fn an_ipv4_address_in_an_ipv6_header_is_dropped() -> Result<()> {
    let mut table = Table::new("pks6")?;
    let [v4, v6] = World::ALL;
    let mapped = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(ip) => ip.octets(),
    };
    for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
        for (source, destination) in [(v4.a(), v4.b()), (v4.a(), v6.b()), (v6.a(), v4.b())] {
            let mut bytes = Frame::new(at(v6.a(), 9), at(v6.b(), 80), opening(proto)).bytes();
            bytes[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&mapped(source));
            bytes[ETHERNET + 24..ETHERNET + 40].copy_from_slice(&mapped(destination));
            for program in [POD, TO_POD, FROM_OUTSIDE, TO_OUTSIDE] {
                let (verdict, _) = table.lab.run(program, &bytes)?;
                ensure!(verdict == Verdict::Drop(DropReason::Malformed), "{program} {proto:?}: {verdict:?}");
            }
        }
    }
    Ok(())
}

/// The packet with so many headers of destination options in front of its message.
fn with_options(frame: &Frame, count: usize) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let message = bytes.split_off(ETHERNET + 40);
    let proto = bytes[ETHERNET + 6];
    if count > 0 {
        bytes[ETHERNET + 6] = 60;
    }
    let length = u16::from_be_bytes([bytes[ETHERNET + 4], bytes[ETHERNET + 5]]) + 8 * count as u16;
    bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    for i in 0..count {
        let next = if i + 1 == count { proto } else { 60 };
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(message);
    bytes
}

#[test]
fn extension_headers_hide_no_transport_header() -> Result<()> {
    let mut table = Table::new("pks7")?;
    let [_, v6] = World::ALL;
    let packet = udp(at(v6.a(), 40_100), at(v6.closed(), 80));
    for (count, reason) in
        [(1, DropReason::PolicyIngress), (4, DropReason::PolicyIngress), (5, DropReason::Malformed)]
    {
        let (verdict, _) = table.lab.run(POD, &with_options(&packet, count))?;
        ensure!(verdict == Verdict::Drop(reason), "{count} headers: {verdict:?}");
    }
    // In a later fragment the same bytes are data.
    let open = Frame::new(at(v6.a(), 40_101), at(v6.vip(), port::LOCAL), Body::Udp(vec![0xff; 80]));
    let split = |bytes: &[u8]| {
        let (head, message) = bytes.split_at(ETHERNET + 40);
        let piece = |part: &[u8], place: u16, more: bool| {
            let mut piece = head.to_vec();
            piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut piece[ETHERNET + 6], 44);
            piece.extend([next, 0]);
            piece.extend((place | u16::from(more)).to_be_bytes());
            piece.extend(77_u32.to_be_bytes());
            piece.extend(part);
            piece
        };
        [piece(&message[..40], 0, true), piece(&message[40..], 40, false)]
    };
    let translated = open.to(at(v6.b(), port::BACKEND));
    let (sent, wanted) = (split(&with_options(&open, 1)), split(&with_options(&translated, 1)));
    for (sent, wanted) in sent.iter().zip(&wanted) {
        let (verdict, out) = table.lab.run(POD, sent)?;
        ensure!(
            verdict == Verdict::Redirect && out == *wanted,
            "{verdict:?} {out:02x?} instead of {wanted:02x?}"
        );
    }
    Ok(())
}

#[test]
fn a_node_without_ipv6_is_not_the_unspecified_address() -> Result<()> {
    let [v4, v6] = World::ALL;
    let mut table = Table::with(Lab::of("pks8", &[v4], false)?);
    let packet = udp(at(std::net::Ipv6Addr::UNSPECIFIED.into(), 9), at(v6.closed(), 80));
    table.dropped(FROM_OUTSIDE, &packet, DropReason::PolicyIngress)?;
    // What no interface brought is the node's own; what came by the uplink is not.
    let uplink = table.lab.interface("up0")?;
    table.lab.at = At { interface: 0, came_by: uplink };
    table.dropped(TO_POD, &packet, DropReason::PolicyIngress)?;
    table.lab.at = At::default();
    table.row(TO_POD, &packet, Verdict::Pass, &packet)
}

/// The lab with an overlay and another node.
fn overlaid(name: &str) -> Result<Table> {
    let mut lab = Lab::of(name, &World::ALL, true)?;
    lab.node.apply(&World::ALL.map(|world| Write::PutNode(Addr::from(world.other_node()))))?;
    // Nodes are outside of an overlay.
    let nodes = World::ALL.map(|world| Write::DeleteCluster { prefix_bits: 128, addr: world.node().into() });
    lab.node.apply(&nodes)?;
    Ok(Table::with(lab))
}

#[test]
fn the_overlays_port_is_for_nodes_alone() -> Result<()> {
    let mut table = overlaid("pks9")?;
    let mut set = 1000;
    for world in World::ALL {
        let (a, tunnel) = (at(world.a(), 4444), OVERLAY_PORT);
        for to in [world.node(), world.other_node(), world.client()] {
            table.dropped(POD, &udp(a, at(to, tunnel)), DropReason::Overlay)?;
            let other = udp(a, at(to, tunnel + 1));
            table.row(POD, &other, Verdict::Pass, &other)?;
        }
        let inside = udp(a, at(world.remote(), tunnel));
        table.row(POD, &inside, Verdict::Redirect, &inside)?;
        // A service may have a node as its endpoint.
        for (backend, frontend) in [(world.node(), 90), (world.other_node(), 91)] {
            set += 1;
            let backend = Backend { addr: backend.into(), port: Be16::new(tunnel), reserved: 0 };
            let value = ServiceValue { set, count: 1, service: set, ..ServiceValue::default() };
            let key = |addr: std::net::IpAddr, scope| {
                Write::PutService(
                    ServiceKey { addr: addr.into(), port: Be16::new(frontend), proto: Proto::UDP, scope },
                    value,
                )
            };
            let frontends = [key(world.vip(), Scope::INTERNAL), key(world.node(), Scope::EXTERNAL)];
            let writes: Vec<Write> = Write::backend_set(set, &[backend]).chain(frontends).collect();
            table.lab.node.apply(&writes)?;
            table.dropped(POD, &udp(a, at(world.vip(), frontend)), DropReason::Overlay)?;
            let outside = udp(at(world.client(), 4444), at(world.node(), frontend));
            table.dropped(FROM_OUTSIDE, &outside, DropReason::Overlay)?;
        }
        let from = |source| udp(at(source, 50_000), at(world.node(), tunnel));
        table.row(FROM_OUTSIDE, &from(world.other_node()), Verdict::Pass, &from(world.other_node()))?;
        for source in [world.client(), world.remote(), world.a(), world.node()] {
            table.dropped(FROM_OUTSIDE, &from(source), DropReason::Overlay)?;
        }
        // Also at an address of the node that the programs do not know.
        let unknown = udp(at(world.client(), 50_000), at(world.stranger(), tunnel));
        table.dropped(FROM_OUTSIDE, &unknown, DropReason::Overlay)?;
    }
    Ok(())
}

#[test]
fn through_the_overlay_come_other_nodes_and_their_pods() -> Result<()> {
    let mut table = overlaid("pks0")?;
    each(|world, proto, number| {
        let device = if world.is_v4() { "skep-vxlan4" } else { "skep-vxlan6" };
        let interface = table.lab.interface(device)?;
        table.lab.at = At { interface, came_by: interface };
        for (source, passes) in [
            (world.remote(), true),
            (world.other_node(), true),
            (world.a(), false),
            (world.elsewhere(), false),
            (world.node(), false),
            (world.client(), false),
        ] {
            let packet = Frame::new(at(source, number), at(world.b(), 80), opening(proto));
            match passes {
                true => table.row(FROM_OUTSIDE, &packet, Verdict::Redirect, &packet)?,
                false => table.dropped(FROM_OUTSIDE, &packet, DropReason::Spoofed)?,
            }
        }
        Ok(())
    })
}

/// A client's packets come by the uplink, also those of a flow that they have opened there.
#[test]
fn through_the_overlay_come_no_packets_of_flows_from_outside() -> Result<()> {
    let mut table = overlaid("pksb")?;
    let uplink = table.lab.interface("up0")?;
    each(|world, proto, number| {
        let overlay = table.lab.interface(if world.is_v4() { "skep-vxlan4" } else { "skep-vxlan6" })?;
        for to in [
            at(world.b(), 80),
            at(world.node(), port::NODE + port::LOCAL),
            at(world.node(), port::NODE + port::REMOTE),
        ] {
            let packet = Frame::new(at(world.client(), number), to, opening(proto));
            table.lab.at = At { interface: uplink, came_by: uplink };
            let (verdict, _) = table.run(FROM_OUTSIDE, &packet)?;
            ensure!(verdict == Verdict::Redirect, "{to}: {verdict:?} for a flow that opens");
            table.lab.at = At { interface: overlay, came_by: overlay };
            table.dropped(FROM_OUTSIDE, &packet, DropReason::Spoofed).with_context(|| to.to_string())?;
        }
        Ok(())
    })
}

#[test]
fn what_the_node_forwards_has_a_pods_address_only_from_that_pod() -> Result<()> {
    let mut table = Table::new("pksa")?;
    let uplink = table.lab.interface("up0")?;
    each(|world, proto, number| {
        let to_b = |source| Frame::new(at(source, number), at(world.b(), 80), opening(proto));
        for came_by in [uplink, 7] {
            table.lab.at = At { interface: 0, came_by };
            for source in [world.a(), world.elsewhere()] {
                table.dropped(TO_POD, &to_b(source), DropReason::Spoofed)?;
            }
        }
        table.lab.at = At { interface: 0, came_by: uplink };
        table.dropped(TO_POD, &to_b(world.node()), DropReason::Spoofed)?;
        for (source, came_by) in
            [(world.a(), 1), (world.elsewhere(), 9), (world.client(), uplink), (world.node(), 0)]
        {
            table.lab.at = At { interface: 0, came_by };
            table
                .row(TO_POD, &to_b(source), Verdict::Pass, &to_b(source))
                .with_context(|| format!("{came_by}"))?;
        }
        Ok(())
    })
}
