//! Routes to pods of other nodes, and the addresses inside the cluster.
//!
//! In: all nodes. Out: routes to other nodes' podCIDRs by their InternalIP; unreachable routes for this node's, so that a
//! packet to a pod that is gone does not return to the router; all podCIDRs and node addresses as prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::{Addr, CLUSTER_MAX};
use skep_policy::{Prefix, prefix_of};

use crate::index::NodeFacts;
use crate::write::{Observed, Write};

/// Why there is no route to a node's pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteProblem {
    #[error("node {node} has no InternalIP of the family of its podCIDR {cidr}: no route to its pods")]
    NoAddress { node: Arc<str>, cidr: IpNetwork },
    #[error("node {node}: podCIDR {cidr} overlaps with that of node {other}: no route to its pods")]
    Overlap { node: Arc<str>, cidr: IpNetwork, other: Arc<str> },
    #[error(
        "{wanted} prefixes are inside the cluster, {CLUSTER_MAX} fit: traffic to the others is masqueraded as if it left the cluster"
    )]
    Full { wanted: usize },
}

/// The wanted state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// podCIDR to next hop.
    pub routes: BTreeMap<IpNetwork, IpAddr>,
    /// This node's podCIDRs.
    pub unreachable: BTreeSet<IpNetwork>,
    /// The content of `CLUSTER`.
    pub cluster: BTreeSet<Prefix>,
    /// The content of `NODES`: the InternalIPs of other nodes.
    pub nodes: BTreeSet<Addr>,
    pub problems: Vec<RouteProblem>,
}

/// `this` is this node's name; its own podCIDRs need no route. With an `overlay` only pod addresses are inside the cluster:
/// the network between the nodes has no routes to pods, so a pod's packets to a node need its own node's address.
pub fn compile(nodes: &BTreeMap<Arc<str>, NodeFacts>, this: &str, overlay: bool) -> Routes {
    let mut wanted = Routes::default();
    // Pods' networks come first: where not everything fits, they are worth more than addresses of nodes.
    let mut node_addrs = BTreeSet::new();
    let own = nodes.get_key_value(this).into_iter();
    // This node's networks come first, so that no other node can take them.
    let others = nodes.iter().filter(|(name, _)| ***name != *this);
    let mut taken: BTreeMap<(u128, u128), Arc<str>> = BTreeMap::new();
    for (name, node) in own.chain(others) {
        for ip in node.internal_ips.iter().chain(&node.external_ips).filter(|_| !overlay) {
            node_addrs.insert((128, Addr::from(*ip)));
        }
        if **name != *this {
            wanted.nodes.extend(node.internal_ips.iter().map(|ip| Addr::from(*ip)));
        }
        for cidr in &node.pod_cidrs {
            let prefix = prefix_of(cidr);
            let range = range(prefix);
            // Taken ranges are disjoint: only the last one that starts at or before our end can overlap ours.
            let before = taken.range(..=(range.1, u128::MAX)).next_back();
            if let Some(((_, last), other)) = before
                && *last >= range.0
            {
                let (node, other) = (name.clone(), other.clone());
                wanted.problems.push(RouteProblem::Overlap { node, cidr: *cidr, other });
                continue;
            }
            taken.insert(range, name.clone());
            wanted.cluster.insert(prefix);
            if **name == *this {
                wanted.unreachable.insert(*cidr);
                continue;
            }
            match node.internal_ips.iter().find(|ip| ip.is_ipv4() == cidr.is_ipv4()) {
                Some(via) => drop(wanted.routes.insert(*cidr, *via)),
                None => wanted.problems.push(RouteProblem::NoAddress { node: name.clone(), cidr: *cidr }),
            }
        }
    }
    fit(&mut wanted, &node_addrs, CLUSTER_MAX as usize);
    wanted
}

/// Adds the nodes' addresses to the cluster, and leaves out what is too much.
fn fit(wanted: &mut Routes, node_addrs: &BTreeSet<Prefix>, limit: usize) {
    let all = wanted.cluster.len() + node_addrs.difference(&wanted.cluster).count();
    if all > limit {
        wanted.problems.push(RouteProblem::Full { wanted: all });
        wanted.cluster = std::mem::take(&mut wanted.cluster).into_iter().take(limit).collect();
    }
    let room = limit.saturating_sub(wanted.cluster.len());
    let node_addrs: Vec<Prefix> = node_addrs.difference(&wanted.cluster).take(room).copied().collect();
    wanted.cluster.extend(node_addrs);
}

/// A prefix that overlaps with a new one is deleted after the puts, so that an address inside the cluster stays inside at
/// every step; the others are deleted before, to make room.
pub(crate) fn diff(wanted: &Routes, kernel: &Observed) -> Vec<Write> {
    let put = |(prefix_bits, addr): &Prefix| Write::PutCluster { prefix_bits: *prefix_bits, addr: *addr };
    let delete =
        |(prefix_bits, addr): &Prefix| Write::DeleteCluster { prefix_bits: *prefix_bits, addr: *addr };
    let new: Vec<Prefix> = wanted.cluster.difference(&kernel.cluster).copied().collect();
    let gone = kernel.cluster.difference(&wanted.cluster);
    let (early, late): (Vec<&Prefix>, Vec<&Prefix>) = gone.partition(|gone| !overlaps_any(**gone, &new));
    let mut writes: Vec<Write> = early.into_iter().map(delete).collect();
    writes.extend(new.iter().map(put));
    writes.extend(late.into_iter().map(delete));
    let new = wanted.unreachable.difference(&kernel.unreachable);
    writes.extend(new.map(|cidr| Write::PutUnreachable { cidr: *cidr }));
    writes.extend(wanted.nodes.difference(&kernel.nodes).map(|addr| Write::PutNode(*addr)));
    let changed = wanted.routes.iter().filter(|(cidr, via)| kernel.routes.get(*cidr) != Some(*via));
    writes.extend(changed.map(|(cidr, via)| Write::PutRoute { cidr: *cidr, via: *via }));
    let gone = kernel.routes.keys().filter(|cidr| !wanted.routes.contains_key(*cidr));
    writes.extend(gone.map(|cidr| Write::DeleteRoute { cidr: *cidr }));
    let gone = kernel.unreachable.difference(&wanted.unreachable);
    writes.extend(gone.map(|cidr| Write::DeleteUnreachable { cidr: *cidr }));
    writes.extend(kernel.nodes.difference(&wanted.nodes).map(|addr| Write::DeleteNode(*addr)));
    writes
}

/// Whether the prefix shares an address with one of the others.
fn overlaps_any(prefix: Prefix, others: &[Prefix]) -> bool {
    let (first, last) = range(prefix);
    others.iter().any(|other| {
        let (other_first, other_last) = range(*other);
        other_first <= last && first <= other_last
    })
}

/// First and last address of the prefix.
pub(crate) fn range((bits, addr): Prefix) -> (u128, u128) {
    let first = u128::from_be_bytes(addr.octets());
    let host = if bits == 0 { u128::MAX } else { (1u128 << (128 - bits)).wrapping_sub(1) };
    (first, first | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ip: &str, cidr: &str) -> NodeFacts {
        NodeFacts {
            internal_ips: [ip.parse().unwrap()].into(),
            pod_cidrs: [cidr.parse().unwrap()].into(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn other_nodes_are_reached_by_their_internal_address() {
        let nodes = BTreeMap::from([
            ("a".into(), node("10.86.0.11", "10.244.0.0/24")),
            ("b".into(), node("10.86.0.12", "10.244.1.0/24")),
        ]);
        let routes = compile(&nodes, "a", false);
        let expected = BTreeMap::from([("10.244.1.0/24".parse().unwrap(), "10.86.0.12".parse().unwrap())]);
        assert_eq!(routes.routes, expected);
        assert_eq!(routes.cluster.len(), 4);
        let other: std::net::IpAddr = "10.86.0.12".parse().unwrap();
        assert_eq!(routes.nodes, [Addr::from(other)].into());
        assert_eq!(routes.problems, vec![]);
    }

    #[test]
    fn nodes_are_outside_of_an_overlay_and_their_pods_inside() {
        let nodes = BTreeMap::from([
            ("a".into(), node("10.86.0.11", "10.244.0.0/24")),
            ("b".into(), node("10.86.0.12", "10.244.1.0/24")),
        ]);
        let routes = compile(&nodes, "a", true);
        assert_eq!(routes.routes, compile(&nodes, "a", false).routes);
        assert!(routes.cluster.iter().all(|(bits, _)| *bits == 96 + 24) && routes.cluster.len() == 2);
    }

    #[test]
    fn network_inside_another_nodes_is_not_routed() {
        let nodes = BTreeMap::from([
            ("a".into(), node("10.86.0.11", "10.244.0.0/16")),
            ("b".into(), node("10.86.0.12", "10.244.1.0/24")),
        ]);
        let routes = compile(&nodes, "a", false);
        assert!(routes.routes.is_empty());
        assert!(matches!(&routes.problems[..], [RouteProblem::Overlap { .. }]));
    }

    #[test]
    fn packets_to_pods_that_are_not_there_end_at_their_own_node() {
        let nodes = BTreeMap::from([
            ("a".into(), node("10.86.0.11", "10.244.0.0/24")),
            ("b".into(), node("10.86.0.12", "10.244.1.0/24")),
        ]);
        assert_eq!(
            compile(&nodes, "b", true).unreachable,
            BTreeSet::from(["10.244.1.0/24".parse().unwrap()])
        );
    }

    #[test]
    fn what_does_not_fit_is_a_problem_and_pods_networks_go_first() {
        let prefixes = |range: std::ops::Range<u8>| -> BTreeSet<Prefix> {
            range.map(|n| (128, Addr::from(IpAddr::from([10, 86, 0, n])))).collect()
        };
        let mut wanted = Routes { cluster: prefixes(0..3), ..Routes::default() };
        fit(&mut wanted, &prefixes(10..12), 5);
        assert_eq!((wanted.cluster.len(), &wanted.problems[..]), (5, &[][..]));
        for limit in [4, 2] {
            let mut wanted = Routes { cluster: prefixes(0..3), ..Routes::default() };
            fit(&mut wanted, &prefixes(10..12), limit);
            assert_eq!(
                (wanted.cluster.len(), wanted.problems),
                (limit, vec![RouteProblem::Full { wanted: 5 }])
            );
            assert!(prefixes(0..3).into_iter().take(limit).all(|prefix| wanted.cluster.contains(&prefix)));
        }
    }

    #[test]
    fn what_is_replaced_by_nothing_makes_room_first() {
        let prefix = |bits: u32, ip: [u8; 4]| (96 + bits, Addr::from(IpAddr::from(ip)));
        let (narrow, other) = (prefix(24, [10, 1, 1, 0]), prefix(24, [10, 9, 0, 0]));
        let kernel = Observed { cluster: [narrow, other].into(), ..Observed::default() };
        let wide = prefix(16, [10, 1, 0, 0]);
        let wanted = Routes { cluster: [wide].into(), ..Routes::default() };
        let order: Vec<Prefix> = diff(&wanted, &kernel)
            .iter()
            .map(|write| match write {
                Write::PutCluster { prefix_bits, addr } | Write::DeleteCluster { prefix_bits, addr } => {
                    (*prefix_bits, *addr)
                }
                write => panic!("{write:?}"),
            })
            .collect();
        assert_eq!(order, [other, wide, narrow]);
    }

    #[test]
    fn diff_to_what_is_there_is_empty() {
        let nodes = BTreeMap::from([
            ("a".into(), node("10.86.0.11", "10.244.0.0/24")),
            ("b".into(), node("10.86.0.12", "10.244.1.0/24")),
        ]);
        let routes = compile(&nodes, "b", false);
        let mut kernel = Observed::default();
        diff(&routes, &kernel).iter().for_each(|write| kernel.apply(write));
        assert_eq!((&kernel.routes, &kernel.nodes), (&routes.routes, &routes.nodes));
        assert_eq!(diff(&routes, &kernel), vec![]);
    }
}
