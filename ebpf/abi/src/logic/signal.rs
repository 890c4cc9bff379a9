//! What a packet says about its flow, as TCP flags: one state machine then serves every protocol.
//!
//! In: a message type. Out: SYN for what opens a flow, SYN and ACK for its acceptance, FIN and RST for its end, ACK for the
//! rest.

use crate::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

/// An SCTP packet, by its verification tag and the type of its first chunk (RFC 9260, 3.2 and 8.5). An INIT, an INIT ACK and
/// a SHUTDOWN COMPLETE are alone in their packets. An ABORT after another chunk is not noticed: the flow then expires.
#[inline(always)]
pub const fn sctp(tag: u32, chunk: u8) -> u8 {
    match chunk {
        // With a tag the receiver discards it.
        1 if tag != 0 => 0,
        1 => TCP_SYN,
        2 => TCP_SYN | TCP_ACK,
        // ABORT, SHUTDOWN COMPLETE.
        6 | 14 => TCP_RST,
        // SHUTDOWN, SHUTDOWN ACK.
        7 | 8 => TCP_FIN | TCP_ACK,
        _ => TCP_ACK,
    }
}

/// An ICMP echo: the request or the reply.
#[inline(always)]
pub const fn echo(request: bool) -> u8 {
    if request { TCP_SYN } else { TCP_ACK }
}

/// A UDP datagram.
pub const DATAGRAM: u8 = TCP_ACK;
