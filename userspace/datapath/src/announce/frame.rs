//! ARP (RFC 826) and neighbour discovery (RFC 4861) as bytes: requests to answers. Pure; foreign bytes never panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// ff02::1 on Ethernet.
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_IPV6: [u8; 2] = [0x86, 0xdd];
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
const ARP_FORMAT: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Neighbour discovery never crosses a router (RFC 4861).
const HOP_LIMIT: u8 = 255;

/// The answer to an ARP request for an address of ours.
pub(super) fn answer_arp(frame: &[u8], mac: Mac, ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let arp = frame.get(14..42)?;
    if frame.get(12..14)? != ETHER_ARP || arp.get(..6)? != ARP_FORMAT || be16(arp, 6)? != REQUEST {
        return None;
    }
    let (requester, requester_ip, target): (Mac, Ipv4Addr, Ipv4Addr) =
        (take(arp, 8)?, take::<4>(arp, 14)?.into(), take::<4>(arp, 24)?.into());
    let is_request = requester != mac && requester_ip != target && ours(target.into());
    is_request.then(|| arp_frame(requester, mac, REPLY, target, requester, requester_ip))
}

/// The answer to a neighbour solicitation for an address of ours.
pub(super) fn answer_ndp(frame: &[u8], mac: Mac, ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let (header, icmp) = (frame.get(14..54)?, frame.get(54..)?);
    if frame.get(12..14)? != ETHER_IPV6 || *header.get(6)? != ICMPV6 || *header.get(7)? != HOP_LIMIT {
        return None;
    }
    let icmp = icmp.get(..usize::from(be16(header, 4)?))?;
    let (source, destination): (Ipv6Addr, Ipv6Addr) =
        (take::<16>(header, 8)?.into(), take::<16>(header, 24)?.into());
    let target: Ipv6Addr = take::<16>(icmp, 8)?.into();
    let is_solicitation = icmp.starts_with(&[SOLICITATION, 0]) && checksum(source, destination, icmp) == 0;
    let requester: Mac = take(frame, 6)?;
    if !is_solicitation || requester == mac || target.is_multicast() || !ours(target.into()) {
        return None;
    }
    // A requester without an address probes whether this one is free: the answer that it is not goes to all nodes.
    Some(match source.is_unspecified() {
        true => ndp_frame(ALL_NODES_MAC, mac, target, ALL_NODES, OVERRIDE),
        false => ndp_frame(requester, mac, target, source, SOLICITED | OVERRIDE),
    })
}

/// The frames that announce to the whole link that the address is here now.
pub(super) fn gratuitous(addr: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match addr {
        // Some hosts accept only the request, some only the reply; Linux accepts the reply as gratuitous only with the
        // sender's MAC as target too.
        IpAddr::V4(ip) => vec![
            arp_frame(BROADCAST, mac, REQUEST, ip, [0; 6], ip),
            arp_frame(BROADCAST, mac, REPLY, ip, mac, ip),
        ],
        IpAddr::V6(ip) => vec![ndp_frame(ALL_NODES_MAC, mac, ip, ALL_NODES, OVERRIDE)],
    }
}

/// The group that solicitations for the address are sent to.
pub(super) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn arp_frame(to: Mac, mac: Mac, operation: u16, ip: Ipv4Addr, target: Mac, target_ip: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 9] = [
        &to,
        &mac,
        &ETHER_ARP,
        &ARP_FORMAT,
        &operation.to_be_bytes(),
        &mac,
        &ip.octets(),
        &target,
        &target_ip.octets(),
    ];
    parts.concat()
}

fn ndp_frame(to: Mac, mac: Mac, ip: Ipv6Addr, destination: Ipv6Addr, flags: u8) -> Vec<u8> {
    // Type, code, checksum, flags, target, option 2: the target's link-layer address.
    let mut icmp = [&[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0], &ip.octets()[..], &[2, 1], &mac].concat();
    let sum = checksum(ip, destination, &icmp).to_be_bytes();
    if let Some(check) = icmp.get_mut(2..4) {
        check.copy_from_slice(&sum);
    }
    let length = u16::try_from(icmp.len()).unwrap_or(0).to_be_bytes();
    let parts: [&[u8]; 9] = [
        &to,
        &mac,
        &ETHER_IPV6,
        &[0x60, 0, 0, 0],
        &length,
        &[ICMPV6, HOP_LIMIT],
        &ip.octets(),
        &destination.octets(),
        &icmp,
    ];
    parts.concat()
}

/// The checksum of an ICMPv6 message with its pseudo-header; 0 for a message that contains the right one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let length = u32::try_from(icmp.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6], icmp].concat();
    let words = pseudo.chunks(2).map(|pair| match pair {
        [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
        [a] => u32::from(u16::from_be_bytes([*a, 0])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    take(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = [2, 0, 0, 0, 0, 1];
    const REQUESTER: Mac = [2, 0, 0, 0, 0, 9];

    fn ours(ip: IpAddr) -> bool {
        ["192.0.2.1", "2001:db8::1"].iter().any(|own| ip == own.parse::<IpAddr>().unwrap())
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// A solicitation as Linux sends it, with the requester's link-layer address.
    fn solicitation(source: &str, target: &str) -> Vec<u8> {
        let group = solicited_node(v6(target));
        let mut icmp =
            [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &v6(target).octets()[..], &[1, 1], &REQUESTER].concat();
        let sum = checksum(v6(source), group, &icmp).to_be_bytes();
        icmp[2..4].copy_from_slice(&sum);
        let [.., a, b, c] = group.octets();
        let parts: [&[u8]; 9] = [
            &[0x33, 0x33, 0xff, a, b, c],
            &REQUESTER,
            &ETHER_IPV6,
            &[0x60, 0, 0, 0],
            &[0, icmp.len() as u8],
            &[ICMPV6, HOP_LIMIT],
            &v6(source).octets(),
            &group.octets(),
            &icmp,
        ];
        parts.concat()
    }

    #[test]
    fn an_arp_request_for_ours_is_answered_to_the_requester() {
        let asked = |ip: &str, from: &str| {
            let request =
                arp_frame(BROADCAST, REQUESTER, REQUEST, from.parse().unwrap(), [0; 6], ip.parse().unwrap());
            answer_arp(&request, ME, ours)
        };
        let answer = asked("192.0.2.1", "192.0.2.9").unwrap();
        assert_eq!((&answer[..6], &answer[6..12], be16(&answer, 20)), (&REQUESTER[..], &ME[..], Some(REPLY)));
        assert_eq!((&answer[22..28], &answer[28..32]), (&ME[..], &[192, 0, 2, 1][..]));
        assert_eq!((&answer[32..38], &answer[38..42]), (&REQUESTER[..], &[192, 0, 2, 9][..]));
        // A probe for a free address is answered too.
        assert!(asked("192.0.2.1", "0.0.0.0").is_some());
        assert!(asked("192.0.2.2", "192.0.2.9").is_none());
        for own in gratuitous("192.0.2.1".parse().unwrap(), ME) {
            assert!(answer_arp(&own, ME, ours).is_none());
        }
    }

    #[test]
    fn a_solicitation_for_ours_is_answered_with_a_right_checksum() {
        let answer = answer_ndp(&solicitation("fe80::9", "2001:db8::1"), ME, ours).unwrap();
        let (source, destination) = (v6("2001:db8::1"), v6("fe80::9"));
        assert_eq!(
            (&answer[..6], &answer[22..38], &answer[38..54]),
            (&REQUESTER[..], &source.octets()[..], &destination.octets()[..])
        );
        assert_eq!((answer[54], answer[58]), (ADVERTISEMENT, SOLICITED | OVERRIDE));
        assert_eq!(
            (checksum(source, destination, &answer[54..]), &answer[78..86]),
            (0, &[&[2, 1][..], &ME].concat()[..])
        );
        let probed = answer_ndp(&solicitation("::", "2001:db8::1"), ME, ours).unwrap();
        assert_eq!(
            (&probed[..6], &probed[38..54], probed[58]),
            (&ALL_NODES_MAC[..], &ALL_NODES.octets()[..], OVERRIDE)
        );
        assert!(answer_ndp(&solicitation("fe80::9", "2001:db8::2"), ME, ours).is_none());
        // From beyond a router, or with a wrong checksum.
        let mut far = solicitation("fe80::9", "2001:db8::1");
        far[21] = 64;
        assert!(answer_ndp(&far, ME, ours).is_none());
        let mut damaged = solicitation("fe80::9", "2001:db8::1");
        damaged[80] ^= 1;
        assert!(answer_ndp(&damaged, ME, ours).is_none());
    }

    #[test]
    fn cut_frames_are_ignored() {
        let arp =
            arp_frame(BROADCAST, REQUESTER, REQUEST, [192, 0, 2, 9].into(), [0; 6], [192, 0, 2, 1].into());
        assert!((0..arp.len()).all(|end| answer_arp(&arp[..end], ME, ours).is_none()));
        let ndp = solicitation("fe80::9", "2001:db8::1");
        assert!((0..ndp.len()).all(|end| answer_ndp(&ndp[..end], ME, ours).is_none()));
        assert_eq!(solicited_node(v6("2001:db8::12:3456")), v6("ff02::1:ff12:3456"));
    }
}
