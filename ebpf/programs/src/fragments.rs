//! The ports of fragmented datagrams: only the first fragment carries them.
//!
//! In: a fragment that the parser read. Out: an entry made from a first fragment, and what a later one takes from it.

use aya_ebpf::bindings::BPF_ANY;
use skep_abi::{DropReason, FragmentKey, FragmentPorts, Proto};

use crate::maps::FRAGMENTS;
use crate::packet::Packet;

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source.addr,
        destination: packet.destination.addr,
        id: packet.fragment_id,
        proto: if packet.is_v4() { packet.proto } else { Proto(0) },
        reserved: [0; 3],
    }
}

/// Puts the entry of a first fragment, for the later ones. Call it once the packet's source is known to be right: else
/// anyone could replace the entries of others.
#[inline(always)]
pub(crate) fn keep(packet: &Packet) {
    if packet.is_fragment() && packet.has_transport() {
        put(packet);
    }
}

#[inline(never)]
fn put(packet: &Packet) {
    let ports = FragmentPorts {
        source: packet.source.port,
        destination: packet.destination.port,
        proto: packet.proto,
        kind: if packet.is_icmp() { packet.kind } else { 0 },
        reserved: 0,
    };
    // Without an entry the later fragments are dropped.
    let _ = FRAGMENTS.insert(key(packet), ports, BPF_ANY as u64);
}

/// Gives a later fragment the protocol and the ports of the first one.
#[inline(always)]
pub(crate) fn complete(packet: &mut Packet) -> Result<(), DropReason> {
    // SAFETY: the value is copied at once; a concurrent replacement can at worst mix two datagrams of one id.
    let first = unsafe { FRAGMENTS.get(key(packet)) }.ok_or(DropReason::Fragment)?;
    packet.source.port = first.source;
    packet.destination.port = first.destination;
    (packet.proto, packet.kind) = (first.proto, first.kind);
    Ok(())
}
