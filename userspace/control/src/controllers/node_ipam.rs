//! A podCIDR for every node: the lowest free block of each cluster network. PURE.
//! All nodes share one key, so that two nodes cannot get the same block.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::json;

use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct NodeIpam {
    pub networks: Vec<IpNetwork>,
    pub prefix_v4: u8,
    pub prefix_v6: u8,
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        if let Some(Object::Node(node)) = change.object()
            && !self.networks.is_empty()
            && (change.new.is_none() || node.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none()))
        {
            keys.push(Key::cluster("all"));
        }
    }

    fn reconcile(&self, view: &View, _: &Key, _: Context<'_>) -> Vec<Action> {
        let mut used: Vec<IpNetwork> = view
            .nodes
            .iter()
            .flat_map(|(_, n)| n.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr)))
            .filter_map(|c| c.parse().ok())
            .collect();
        let mut actions = Vec::new();
        for (key, node) in view.nodes.iter() {
            let has_cidr = node.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
            if has_cidr || meta::terminating(&node.metadata) {
                continue;
            }
            let blocks: Option<Vec<IpNetwork>> =
                self.networks.iter().map(|network| self.free(*network, &used)).collect();
            match blocks {
                Some(blocks) => {
                    let cidrs: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                    used.extend(blocks);
                    actions.push(Action::Patch {
                        kind: Kind::Node,
                        key: key.clone(),
                        patch: json!({"spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}}),
                        subresource: "",
                    });
                }
                None => {
                    let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                    actions.push(Action::record(
                        &Object::Node(node.clone()),
                        true,
                        "CIDRNotAvailable",
                        message,
                    ));
                }
            }
        }
        actions
    }
}

impl NodeIpam {
    /// The lowest block of the network that overlaps no used one.
    fn free(&self, network: IpNetwork, used: &[IpNetwork]) -> Option<IpNetwork> {
        let (prefix, width) = if network.is_ipv4() { (self.prefix_v4, 32) } else { (self.prefix_v6, 128) };
        let count = 1_u128.checked_shl(u32::from(prefix.checked_sub(network.prefix())?)).unwrap_or(u128::MAX);
        let step = 1_u128.checked_shl(u32::from(width - prefix))?;
        let base = number(network.network());
        let mut taken: Vec<(u128, u128)> = used
            .iter()
            .filter(|u| u.is_ipv4() == network.is_ipv4())
            .map(|u| {
                let from = number(u.network());
                (
                    from,
                    from | (1_u128.checked_shl(u32::from(width - u.prefix())).unwrap_or(0)).wrapping_sub(1),
                )
            })
            .collect();
        taken.sort_unstable();
        let mut candidate = 0_u128;
        for (from, to) in taken {
            let start = base.saturating_add(candidate.saturating_mul(step));
            if to < start {
                continue;
            }
            if candidate >= count || from > start.saturating_add(step - 1) {
                break;
            }
            candidate = (to.saturating_sub(base) / step).saturating_add(1);
        }
        (candidate < count)
            .then(|| address(base.saturating_add(candidate.saturating_mul(step)), network.is_ipv4()))
            .and_then(|a| IpNetwork::new(a, prefix).ok())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(network: &str, used: &[&str]) -> Option<String> {
        let ipam = NodeIpam { networks: vec![], prefix_v4: 24, prefix_v6: 64 };
        let used: Vec<IpNetwork> = used.iter().map(|u| u.parse().unwrap()).collect();
        ipam.free(network.parse().unwrap(), &used).map(|n| n.to_string())
    }

    #[test]
    fn the_lowest_gap_is_taken() {
        assert_eq!(free("10.244.0.0/16", &[]).as_deref(), Some("10.244.0.0/24"));
        let used = ["10.244.2.0/24", "10.244.0.0/24"];
        assert_eq!(free("10.244.0.0/16", &used).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(free("fd00::/56", &["fd00::/64"]).as_deref(), Some("fd00:0:0:1::/64"));
    }

    #[test]
    fn larger_and_foreign_blocks_are_respected() {
        assert_eq!(
            free("10.244.0.0/16", &["10.244.0.0/22", "192.168.0.0/24"]).as_deref(),
            Some("10.244.4.0/24")
        );
    }

    #[test]
    fn a_full_network_gives_nothing() {
        assert_eq!(free("10.244.0.0/23", &["10.244.0.0/24", "10.244.1.0/24"]), None);
        assert_eq!(free("10.0.0.0/28", &[]), None, "a network smaller than a block");
    }
}
