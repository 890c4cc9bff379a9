//! Frames that go up untouched: cut off, wrong, rare, or somebody else's work.

use anyhow::{Context, Result, ensure};

use super::packet::{Family, L3, PORT, Transport, Wire};
use super::uplink::{
    AFFINITY, EMPTY, KEEP_SOURCE, LOCAL, MANY_BACKENDS, NARROW, NO_NEIGHBOUR, NODE_MAC, ON_NODE,
    OTHER_INTERFACE, PASS, ROUTER_MAC, TX, Uplink,
};

fn goes_up(uplink: &mut Uplink, what: &str, frame: &[u8]) -> Result<()> {
    let (verdict, _) = uplink.run(frame).with_context(|| what.to_owned())?;
    ensure!(verdict == PASS, "{what}: verdict {verdict}");
    Ok(())
}

fn each(mut check: impl FnMut(Family, Transport) -> Result<()>) -> Result<()> {
    for family in Family::ALL {
        for transport in Transport::ALL {
            check(family, transport).with_context(|| format!("{family:?} {transport:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_frame_cut_off_within_its_headers_goes_up() -> Result<()> {
    let mut uplink = Uplink::new("sxcut")?;
    each(|family, transport| {
        let frame = Wire::new(family, transport, 7_000).bytes()?;
        let headers = L3 + family.header() + transport.header();
        // The kernel takes no test frame that is shorter than an Ethernet header.
        for length in L3..headers {
            goes_up(&mut uplink, &format!("{length} bytes"), &frame[..length])?;
        }
        // What is missing behind the headers is for the receiver to see.
        let (verdict, _) = uplink.run(&frame[..headers])?;
        ensure!(verdict == TX, "headers only");
        Ok(())
    })
}

/// Changes bytes of a frame that would be forwarded; the checksum does not matter, since it is not verified.
#[test]
fn a_frame_that_is_not_plain_goes_up() -> Result<()> {
    let mut uplink = Uplink::new("sxodd")?;
    each(|family, transport| {
        let frame = Wire::new(family, transport, 7_001).bytes()?;
        let mut up = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = frame.clone();
            change(&mut frame);
            goes_up(&mut uplink, what, &frame)
        };
        up("a VLAN tag", &|f| drop(f.splice(12..12, [0x81, 0x00, 0x00, 0x05])))?;
        up("an unknown ethertype", &|f| f[12..14].copy_from_slice(&[0x88, 0xb5]))?;
        up("no IP version", &|f| f[L3] &= 0x0f)?;
        up("another IP version", &|f| f[L3] ^= 0x20)?;
        up("no life left", &|f| f[family.ttl()] = 0)?;
        up("the last hop", &|f| f[family.ttl()] = 1)?;
        up("another node's MAC", &|f| f[..6].copy_from_slice(&ROUTER_MAC))?;
        up("the broadcast MAC", &|f| f[..6].fill(0xff))?;
        up("a multicast MAC", &|f| f[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]))?;
        let (proto, length) = if family == Family::V4 { (L3 + 9, L3 + 2) } else { (L3 + 6, L3 + 4) };
        for number in [0, 1, 2, 4, 41, 43, 44, 47, 50, 51, 58, 60, 89, 103, 132, 136, 255] {
            up(&format!("protocol {number}"), &|f| f[proto] = number)?;
        }
        up("no length", &|f| f[length..length + 2].fill(0))?;
        let short = if family == Family::V4 { 20 } else { 0 } + transport.header() as u16 - 1;
        up("a length within the headers", &|f| f[length..length + 2].copy_from_slice(&short.to_be_bytes()))?;
        let l4 = L3 + family.header();
        match transport {
            Transport::Tcp => up("a TCP header longer than the packet", &|f| f[l4 + 12] = 0xf0)?,
            Transport::Udp => up("another length in UDP", &|f| f[l4 + 5] ^= 1)?,
        }
        if (family, transport) == (Family::V6, Transport::Udp) {
            up("no checksum in IPv6", &|f| f[l4 + 6..l4 + 8].fill(0))?;
        }
        Ok(())
    })
}

#[test]
fn options_and_fragments_go_up() -> Result<()> {
    let mut uplink = Uplink::new("sxfrag")?;
    for transport in Transport::ALL {
        let plain = Wire::new(Family::V4, transport, 7_002).bytes()?;
        for words in 6..=15u8 {
            let mut frame = plain.clone();
            frame[L3] = 0x40 | words;
            frame.splice(L3 + 20..L3 + 20, vec![1; usize::from(words - 5) * 4]);
            goes_up(&mut uplink, &format!("a header of {words} words"), &frame)?;
        }
        for words in 0..5u8 {
            let mut frame = plain.clone();
            frame[L3] = 0x40 | words;
            goes_up(&mut uplink, &format!("a header of {words} words"), &frame)?;
        }
        for (what, field) in
            [("first", 0x2000u16), ("middle", 0x2010), ("last", 0x0010), ("farthest", 0x1fff)]
        {
            let mut frame = plain.clone();
            frame[L3 + 6..L3 + 8].copy_from_slice(&field.to_be_bytes());
            goes_up(&mut uplink, &format!("the {what} fragment"), &frame)?;
        }
        let plain = Wire::new(Family::V6, transport, 7_003).bytes()?;
        let next = plain[L3 + 6];
        for (kind, header) in [(0u8, [0u8; 8]), (43, [0; 8]), (60, [0; 8]), (44, [0, 0, 0, 1, 0, 0, 0, 9])] {
            let mut frame = plain.clone();
            frame[L3 + 6] = kind;
            let mut header = header;
            header[0] = next;
            frame.splice(L3 + 40..L3 + 40, header);
            let length = (frame.len() - L3 - 40) as u16;
            frame[L3 + 4..L3 + 6].copy_from_slice(&length.to_be_bytes());
            goes_up(&mut uplink, &format!("extension header {kind}"), &frame)?;
        }
    }
    Ok(())
}

#[test]
fn a_checksum_that_a_device_is_to_finish_goes_up() -> Result<()> {
    let mut uplink = Uplink::new("sxpart")?;
    each(|family, transport| {
        let mut frame = Wire::new(family, transport, 7_004).bytes()?;
        let l4 = L3 + family.header();
        let at = l4 + if transport == Transport::Tcp { 16 } else { 6 };
        let addresses = if family == Family::V4 { L3 + 12..L3 + 20 } else { L3 + 8..L3 + 40 };
        let length = (frame.len() - l4) as u32;
        let mut sum = length + if transport == Transport::Tcp { 6 } else { 17 };
        sum += frame[addresses].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[at..at + 2].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        goes_up(&mut uplink, "the sum of the pseudo header", &frame)?;
        frame[at + 1] ^= 1;
        ensure!(uplink.run(&frame)?.0 == TX, "one bit besides");
        Ok(())
    })
}

#[test]
fn what_tc_does_goes_up() -> Result<()> {
    let mut uplink = Uplink::new("sxup")?;
    each(|family, transport| {
        for (what, port) in [
            ("a backend on this node", LOCAL),
            ("session affinity", AFFINITY),
            ("a source to keep", KEEP_SOURCE),
            ("no backend", EMPTY),
            ("a next hop that is not known yet", NO_NEIGHBOUR),
            ("a way out of another interface", OTHER_INTERFACE),
            ("the node itself as backend", ON_NODE),
            ("no service", 31_999),
        ] {
            let mut wire = Wire::new(family, transport, 7_005);
            wire.destination.set_port(port);
            goes_up(&mut uplink, what, &wire.bytes()?)?;
        }
        let mut wire = Wire::new(family, transport, 7_006);
        wire.destination.set_port(NARROW);
        wire.payload = vec![0; 1_300];
        goes_up(&mut uplink, "more than the route takes", &wire.bytes()?)?;
        (wire.payload, wire.syn) = (vec![0; 500], false);
        ensure!(uplink.run(&wire.bytes()?)?.0 == TX, "what the route takes");
        let mut wire = Wire::new(family, transport, 7_007);
        wire.source.set_ip(family.node());
        goes_up(&mut uplink, "the node's own address as source", &wire.bytes()?)?;
        // This answer belongs to no request.
        let mut wire = Wire::new(family, transport, 7_008);
        (wire.source, wire.syn) = (family.backend(), false);
        wire.destination.set_port(61_234);
        goes_up(&mut uplink, "an answer without a question", &wire.bytes()?)?;
        Ok(())
    })
}

/// Random bytes at random places: a frame that is sent parses, is one hop older and of known ends.
#[test]
fn noise_is_never_sent_to_a_place_of_its_own_choice() -> Result<()> {
    let mut uplink = Uplink::new("sxfuzz")?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut sent = 0;
    each(|family, transport| {
        let frame = Wire::new(family, transport, 7_009).bytes()?;
        for _ in 0..2_000 {
            let mut frame = frame.clone();
            for _ in 0..1 + random() % 3 {
                let at = random() as usize % frame.len();
                frame[at] = random() as u8;
            }
            let length =
                if random() % 4 == 0 { L3 + random() as usize % (frame.len() - L3) } else { frame.len() };
            let (verdict, out) = uplink.run(&frame[..length])?;
            if verdict != TX {
                continue;
            }
            sent += 1;
            ensure!(out[..6] == ROUTER_MAC && out[6..12] == NODE_MAC, "{out:02x?}");
            ensure!(out[family.ttl()] == frame[family.ttl()] - 1);
            ensure!(frame[..6] == NODE_MAC && frame.len() >= length);
            let port = L3 + family.header() + 2;
            let addressed = u16::from_be_bytes([frame[port], frame[port + 1]]);
            ensure!((PORT..=MANY_BACKENDS).contains(&addressed), "not to a service: {frame:02x?}");
            ensure!(out[port..port + 2] == 8080u16.to_be_bytes(), "not to the backend: {out:02x?}");
        }
        Ok(())
    })?;
    ensure!(sent > 500, "only {sent} frames were sent");
    Ok(())
}
