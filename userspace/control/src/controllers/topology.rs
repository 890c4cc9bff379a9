//! `service.kubernetes.io/topology-mode: Auto` (KEP-2433): traffic stays in its zone, and each zone gets endpoints in
//! proportion to the CPU of its nodes, within a fifth. PURE.
//!
//! Where that is impossible no endpoint gets a hint, so every endpoint serves all zones.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

use super::endpoints::ZONE;
use super::node_conditions::ready_status;
use crate::cache::{Change, Key, Object, View};
use crate::meta;

/// By which share the load of a zone's endpoints may exceed the average.
const MAX_OVERLOAD: f64 = 0.2;
/// Nodes with these labels serve the cluster, not its users.
const CONTROL_PLANE_LABELS: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// The annotation is older than trafficDistribution and overrules it.
pub fn is_enabled(service: &Service) -> bool {
    let of = |name| meta::annotation(&service.metadata, name);
    let mode = of("service.kubernetes.io/topology-aware-hints")
        .or_else(|| of("service.kubernetes.io/topology-mode"));
    matches!(mode, Some("Auto" | "auto"))
}

/// Services whose hints a change of a node may affect.
pub fn services_of(change: &Change, view: &View, keys: &mut Vec<Key>) {
    let part = |object: &Object| match object {
        Object::Node(node) => counts(node).map(|(zone, cpu)| (zone.map(str::to_owned), cpu)),
        _ => None,
    };
    if change.old.as_ref().map(part) != change.new.as_ref().map(part) {
        let enabled = view.services.iter().filter(|(_, service)| is_enabled(service));
        enabled.for_each(|(key, _)| keys.push(key.clone()));
    }
}

/// Zone and CPU, in thousandths, of a node that counts.
fn counts(node: &Node) -> Option<(Option<&str>, i128)> {
    if ready_status(node) != "True"
        || CONTROL_PLANE_LABELS.iter().any(|label| meta::label(&node.metadata, label).is_some())
    {
        return None;
    }
    let cpu = node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    let cpu = cpu.and_then(|cpu| cpu.0.parse::<skep_api::quantity::Quantity>().ok());
    let zone = meta::label(&node.metadata, ZONE).filter(|zone| !zone.is_empty());
    Some((zone, cpu.map_or(0, |cpu| cpu.millis())))
}

/// Each zone's share of all CPU; the sum is 1.
pub struct Shares(BTreeMap<String, f64>);

impl Shares {
    /// `None` if there is only one zone, or a node without zone or CPU.
    pub fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<Shares> {
        let mut zones: BTreeMap<String, i128> = BTreeMap::new();
        for (zone, cpu) in nodes.filter_map(counts) {
            *zones.entry(zone.filter(|_| cpu > 0)?.to_owned()).or_default() += cpu;
        }
        let all: i128 = zones.values().sum();
        let share = |(zone, cpu)| (zone, cpu as f64 / all as f64);
        (zones.len() > 1).then(|| Shares(zones.into_iter().map(share).collect()))
    }

    /// Sets the hints of the ready endpoints.
    pub fn hint(&self, endpoints: &mut [&mut Endpoint]) {
        let mut ready: Vec<&mut Endpoint> =
            endpoints.iter_mut().map(|e| &mut **e).filter(|endpoint| is_ready(endpoint)).collect();
        let homes: Option<Vec<&str>> =
            ready.iter().map(|endpoint| endpoint.zone.as_deref().filter(|zone| !zone.is_empty())).collect();
        let Some(zones) = homes.and_then(|homes| self.assign(&homes)) else { return };
        for (endpoint, name) in ready.iter_mut().zip(zones) {
            endpoint.hints =
                Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), ..Default::default() });
        }
    }

    /// The zone that each endpoint serves, given the zone that it is in: as few as possible serve another one.
    fn assign(&self, homes: &[&str]) -> Option<Vec<String>> {
        let total = homes.len();
        let wanted = |share: f64| share * total as f64;
        let minimum = |share: f64| (wanted(share) / (1.0 + MAX_OVERLOAD)).ceil() as usize;
        if self.0.len() > total || self.0.values().map(|share| minimum(*share)).sum::<usize>() > total {
            return None;
        }
        let mut zones: Vec<&str> = homes.to_vec();
        let count = |zones: &[&str], zone: &str| zones.iter().filter(|z| **z == zone).count();
        // What a zone lacks; negative where it has too much.
        let lacks = |zones: &[&str], zone: &str, share: f64| wanted(share) - count(zones, zone) as f64;
        let most_lacking = |zones: &[&str]| {
            let lack = |(zone, share): &(&String, &f64)| lacks(zones, zone, **share);
            self.0.iter().max_by(|a, b| lack(a).total_cmp(&lack(b))).map(|(zone, _)| zone.as_str())
        };
        // Zones without nodes need no endpoints.
        for at in 0..total {
            if !self.0.contains_key(zones[at]) {
                zones[at] = most_lacking(&zones)?;
            }
        }
        while let Some((lacking_zone, _)) =
            self.0.iter().find(|(z, share)| count(&zones, z) < minimum(**share))
        {
            let spare = self.0.iter().filter(|(z, share)| count(&zones, z) > minimum(**share));
            let lack = |(zone, share): &(&String, &f64)| lacks(&zones, zone, **share);
            let (surplus_zone, _) = spare.min_by(|a, b| lack(a).total_cmp(&lack(b)))?;
            let last = zones.iter().rposition(|zone| zone == surplus_zone)?;
            zones[last] = lacking_zone;
        }
        Some(zones.into_iter().map(str::to_owned).collect())
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(zone: &str, cpu: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "False" };
        let labels = if zone.is_empty() { json!({}) } else { json!({ ZONE: zone }) };
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": labels},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    fn shares(nodes: &[(&str, &str)]) -> Option<Shares> {
        let nodes: Vec<Node> = nodes.iter().map(|(zone, cpu)| node(zone, cpu, true)).collect();
        Shares::of(nodes.iter())
    }

    fn assigned(nodes: &[(&str, &str)], homes: &str) -> Option<String> {
        let homes: Vec<String> = homes.chars().map(String::from).collect();
        let homes: Vec<&str> = homes.iter().map(String::as_str).collect();
        shares(nodes)?.assign(&homes).map(|zones| zones.concat())
    }

    #[test]
    fn zones_with_their_share_keep_their_endpoints() {
        let two = [("a", "2"), ("b", "2000m")];
        assert_eq!(assigned(&two, "abab").as_deref(), Some("abab"));
        // Up to a fifth more load no endpoint moves: 6 of 13 where 6.5 would be even.
        assert_eq!(assigned(&two, "aaaaaabbbbbbb").as_deref(), Some("aaaaaabbbbbbb"));
    }

    #[test]
    fn a_zone_with_too_few_endpoints_gets_some_of_the_one_with_the_most() {
        let three = [("a", "1"), ("b", "1"), ("c", "1")];
        assert_eq!(assigned(&three, "aaab").as_deref(), None, "two would be needed for each");
        assert_eq!(assigned(&three, "aaabbc").as_deref(), Some("aacbbc"));
        // An endpoint in a zone without nodes serves the zone that lacks most.
        assert_eq!(assigned(&[("a", "3"), ("b", "1")], "xxxb").as_deref(), Some("aaab"));
    }

    #[test]
    fn without_proportion_there_are_no_hints() {
        let even = [("a", "1"), ("b", "1")];
        assert_eq!(assigned(&even, "a"), None, "fewer endpoints than zones");
        assert_eq!(assigned(&even, "aab"), None, "each zone needs at least two");
        for nodes in [&[("a", "1")][..], &[("a", "1"), ("", "1")], &[("a", "1"), ("b", "0")], &[]] {
            assert!(shares(nodes).is_none(), "{nodes:?}");
        }
        // Nodes that are not ready, or of the control plane, do not count.
        let mut server = node("", "8", true);
        server.metadata.labels.get_or_insert_default().insert(CONTROL_PLANE_LABELS[0].into(), String::new());
        let nodes = [node("a", "1", true), node("b", "1", true), node("", "4", false), server];
        assert!(Shares::of(nodes.iter()).is_some());
    }

    #[test]
    fn ready_endpoints_are_counted_and_hinted() {
        let endpoint = |zone: Option<&str>, ready| -> Endpoint {
            let value = json!({"addresses": ["10.0.0.1"], "zone": zone, "conditions": {"ready": ready}});
            serde_json::from_value(value).unwrap()
        };
        let hint = |mut endpoints: Vec<Endpoint>| {
            let shares = shares(&[("a", "1"), ("b", "1")]).unwrap();
            shares.hint(&mut endpoints.iter_mut().collect::<Vec<_>>());
            let name = |e: Endpoint| e.hints.and_then(|h| h.for_zones?.pop()).map(|zone| zone.name);
            endpoints.into_iter().map(name).collect::<Vec<_>>()
        };
        let [a, b] = ["a", "b"].map(|zone| Some(zone.to_owned()));
        let listed =
            vec![endpoint(a.as_deref(), true), endpoint(b.as_deref(), false), endpoint(Some("b"), true)];
        assert_eq!(hint(listed), [a, None, b]);
        assert_eq!(hint(vec![endpoint(Some("a"), true), endpoint(None, true)]), [None, None]);
    }

    proptest! {
        #[test]
        fn no_zone_is_overloaded_and_endpoints_move_only_for_that(
            cpus in prop::collection::vec(1u32..40, 2..6),
            homes in prop::collection::vec(0usize..7, 1..60),
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g"];
            let nodes: Vec<Node> =
                cpus.iter().zip(names).map(|(cpu, zone)| node(zone, &cpu.to_string(), true)).collect();
            let shares = Shares::of(nodes.iter()).unwrap();
            let homes: Vec<&str> = homes.iter().map(|at| names[*at]).collect();
            let Some(zones) = shares.assign(&homes) else { return Ok(()) };
            prop_assert_eq!(zones.len(), homes.len());
            for (zone, share) in &shares.0 {
                let given = zones.iter().filter(|z| *z == zone).count();
                let load = share * homes.len() as f64 / given as f64;
                prop_assert!(load <= 1.0 + MAX_OVERLOAD + 1e-9, "{} of {:?} for {}", given, zones, share);
            }
            let known = |zone: &str| shares.0.contains_key(zone);
            let moved = homes.iter().zip(&zones).filter(|(home, zone)| known(home) && home != zone).count();
            let lacking: usize = shares.0.iter().map(|(zone, share)| {
                let least = (share * homes.len() as f64 / (1.0 + MAX_OVERLOAD)).ceil() as usize;
                least.saturating_sub(homes.iter().filter(|home| *home == zone).count())
            }).sum();
            prop_assert!(moved <= lacking, "{} moved for {}", moved, lacking);
        }
    }
}
