//! Reports to the agent: a counter for every drop; an event for every drop and every flow that opens, if the agent wants them.
//!
//! In: a packet with the rule and the service that its decision named. Out: an element of `DROPS` raised, an event in `FLOWS`. Each
//! kind of event has a rate on each CPU; what exceeds it, or what the ring has no room for, is counted in `REPORTS`.
//!
//! Also the programs' own log, for their developers: what is above its level is dead code for the verifier.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use aya_log_ebpf::{debug, info, trace};
use skep_abi::logic::gcra::{self, Slack};
use skep_abi::{
    Addr, Be16, DropReason, EventKind, FlowEvent, Hook, OBSERVE_ALL, OBSERVE_DROPS, Proto, SocketAddr,
    drops_index,
};

use crate::maps::{self, DROPS, FLOWS, REPORTS};
use crate::packet::Packet;
use crate::{clock, interface};

const SECOND_NS: u64 = 1_000_000_000;
/// The time of one event at the rate, and of a burst.
const EVENT_NS: u64 = SECOND_NS / EventKind::PER_SECOND;
const SLACK: Slack = Slack { burst_ns: SECOND_NS, wait_ns: 0 };

/// Counts and reports a drop of the packet in [`maps::scratch`].
#[inline(never)]
pub(crate) fn dropped(ctx: &TcContext, hook: Hook, reason: DropReason) {
    count(hook, reason);
    // What was read of a packet of these is not complete.
    let is_read = !matches!(reason, DropReason::Malformed | DropReason::Frame);
    if wants(OBSERVE_DROPS) {
        send(ctx, hook, reason, is_read);
    }
}

/// Notes a drop in the programs' log, if it is to have drops. Otherwise the verifier removes the code; so in the other functions
/// of the log, each of which is small since the stack is.
#[inline(always)]
pub(crate) fn note_drop(ctx: &TcContext, hook: Hook, reason: DropReason) {
    if level_enabled(Level::Info) {
        log_drop(ctx, hook, reason);
        log_ends(ctx);
    }
}

/// Notes what becomes of the packet, if the log is to have every packet.
#[inline(always)]
pub(crate) fn note_action(ctx: &TcContext, hook: Hook, action: i32) {
    if level_enabled(Level::Trace) {
        log_action(ctx, hook, action);
        log_ends(ctx);
    }
}

/// Notes that the packet opened a flow, if the log is to have that.
#[inline(always)]
fn note_opened(ctx: &TcContext, hook: Hook) {
    if level_enabled(Level::Debug) {
        log_opened(ctx, hook);
        log_ends(ctx);
    }
}

#[inline(never)]
fn log_drop(ctx: &TcContext, hook: Hook, reason: DropReason) {
    info!(ctx, "dropped: hook {}, reason {}", hook.0, reason as u32);
}

#[inline(never)]
fn log_action(ctx: &TcContext, hook: Hook, action: i32) {
    trace!(ctx, "action {}: hook {}", action, hook.0);
}

#[inline(never)]
fn log_opened(ctx: &TcContext, hook: Hook) {
    let Some(packet) = maps::scratch() else { return };
    debug!(ctx, "opened: hook {}, rule {}, service {}", hook.0, packet.rule, packet.service);
}

/// The packet of the line before. Of one that is malformed they are those of an earlier packet.
#[inline(never)]
fn log_ends(ctx: &TcContext) {
    let Some(packet) = maps::scratch() else { return };
    info!(
        ctx,
        "protocol {}, {:i} port {} to {:i} port {}",
        packet.proto.0,
        packet.source.addr.octets(),
        packet.source.port.get(),
        packet.destination.addr.octets(),
        packet.destination.port.get()
    );
}

/// Reports that the packet in [`maps::scratch`] opened a flow.
#[inline(always)]
pub(crate) fn opened(ctx: &TcContext, hook: Hook) {
    send_opened(ctx, hook);
    note_opened(ctx, hook);
}

#[inline(never)]
fn send_opened(ctx: &TcContext, hook: Hook) {
    if wants(OBSERVE_ALL) {
        send(ctx, hook, DropReason::None, true);
    }
}

/// Counts and reports that a process was refused a connection to the frontend, before there is a packet.
#[inline(never)]
pub(crate) fn refused(reason: DropReason, addressed: &SocketAddr, proto: Proto, service: u32) {
    count(Hook::SOCKET, reason);
    if !wants(OBSERVE_DROPS) {
        return;
    }
    submit(
        EventKind::Dropped,
        FlowEvent {
            time: 0,
            source: Addr::UNSPECIFIED,
            destination: addressed.addr,
            source_port: Be16(0),
            destination_port: addressed.port,
            proto,
            hook: Hook::SOCKET,
            reason: reason as u16,
            rule: 0,
            service,
            ifindex: 0,
            length: 0,
        },
    );
}

#[inline(always)]
fn count(hook: Hook, reason: DropReason) {
    if let Some(count) = DROPS.get_ptr_mut(drops_index(hook, reason)) {
        // SAFETY: a per-CPU element: no other program writes it while this one runs.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
fn wants(level: u16) -> bool {
    maps::config().is_some_and(|config| config.observe >= level)
}

#[inline(always)]
fn send(ctx: &TcContext, hook: Hook, reason: DropReason, is_read: bool) {
    let Some(packet) = maps::scratch() else { return };
    let mut event = FlowEvent {
        hook,
        reason: reason as u16,
        ifindex: interface::here(ctx),
        length: ctx.len(),
        ..FlowEvent::default()
    };
    if is_read {
        describe(&mut event, packet);
    }
    let kind = if matches!(reason, DropReason::None) { EventKind::Opened } else { EventKind::Dropped };
    submit(kind, event);
}

#[inline(always)]
fn describe(event: &mut FlowEvent, packet: &Packet) {
    (event.rule, event.service) = (packet.rule, packet.service);
    if packet.is_error() {
        (event.source, event.destination) = (packet.outer_source, packet.outer_destination);
        event.proto = if packet.is_v4() { Proto::ICMP } else { Proto::ICMPV6 };
        return;
    }
    (event.source, event.destination) = (packet.source.addr, packet.destination.addr);
    (event.source_port, event.destination_port) = (packet.source.port, packet.destination.port);
    event.proto = packet.proto;
}

/// Sends the event if its kind is within its rate and the ring has room. A lost event never costs the packet.
#[inline(always)]
fn submit(kind: EventKind, event: FlowEvent) {
    // SAFETY: a per-CPU element of numbers. A socket's program that a packet's interrupts may lose a count.
    let Some(account) = REPORTS.get_ptr_mut(kind as u32).map(|account| unsafe { &mut *account }) else {
        return;
    };
    let now = clock::now_ns();
    let Some(turn) = gcra::turn(account.next, now, EVENT_NS, SLACK) else {
        account.limited += 1;
        return;
    };
    let Some(mut room) = FLOWS.reserve(0) else {
        account.full += 1;
        return;
    };
    account.next = turn.next;
    account.sent += 1;
    room.write(FlowEvent { time: now, ..event });
    room.submit(0);
}
