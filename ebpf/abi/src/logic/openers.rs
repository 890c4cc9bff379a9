//! Which flows keep their entries while others open new ones.
//!
//! In: the signals of a flow's entries. Out: whether both ends have accepted the flow, and who holds it: its opener's interface.
//! A flow that is settled is kept, as long as its holder has not too many; all others lose their entries to newer ones.

use super::lifetime::Kind;
use crate::{Flow, Proto, TCP_ACK};

/// Of the entries, the flows that no pod can take: so many per cent of `CONNTRACK` may be flows that pods and clients opened and
/// without an answer yet.
const OPENERS_SHARE: u32 = 8;
/// What one CPU has at least.
const OPENERS_MIN: u32 = 4_096;

/// Keys in the ring of each of `cpus` CPUs, for a `CONNTRACK` of `entries`.
pub const fn ring_len(entries: u32, cpus: u32) -> u32 {
    let all = entries / OPENERS_SHARE;
    let each = all / if cpus == 0 { 1 } else { cpus };
    let least = if all < OPENERS_MIN { all } else { OPENERS_MIN };
    let len = if each > least { each } else { least };
    if len == 0 { 1 } else { len }
}

/// Flows of one pod that are kept, of two entries each at most: a quarter of `CONNTRACK`.
pub const fn pod_share(entries: u32) -> u32 {
    entries / 8
}

/// Flows that are kept and that no pod of this node opened: half of `CONNTRACK`.
pub const fn outside_share(entries: u32) -> u32 {
    entries / 4
}

/// Whether both ends have accepted the flow: in TCP and SCTP its opener has acknowledged what the other end did. The entries of
/// a flow have the same end as its opener; each sees one direction or both.
#[inline(always)]
pub const fn is_settled(proto: Proto, flow: &Flow, partner: Option<&Flow>) -> bool {
    let (mut opener, mut other) = signals(flow);
    let kind = Kind::of(flow.flags);
    let has_handshake = matches!(proto, Proto::TCP | Proto::SCTP);
    match partner {
        // What the other end says does not pass this node.
        None if matches!(kind, Kind::OneWay) => return has_handshake && opener & TCP_ACK != 0,
        None if kind.needs_partner() => return false,
        None => {}
        Some(partner) => {
            let (more, more_of_other) = signals(partner);
            opener |= more;
            other |= more_of_other;
        }
    }
    if has_handshake { opener & other & TCP_ACK != 0 } else { other != 0 }
}

/// Signals of the opener, and of the other end.
#[inline(always)]
const fn signals(flow: &Flow) -> (u8, u8) {
    if flow.flags & Flow::FROM_HIGH != 0 {
        (flow.tcp_flags_high, flow.tcp_flags_low)
    } else {
        (flow.tcp_flags_low, flow.tcp_flags_high)
    }
}

/// The interface of the pod that opened the flow, or 0; `None`: another entry of the flow counts.
#[inline(always)]
pub const fn holder(flow: &Flow) -> Option<u32> {
    let from_high = flow.flags & Flow::FROM_HIGH != 0;
    let counts = match Kind::of(flow.flags) {
        Kind::Ahead | Kind::Orphan => false,
        // The entry of the opener's direction.
        Kind::Half => (flow.flags & Flow::REWRITE_HIGH != 0) == from_high,
        Kind::Whole | Kind::OneWay => true,
    };
    match (counts, from_high) {
        (false, _) => None,
        (true, true) => Some(flow.high_ifindex),
        (true, false) => Some(flow.low_ifindex),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{TCP_RST, TCP_SYN};

    const PROTOS: [Proto; 5] = [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP, Proto(47)];
    const HANDSHAKE: u8 = TCP_SYN | TCP_ACK;

    fn flow(flags: u32, low: u8, high: u8) -> Flow {
        Flow {
            flags,
            tcp_flags_low: low,
            tcp_flags_high: high,
            low_ifindex: 3,
            high_ifindex: 4,
            ..Flow::default()
        }
    }

    #[test]
    fn a_connection_is_settled_when_its_opener_has_acknowledged() {
        for (opener, other, settled) in [
            (0, 0, false),
            (TCP_SYN, 0, false),
            (TCP_SYN, HANDSHAKE, false),
            (TCP_ACK, 0, false),
            (HANDSHAKE, HANDSHAKE, true),
            (TCP_SYN, TCP_RST | TCP_ACK, false),
        ] {
            for proto in [Proto::TCP, Proto::SCTP] {
                assert_eq!(is_settled(proto, &flow(0, opener, other), None), settled, "{opener} {other}");
                assert_eq!(is_settled(proto, &flow(Flow::FROM_HIGH, other, opener), None), settled);
            }
        }
    }

    #[test]
    fn datagrams_are_settled_when_there_is_an_answer() {
        assert!(!is_settled(Proto::UDP, &flow(0, TCP_ACK, 0), None));
        assert!(is_settled(Proto::UDP, &flow(0, 0, TCP_ACK), None));
        assert!(!is_settled(Proto::UDP, &flow(Flow::FROM_HIGH, 0, TCP_ACK), None));
    }

    #[test]
    fn entries_that_see_one_direction_are_settled_together() {
        // In transit: the client's packets meet the one, the answers the other.
        let there = flow(Flow::TRANSIT | Flow::SOURCE | Flow::DESTINATION, HANDSHAKE, 0);
        let back = flow(Flow::TRANSIT | Flow::SOURCE | Flow::DESTINATION | Flow::FROM_HIGH, HANDSHAKE, 0);
        for (one, other) in [(&there, &back), (&back, &there)] {
            assert!(is_settled(Proto::TCP, one, Some(other)));
            assert!(!is_settled(Proto::TCP, one, None));
        }
        assert_eq!((holder(&there), holder(&back)), (Some(3), None));
        let alias = flow(Flow::ALIAS | Flow::DESTINATION, HANDSHAKE, 0);
        let own = flow(Flow::SOURCE | Flow::REWRITE_HIGH, HANDSHAKE, HANDSHAKE);
        assert!(is_settled(Proto::TCP, &alias, Some(&own)) && is_settled(Proto::TCP, &own, Some(&alias)));
        assert_eq!((holder(&alias), holder(&own)), (None, Some(3)));
    }

    #[test]
    fn a_direct_return_is_settled_by_the_clients_acknowledgement() {
        assert!(!is_settled(Proto::TCP, &flow(Flow::DSR, TCP_SYN, 0), None));
        assert!(is_settled(Proto::TCP, &flow(Flow::DSR, HANDSHAKE, 0), None));
        assert!(!is_settled(Proto::UDP, &flow(Flow::DSR, TCP_ACK, 0), None));
    }

    proptest! {
        #[test]
        fn openers_are_a_small_part(entries in 1..10_000_000u32, cpus in 0..512u32) {
            let len = ring_len(entries, cpus);
            prop_assert!(len >= 1 && len <= (entries / OPENERS_SHARE).max(1));
            prop_assert!(u64::from(len) * u64::from(cpus) <= u64::from(entries / OPENERS_SHARE).max(u64::from(cpus) * u64::from(OPENERS_MIN)));
        }

        /// Nobody has both ends settle by sending alone.
        #[test]
        fn what_one_end_sends_settles_nothing(flags: u8, from_high: bool, proto in prop::sample::select(&PROTOS[..])) {
            let flow = if from_high { flow(Flow::FROM_HIGH, 0, flags) } else { flow(0, flags, 0) };
            prop_assert!(!is_settled(proto, &flow, None));
        }
    }
}
