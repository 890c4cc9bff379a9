//! Messages that are made in per-CPU maps, since they do not fit on the stack. Any bytes are a value of each.

use skep_abi::{Addr, FlowKey, SocketAddr};

/// Holds lengths of [`Reply::quoted`] within bounds that the verifier sees.
pub(crate) const QUOTED_MASK: u32 = 511;
/// Bytes of an ICMP error that can change: its header, the quoted IP header, the ports and checksum after it.
pub(crate) const QUOTE_WINDOW: usize = 128;

/// The answer that rejects a packet; see [`crate::reject`].
#[repr(C)]
pub(crate) struct Reply {
    pub(crate) pseudo: PseudoHeader,
    /// The TCP header, or the first words of the ICMP message.
    pub(crate) header: [u32; 5],
    pub(crate) quoted_len: u32,
    pub(crate) quoted: [u8; QUOTED_MASK as usize + 5],
}

/// The pseudo-header of IPv6 (RFC 8200, 8.1). It serves for IPv4 too: the mark of a mapped address is 0xffff, twice,
/// which adds nothing to the sum.
#[repr(C)]
pub(crate) struct PseudoHeader {
    pub(crate) source: Addr,
    pub(crate) destination: Addr,
    pub(crate) len: u32,
    pub(crate) proto: u32,
}

/// An ICMP error before and after it is rewritten, to correct its checksum by the difference; see [`crate::icmp`].
#[repr(C)]
pub(crate) struct Quote {
    pub(crate) before: [u8; QUOTE_WINDOW],
    pub(crate) after: [u8; QUOTE_WINDOW],
    pub(crate) len: u32,
}

/// A search for a source port. See [`crate::ports`].
pub(crate) struct Search {
    /// Where answers will be looked up.
    pub(crate) key: FlowKey,
    /// The partner of the entry that is there already.
    pub(crate) partner: FlowKey,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// The end for which a port is claimed.
    pub(crate) local: SocketAddr,
    /// The port that is tried.
    pub(crate) port: u32,
    /// The last one that the last search of this CPU tried.
    pub(crate) last: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Which flows give up their ports: 0, or a constant of [`crate::ports`].
    pub(crate) scarce: u32,
    /// 1: answers come from the high end.
    pub(crate) from_high: u32,
    /// 1: a port was claimed; `local` has it.
    pub(crate) claimed: u32,
    pub(crate) now: u32,
}
