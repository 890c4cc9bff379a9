//! Network policy: the verdicts of the local pods at a flow's two ends.
//!
//! In: a flow's ends. Out: a [`Decision`], and an entry that is valid under the generation in force.

use core::hint::cold_path;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use skep_abi::{
    Addr, Be16, CLASS_ANY, CLASS_OTHER, Direction, DropReason, Flow, Omission, Pod, SocketAddr, VerdictKey,
    isolated_bit, open_bit, table_of, verdicts_index,
};

use crate::bandwidth;
use crate::cluster::{self, is_node, pod};
use crate::conntrack;
use crate::maps::{self, CLASSES_EVEN, CLASSES_ODD, VERDICTS};
use crate::omission::omits;
use crate::packet::Packet;

/// The decision about a flow.
pub(crate) struct Decision {
    /// [`DropReason::None`]: allowed.
    pub(crate) reason: DropReason,
    /// The rule that decided; see [`skep_abi::Verdict::rule`].
    pub(crate) rule: u32,
    /// Host-side interfaces of the ends that are pods of this node, or 0.
    pub(crate) opener_ifindex: u32,
    pub(crate) target_ifindex: u32,
    /// [`Flow`] flags that follow from the location of the ends.
    pub(crate) flags: u32,
}

/// Decides on a flow that `opener` opens to `target`, under the packet's generation.
#[inline(never)]
pub(crate) fn decide(packet: &Packet, opener: &SocketAddr, target: &SocketAddr) -> Decision {
    let (from, to) = (pod(&opener.addr), pod(&target.addr));
    let mut decision = Decision {
        reason: DropReason::None,
        rule: 0,
        opener_ifindex: from.map_or(0, |pod| pod.ifindex),
        target_ifindex: to.map_or(0, |pod| pod.ifindex),
        flags: bandwidth::flag(from, to),
    };
    if omits(Omission::POLICY) {
        return decision;
    }
    // NetworkPolicy never denies traffic between a pod and its own node,
    // Looked up here: a function of BPF has five arguments, and the decision is one.
    let is_own = |addr| maps::config().is_some_and(|config| is_node(config, addr));
    if is_own(&opener.addr) || is_own(&target.addr) {
        decision.flags |= Flow::NODE;
        return decision;
    }
    // nor a pod's traffic with itself.
    if opener.addr == target.addr {
        return decision;
    }
    if from.is_some() != to.is_some() {
        let other = if from.is_some() { &target.addr } else { &opener.addr };
        if cluster::contains(other) {
            decision.flags |= Flow::REMOTE;
        }
    }
    if let Some(pod) = from {
        let (allow, rule) = verdict(packet, pod, Direction::EGRESS, &target.addr, target.port);
        decision.rule = rule;
        if !allow {
            decision.reason = DropReason::PolicyEgress;
            return decision;
        }
    }
    if let Some(pod) = to {
        let (allow, rule) = verdict(packet, pod, Direction::INGRESS, &opener.addr, target.port);
        if rule != 0 {
            decision.rule = rule;
        }
        if !allow {
            decision.reason = DropReason::PolicyIngress;
        }
    }
    decision
}

/// Makes the flow's verdict one of the generation in force, and charges the packet to limited pods; an error if the flow is
/// no longer allowed.
#[inline(always)]
pub(crate) fn revalidate(ctx: &TcContext, flow: &mut Flow, packet: &mut Packet) -> Result<(), DropReason> {
    if flow.generation == packet.generation {
        return Ok(());
    }
    cold_path();
    if flow.generation == !packet.generation {
        return bandwidth::charge(ctx, packet, flow.flags);
    }
    if flow.flags & Flow::HAIRPIN != 0 {
        let ifindex = pod(&packet.source.addr).map_or(0, |pod| pod.ifindex);
        (flow.low_ifindex, flow.high_ifindex) = (ifindex, ifindex);
        flow.generation = Flow::stamp(packet.generation, flow.flags);
        return bandwidth::charge(ctx, packet, flow.flags);
    }
    let from_high = flow.flags & Flow::FROM_HIGH != 0;
    // The verdict depends on which end opened the flow, not on this packet's direction.
    let (opener, target) = if from_high == packet.from_high() {
        (&packet.source, &packet.destination)
    } else {
        (&packet.destination, &packet.source)
    };
    // Behind the node's address there is a pod, to which the answers go.
    let opener = if flow.flags & Flow::OUTSIDE != 0 { &flow.destination } else { opener };
    let decision = decide(packet, opener, target);
    if decision.reason != DropReason::None && flow.flags & Flow::NODE == 0 {
        (packet.rule, packet.service) = (decision.rule, flow.service);
        return Err(decision.reason);
    }
    conntrack::confirm(packet, flow)?;
    set_decision(packet, flow, &decision, from_high);
    bandwidth::charge(ctx, packet, flow.flags)
}

/// A fresh entry for the flow that this packet opens; an error if it is denied.
#[inline(always)]
pub(crate) fn open(
    ctx: &TcContext,
    packet: &mut Packet,
    decision: &Decision,
) -> Result<&'static mut Flow, DropReason> {
    packet.rule = decision.rule;
    if decision.reason != DropReason::None {
        return Err(decision.reason);
    }
    bandwidth::charge_first(ctx, packet, decision.flags)?;
    let flow = conntrack::fresh(if packet.from_high() { Flow::FROM_HIGH } else { 0 })?;
    set_decision(packet, flow, decision, packet.from_high());
    Ok(flow)
}

/// Writes the decision into the entry.
#[inline(always)]
fn set_decision(packet: &Packet, flow: &mut Flow, decision: &Decision, from_high: bool) {
    let (opener, target) = (decision.opener_ifindex, decision.target_ifindex);
    (flow.low_ifindex, flow.high_ifindex) = if from_high { (target, opener) } else { (opener, target) };
    flow.flags = flow.flags & !(Flow::REMOTE | Flow::LIMITED) | decision.flags;
    flow.generation = Flow::stamp(packet.generation, flow.flags);
}

/// Whether the pod's policies allow the flow, and the rule that decided.
#[inline(always)]
fn verdict(packet: &Packet, pod: &Pod, direction: Direction, peer: &Addr, port: Be16) -> (bool, u32) {
    if pod.isolated & open_bit(packet.generation, direction) != 0 {
        return (true, 0);
    }
    // SAFETY: the inner map stays valid until the program ends.
    let Some(verdicts) = (unsafe { VERDICTS.get(&verdicts_index(pod.slot, packet.generation)) }) else {
        return (pod.isolated & isolated_bit(packet.generation) == 0, 0);
    };
    let address = Key::new(128, *peer);
    let class =
        if table_of(packet.generation) == 0 { CLASSES_EVEN.get(&address) } else { CLASSES_ODD.get(&address) };
    let class = class.map_or(CLASS_OTHER, |class| *class);
    let mut key = Key::new(VerdictKey::PORT_BITS, VerdictKey::new(direction, class, packet.proto, port));
    // A verdict map always has the direction's default; without one the flow is denied.
    if let Some(verdict) = verdicts.get(&key)
        && verdict.allow != 0
    {
        return (true, verdict.rule);
    }
    key = Key::new(VerdictKey::PORT_BITS, VerdictKey::new(direction, CLASS_ANY, packet.proto, port));
    verdicts.get(&key).map_or((false, 0), |verdict| (verdict.allow != 0, verdict.rule))
}
