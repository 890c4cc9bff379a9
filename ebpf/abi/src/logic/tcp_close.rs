//! When a TCP connection is closed (RFC 9293, 3.6), by the FINs of both ends and their acknowledgements.

use crate::{TCP_ACK, TCP_FIN};

/// What of a segment matters. Numbers are in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// TCP flags of the header.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// Bytes of payload; `None`: the packet does not have the bytes that its IP header announces.
    pub payload: Option<u32>,
}

/// The connection as the packets so far show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The number that [`Close::Expect`] gave last; 0: none.
    pub fin_ack: u32,
    /// TCP flags of the segment's sender so far, the segment's own included.
    pub sender_flags: u8,
    /// TCP flags of its receiver so far.
    pub receiver_flags: u8,
}

/// What follows from the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Nothing.
    Nothing,
    /// The connection ends when the FIN is acknowledged by this number; 0: the end cannot be known, the entry expires.
    Expect(u32),
    /// Both FINs are acknowledged: the entry may go.
    Done,
}

/// Decides on a segment of a connection that no packet of is lost between this place and the receiver.
///
/// The later FIN acknowledges the earlier one; so its own acknowledgement is the last segment. If the FINs cross each
/// other, neither acknowledges the other, and the entry expires.
#[inline(always)]
pub const fn close(connection: Connection, segment: Segment) -> Close {
    if segment.flags & TCP_ACK == 0 {
        return Close::Nothing;
    }
    let acknowledges = segment.acknowledged == connection.fin_ack;
    if segment.flags & TCP_FIN == 0 {
        let done = acknowledges && connection.sender_flags & connection.receiver_flags & TCP_FIN != 0;
        return if done { Close::Done } else { Close::Nothing };
    }
    match segment.payload {
        // The FIN itself counts as one (RFC 9293, 3.4).
        Some(payload) if connection.receiver_flags & TCP_FIN == 0 || acknowledges => {
            Close::Expect(segment.sequence.wrapping_add(payload).wrapping_add(1))
        }
        _ => Close::Expect(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connection's entry, and what the segments of its end make of it.
    #[derive(Default)]
    struct Entry {
        fin_ack: u32,
        flags: [u8; 2],
        gone: bool,
    }

    impl Entry {
        fn receive(&mut self, sender: usize, segment: Segment) {
            self.flags[sender] |= segment.flags;
            let (sender_flags, receiver_flags) = (self.flags[sender], self.flags[1 - sender]);
            match close(Connection { fin_ack: self.fin_ack, sender_flags, receiver_flags }, segment) {
                Close::Nothing => {}
                Close::Expect(number) => self.fin_ack = number,
                Close::Done => self.gone = true,
            }
        }
    }

    fn segment(flags: u8, sequence: u32, acknowledged: u32, payload: u32) -> Segment {
        Segment { flags, sequence, acknowledged, payload: Some(payload) }
    }

    proptest! {
        #[test]
        fn an_orderly_end_is_done_with_the_last_acknowledgement(a: u32, b: u32, length in 0..2_000u32) {
            let a_end = a.wrapping_add(length + 1);
            let b_end = b.wrapping_add(1);
            // An acknowledgement number of 0 is no number here: such a connection expires.
            prop_assume!(a_end != 0 && b_end != 0 && b != a_end);
            let mut entry = Entry::default();
            entry.receive(0, segment(TCP_FIN | TCP_ACK, a, b, length));
            entry.receive(1, segment(TCP_ACK, b, a_end, 0));
            prop_assert!(!entry.gone, "half-closed");
            entry.receive(1, segment(TCP_FIN | TCP_ACK, b, a_end, 0));
            prop_assert!(!entry.gone, "the later FIN is not acknowledged");
            entry.receive(0, segment(TCP_ACK, a_end, b_end, 0));
            prop_assert!(entry.gone);
        }

        #[test]
        fn fins_that_cross_leave_the_entry_to_expire(a: u32, b: u32) {
            let (a_end, b_end) = (a.wrapping_add(1), b.wrapping_add(1));
            prop_assume!(a_end != 0 && b_end != 0 && a != b && a != b_end && b != a_end);
            let mut entry = Entry::default();
            entry.receive(0, segment(TCP_FIN | TCP_ACK, a, b, 0));
            entry.receive(1, segment(TCP_FIN | TCP_ACK, b, a, 0));
            entry.receive(0, segment(TCP_ACK, a_end, b_end, 0));
            entry.receive(1, segment(TCP_ACK, b_end, a_end, 0));
            prop_assert!(!entry.gone);
        }

        #[test]
        fn one_fin_never_ends_it(sequence: u32, acknowledged: u32, fin_ack: u32, receiver in 0..u8::MAX) {
            let receiver = receiver & !TCP_FIN;
            let connection = Connection { fin_ack, sender_flags: TCP_FIN | TCP_ACK, receiver_flags: receiver };
            prop_assert_ne!(close(connection, segment(TCP_ACK, sequence, acknowledged, 0)), Close::Done);
        }

        #[test]
        fn a_segment_without_ack_changes_nothing(flags: u8, sequence: u32, fin_ack: u32, sender_flags: u8, receiver_flags: u8) {
            let segment = segment(flags & !TCP_ACK, sequence, fin_ack, 0);
            prop_assert_eq!(close(Connection { fin_ack, sender_flags, receiver_flags }, segment), Close::Nothing);
        }
    }

    #[test]
    fn a_truncated_fin_is_none_to_wait_for() {
        let cut = Segment { flags: TCP_FIN | TCP_ACK, sequence: 1, acknowledged: 2, payload: None };
        let connection = Connection { fin_ack: 0, sender_flags: TCP_FIN, receiver_flags: 0 };
        assert_eq!(close(connection, cut), Close::Expect(0));
    }
}
