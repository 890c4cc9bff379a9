//! The end of a TCP connection between two pods of this node: its entry is removed with the last acknowledgement.
//!
//! No link after this hook loses packets, so the entry is hardly ever needed again. A segment that is retransmitted all the
//! same, because its receiver had no room, gets a verdict like one that opens a flow. The next connection's entry then
//! reuses memory that is still in the CPU's cache; expiring entries would be spread over the whole table.

use aya_ebpf::programs::TcContext;
use skep_abi::logic::tcp_close::{self, Close, Connection, Segment};
use skep_abi::{Flow, Omission, Proto, TCP_ACK, TCP_FIN};

use crate::maps::CONNTRACK;
use crate::omission::omits;
use crate::packet::Packet;
use crate::{conntrack, openers};

/// Whether the packet may end the connection, so that [`close`] is called.
#[inline(always)]
pub(crate) fn may_close(packet: &Packet, flow: &Flow) -> bool {
    !omits(Omission::CLOSE) && (packet.tcp_flags & TCP_FIN != 0 || flow.extra != 0)
}

/// Updates the entry, or removes it when the connection is closed; see [`skep_abi::logic::tcp_close`].
#[inline(never)]
pub(crate) fn close(ctx: &TcContext, packet: &Packet, flow: &mut Flow) {
    let local = flow.low_ifindex != 0 && flow.high_ifindex != 0;
    if packet.proto != Proto::TCP || !local || !conntrack::is_plain(flow) || packet.tcp_flags & TCP_ACK == 0 {
        return;
    }
    let Ok(words) = ctx.load::<[u32; 3]>(packet.l4 + 4) else { return };
    let [sequence, acknowledged, offset] = words.map(u32::from_be);
    let header = offset >> 28 << 2;
    let payload = packet.transport_len(ctx).map(|len| len.wrapping_sub(header));
    let segment = Segment { flags: packet.tcp_flags, sequence, acknowledged, payload };
    let (low, high) = (flow.tcp_flags_low, flow.tcp_flags_high);
    let (sender_flags, receiver_flags) = if packet.from_high() { (high, low) } else { (low, high) };
    let connection = Connection { fin_ack: flow.extra, sender_flags, receiver_flags };
    match tcp_close::close(connection, segment) {
        Close::Nothing => {}
        Close::Expect(number) => flow.extra = number,
        Close::Done => {
            openers::release(flow);
            let _ = CONNTRACK.remove(&packet.key);
        }
    }
}
