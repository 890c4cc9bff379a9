//! How fast nodes that are down lose their pods, by zone. PURE.
//!
//! As upstream: one node in ten seconds. If most of a zone is down (more than two nodes and at least 55 %), one in a hundred
//! seconds, or none in a zone of up to fifty nodes: the others could not take their pods. If no node of the cluster is
//! ready, none: the fault is more likely ours than theirs.
//!
//! The time of the last eviction is read from the taints, so the pace outlives a change of leadership. The nodes of a zone
//! take turns, so that two that are decided at the same time are not evicted at the same time.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use skep_api::time;

use super::node_conditions::{NOT_READY, UNREACHABLE, condition, ready_status};
use crate::cache::{Key, View};
use crate::meta;

const SECONDS_BETWEEN_EVICTIONS: i64 = 10;
const SECONDS_BETWEEN_SLOW_EVICTIONS: i64 = 100;
const MAX_SMALL_ZONE_NODES: usize = 50;
const MIN_DISRUPTED_NODES: usize = 3;
const MIN_DISRUPTED_PERCENT: usize = 55;
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// Whether a node that is down may get the taint that evicts its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    Now,
    At(Timestamp),
    /// Not before the readiness of some node changes.
    Held,
    /// Also taints that are there must go.
    Undone,
}

/// The taint that evicts the pods of a node that is down.
pub(super) fn eviction_taint(node: &Node) -> Option<&Taint> {
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.find(|taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE))
}

/// Region and zone; both empty for a node without.
fn zone(node: &Node) -> (&str, &str) {
    let label = |old: &str, new: &str| {
        meta::label(&node.metadata, old).or_else(|| meta::label(&node.metadata, new)).unwrap_or_default()
    };
    (
        label("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        label("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    )
}

/// Since when the node is not ready, and its name: the order of evictions.
fn order<'a>(key: &'a Key, node: &Node) -> (Timestamp, &'a str) {
    let since = condition(node, "Ready").and_then(|c| c.last_transition_time.as_ref());
    (since.map_or_else(|| meta::created(&node.metadata), |time| time.0), &key.name)
}

#[derive(Default)]
struct Zone {
    ready: usize,
    down: usize,
    /// Nodes that wait for their eviction, and how many of them come before the node in question.
    waiting: i64,
    before: i64,
    first_down: Option<Timestamp>,
    last_eviction: Option<Timestamp>,
}

/// When the node may be evicted; it is down.
pub(super) fn eviction(view: &View, key: &Key, node: &Node, now: Timestamp) -> Eviction {
    let (own_zone, own_order) = (zone(node), order(key, node));
    let mut any_ready = false;
    let mut found = Zone::default();
    for (key, node) in view.nodes.iter() {
        let counts = meta::label(&node.metadata, EXCLUDED).is_none();
        let ready = ready_status(node) == "True";
        any_ready |= counts && ready;
        if zone(node) != own_zone {
            continue;
        }
        found.ready += usize::from(counts && ready);
        found.down += usize::from(counts && !ready);
        if let Some(taint) = eviction_taint(node) {
            let at = taint.time_added.as_ref().map_or(Timestamp::MIN, |time| time.0);
            found.last_eviction = found.last_eviction.max(Some(at));
        } else if matches!(ready_status(node), "False" | "Unknown") && !meta::terminating(&node.metadata) {
            let order = order(key, node);
            found.waiting += 1;
            found.before += i64::from(order < own_order);
            found.first_down = Some(found.first_down.map_or(order.0, |first| first.min(order.0)));
        }
    }
    if !any_ready {
        return Eviction::Undone;
    }
    found.turn(now)
}

impl Zone {
    /// Seconds between two evictions; `None` for no evictions.
    fn pause(&self) -> Option<i64> {
        let all = self.ready + self.down;
        let mostly_down = self.ready > 0
            && self.down >= MIN_DISRUPTED_NODES
            && self.down * 100 >= all * MIN_DISRUPTED_PERCENT;
        match (mostly_down, all > MAX_SMALL_ZONE_NODES) {
            (false, _) => Some(SECONDS_BETWEEN_EVICTIONS),
            (true, true) => Some(SECONDS_BETWEEN_SLOW_EVICTIONS),
            (true, false) => None,
        }
    }

    fn turn(&self, now: Timestamp) -> Eviction {
        let Some(pause) = self.pause() else { return Eviction::Held };
        let start = match (self.last_eviction, self.first_down) {
            (Some(last), _) => time::after_seconds(last, pause),
            (None, first) => first.unwrap_or(now),
        };
        let since_start = now.duration_since(start).as_secs();
        if now < start {
            return Eviction::At(time::after_seconds(start, self.before.saturating_mul(pause)));
        }
        // A node whose taint cannot be written does not hold up the others: each turn is another one's.
        let turn = since_start / pause;
        let waiting = self.waiting.max(1);
        let turns_until_own = (self.before - turn).rem_euclid(waiting);
        if turns_until_own == 0 {
            return Eviction::Now;
        }
        let own = turn.saturating_add(turns_until_own).saturating_mul(pause);
        Eviction::At(time::after_seconds(start, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_each_turn_exactly_one_node_may_go_and_none_is_left_out() {
        let start = Timestamp::from_second(1_000_000).unwrap();
        let zone = |before| Zone {
            ready: 9,
            down: 5,
            waiting: 5,
            before,
            first_down: Some(start),
            ..Zone::default()
        };
        for turn in 0..15 {
            let now = time::after_seconds(start, turn * SECONDS_BETWEEN_EVICTIONS + 3);
            let going: Vec<i64> = (0..5).filter(|n| zone(*n).turn(now) == Eviction::Now).collect();
            assert_eq!(going, [turn % 5]);
            for waiting in (0..5).filter(|n| *n != turn % 5) {
                let Eviction::At(at) = zone(waiting).turn(now) else { panic!("{waiting} waits") };
                assert!(at > now && zone(waiting).turn(at) == Eviction::Now, "{waiting} in turn {turn}");
            }
        }
    }
}
