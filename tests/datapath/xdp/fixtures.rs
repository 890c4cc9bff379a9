//! Frames that are forwarded: what comes out, to the last checksum, there and back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use skep_abi::{SNAT_PORT_MAX, SNAT_PORT_MIN};

use super::packet::{Family, L3, Transport, Wire};
use super::uplink::{MANY_BACKENDS, NODE_MAC, ROUTER_MAC, TX, Uplink};

/// Sends the frame and checks all that is not the choice of a port or a backend.
fn forwarded(uplink: &mut Uplink, wire: &Wire) -> Result<Wire> {
    let (verdict, out) = uplink.run(&wire.bytes()?)?;
    ensure!(verdict == TX, "verdict {verdict} for {wire:?}");
    let got = Wire::read(&out)?;
    let port = got.source.port();
    ensure!((SNAT_PORT_MIN..=SNAT_PORT_MAX).contains(&port), "source port {port}");
    let expected = Wire {
        macs: [ROUTER_MAC, NODE_MAC],
        source: SocketAddr::new(wire.family.node(), port),
        destination: got.destination,
        ttl: wire.ttl - 1,
        ..wire.clone()
    };
    ensure!(got == expected, "{got:?}, not {expected:?}");
    Ok(got)
}

/// Sends an answer to what was forwarded.
fn answered(uplink: &mut Uplink, asked: &Wire, forwarded: &Wire) -> Result<()> {
    let answer = forwarded.answer();
    let (verdict, out) = uplink.run(&answer.bytes()?)?;
    ensure!(verdict == TX, "verdict {verdict} for {answer:?}");
    let (source, destination) = (asked.destination, asked.source);
    let expected = Wire { macs: [ROUTER_MAC, NODE_MAC], source, destination, ttl: answer.ttl - 1, ..answer };
    let got = Wire::read(&out)?;
    ensure!(got == expected, "{got:?}, not {expected:?}");
    Ok(())
}

#[test]
fn a_flow_goes_there_and_back_with_whole_checksums() -> Result<()> {
    let mut uplink = Uplink::new("sxway")?;
    let mut port = 1_024;
    for family in Family::ALL {
        for transport in Transport::ALL {
            for size in [0, 1, 2, 3, 7, 64, 255, 256, 1_400] {
                for fill in [0x00, 0xff] {
                    port += 1;
                    let mut wire = Wire::new(family, transport, port);
                    wire.payload = vec![fill; size];
                    let sent = forwarded(&mut uplink, &wire)?;
                    ensure!(sent.destination == family.backend());
                    answered(&mut uplink, &wire, &sent)?;
                    wire.syn = false;
                    ensure!(forwarded(&mut uplink, &wire)? == Wire { syn: false, ..sent }, "the flow moved");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_last_hop_but_one_is_taken() -> Result<()> {
    let mut uplink = Uplink::new("sxttl")?;
    for (family, port) in Family::ALL.into_iter().zip(2_000..) {
        for (ttl, port) in [2, 3, 128, 255].into_iter().zip((port..).step_by(10)) {
            let wire = Wire { ttl, ..Wire::new(family, Transport::Udp, port) };
            forwarded(&mut uplink, &wire)?;
        }
    }
    Ok(())
}

/// Every sum that a checksum may have comes by, those among them that have two names in one's complement.
#[test]
fn any_checksum_is_kept_whole() -> Result<()> {
    let mut uplink = Uplink::new("sxsum")?;
    for family in Family::ALL {
        for transport in Transport::ALL {
            let mut wire = Wire::new(family, transport, 3_000);
            for n in (0..=u16::MAX).step_by(97).chain([u16::MAX]) {
                wire.payload = n.to_be_bytes().to_vec();
                let sent = forwarded(&mut uplink, &wire)?;
                answered(&mut uplink, &wire, &sent)?;
                // TC has what begins a connection whose entry is there.
                wire.syn = false;
            }
            // What makes the sum all ones, and its neighbours.
            wire.payload = vec![0, 0];
            let at = L3 + family.header() + if transport == Transport::Tcp { 16 } else { 6 };
            let bytes = wire.bytes()?;
            let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            for payload in [check, check.wrapping_add(1), check.wrapping_sub(1)] {
                wire.payload = payload.to_be_bytes().to_vec();
                let sent = forwarded(&mut uplink, &wire)?;
                answered(&mut uplink, &wire, &sent)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_datagram_without_checksum_stays_without_and_a_wrong_checksum_stays_wrong() -> Result<()> {
    let mut uplink = Uplink::new("sxnone")?;
    let udp = L3 + Family::V4.header() + 6;
    let mut frame = Wire::new(Family::V4, Transport::Udp, 4_000).bytes()?;
    frame[udp..udp + 2].fill(0);
    let (verdict, out) = uplink.run(&frame)?;
    ensure!(verdict == TX && out[udp..udp + 2] == [0, 0], "{out:02x?}");
    for family in Family::ALL {
        for transport in Transport::ALL {
            let at = L3 + family.header() + if transport == Transport::Tcp { 16 } else { 6 };
            let mut frame = Wire::new(family, transport, 4_001).bytes()?;
            frame[at] ^= 0x5a;
            let (verdict, out) = uplink.run(&frame)?;
            ensure!(verdict == TX);
            ensure!(Wire::read(&out).is_err(), "a wrong checksum was made right");
        }
    }
    Ok(())
}

#[test]
fn a_client_end_has_one_backend_and_many_share_evenly() -> Result<()> {
    let mut uplink = Uplink::new("sxmany")?;
    for family in Family::ALL {
        let mut shares: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for port in 5_000..5_800 {
            let mut wire = Wire::new(family, Transport::Udp, port);
            wire.destination.set_port(MANY_BACKENDS);
            let sent = forwarded(&mut uplink, &wire)?;
            *shares.entry(sent.destination.ip()).or_default() += 1;
            // TCP and UDP of one end are two flows, and may differ; the same flow may not.
            ensure!(forwarded(&mut uplink, &wire)? == sent);
        }
        // 100 each is the mean; five standard deviations are 47.
        ensure!(shares.len() == 8 && shares.values().all(|n| n.abs_diff(100) < 47), "{shares:?}");
    }
    Ok(())
}

#[test]
fn a_port_used_again_after_both_sides_closed_is_a_new_flow() -> Result<()> {
    let mut uplink = Uplink::new("sxagain")?;
    for family in Family::ALL {
        let open = Wire::new(family, Transport::Tcp, 6_000);
        let first = forwarded(&mut uplink, &open)?;
        let close = Wire { syn: false, fin: true, ..open.clone() };
        let closed = forwarded(&mut uplink, &close)?;
        ensure!(closed.source == first.source, "a closing packet is of the flow");
        let (verdict, _) = uplink.run(&Wire { fin: true, ..closed.answer() }.bytes()?)?;
        ensure!(verdict == TX);
        // The closed flow keeps its port for late packets, so a new one has another.
        let second = forwarded(&mut uplink, &open)?;
        ensure!(second.source != first.source, "the closed flow was found again");
        answered(&mut uplink, &open, &second)?;
    }
    Ok(())
}
