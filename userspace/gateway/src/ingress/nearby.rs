//! Endpoints near this node, as the hints of EndpointSlices have it (KEP-2433, KEP-3015).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointHints;

/// Where this gateway is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    /// The Node's name.
    pub(super) node: Arc<str>,
    /// `None`: not known, or the Node has none.
    pub(super) zone: Option<Box<str>>,
}

/// Which nodes and zones an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    nodes: Box<[Box<str>]>,
    zones: Box<[Box<str>]>,
}

impl Hints {
    pub(super) fn parse(hints: &EndpointHints) -> Hints {
        Hints {
            nodes: hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect(),
            zones: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
        }
    }
}

/// The endpoints for this node; for its zone if there are none, and all if there are none either, or if one has no hint.
pub(super) fn nearby(all: &BTreeMap<SocketAddr, Option<&Hints>>, location: &Location) -> Vec<SocketAddr> {
    let of = |hinted: fn(&Hints) -> &[Box<str>], wanted: &str| {
        let names = |hints: &Option<&Hints>| hints.map(hinted).unwrap_or_default().to_vec();
        if all.values().any(|hints| names(hints).is_empty()) {
            return Vec::new();
        }
        let is_meant = |hints: &Option<&Hints>| names(hints).iter().any(|name| **name == *wanted);
        all.iter().filter(|(_, hints)| is_meant(hints)).map(|(address, _)| *address).collect()
    };
    let of_node = of(|hints| &hints.nodes, &location.node);
    if !of_node.is_empty() {
        return of_node;
    }
    let zone = location.zone.as_deref();
    let of_zone = zone.map(|zone| of(|hints| &hints.zones, zone)).unwrap_or_default();
    if of_zone.is_empty() { all.keys().copied().collect() } else { of_zone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_count_if_all_endpoints_have_them_and_one_is_meant() {
        let hints = |nodes: &[&str], zones: &[&str]| Hints {
            nodes: nodes.iter().map(|name| (*name).into()).collect(),
            zones: zones.iter().map(|name| (*name).into()).collect(),
        };
        let (a, b, none) = (hints(&["n1"], &["a"]), hints(&[], &["b"]), hints(&[], &[]));
        let both = hints(&["n2"], &["a", "b"]);
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
        let chosen = |endpoints: &[&Hints], node: &str, zone: Option<&str>| {
            let all = (1..).zip(endpoints).map(|(at, hints)| (address(at), Some(*hints))).collect();
            let location = Location { node: node.into(), zone: zone.map(Into::into) };
            nearby(&all, &location).iter().map(|found| found.to_string()).collect::<Vec<_>>().join(" ")
        };
        let [one, two] = ["10.0.0.1:80", "10.0.0.2:80"];
        let all = format!("{one} {two}");
        assert_eq!(chosen(&[&a, &b], "n1", Some("b")), two, "not all have a node");
        assert_eq!(chosen(&[&a, &both], "n1", Some("b")), one);
        assert_eq!(chosen(&[&a, &both], "n3", Some("b")), two);
        assert_eq!(chosen(&[&a, &both], "n3", Some("a")), all);
        assert_eq!(chosen(&[&a, &b], "n3", Some("c")), all, "none is meant");
        assert_eq!(chosen(&[&a, &none], "n3", Some("a")), all, "one has no hint");
        assert_eq!(chosen(&[&a, &b], "n3", None), all);
    }
}
