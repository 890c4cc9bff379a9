//! The facts about an EndpointSlice: usable endpoints with their ports and topology hints.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use skep_abi::{Addr, Proto};

use super::service::proto;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Set on slices of headless services.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// How often each endpoint of the slice counts among those of its Service: 1 to [`MAX_WEIGHT`].
const WEIGHT: &str = "skep.io/endpoint-weight";
/// Each count is an entry of the kernel's map.
const MAX_WEIGHT: u8 = 32;

/// What the planner keeps of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    pub v4: bool,
    /// Name, protocol, number.
    pub ports: Box<[(Box<str>, Proto, u16)]>,
    pub endpoints: Box<[EndpointFacts]>,
    /// How often each endpoint counts, at least once.
    pub weight: u8,
    /// Nodes with a ready endpoint, sorted, each once.
    pub ready_nodes: Box<[Arc<str>]>,
}

/// A usable endpoint: ready, or, as the fallback, serving while it terminates (KEP-1669).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    pub addr: Addr,
    /// On this node.
    pub local: bool,
    pub ready: bool,
    pub hints: Option<Box<Hints>>,
}

/// Topology hints (KEP-2433, KEP-3015).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// Whether the hints name any node.
    pub nodes: bool,
    /// Whether they name this node.
    pub this_node: bool,
    pub zones: Box<[Box<str>]>,
}

impl SliceFacts {
    /// `None` for slices without a service, of a headless service, or of domain names.
    pub fn extract(slice: &EndpointSlice, node: &str) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key(HEADLESS) {
            return None;
        }
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let service = format!("{namespace}/{}", labels.get(SERVICE_NAME)?).into();
        let v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|port| *port != 0)?;
            Some((port.name.as_deref().unwrap_or_default().into(), proto(port.protocol.as_deref())?, number))
        });
        let endpoints = slice.endpoints.iter().flatten();
        let weight = slice.metadata.annotations.as_ref().and_then(|all| all.get(WEIGHT)?.parse().ok());
        Some(SliceFacts {
            service,
            v4,
            ports: ports.collect(),
            endpoints: endpoints
                .clone()
                .filter_map(|endpoint| EndpointFacts::extract(endpoint, v4, node))
                .collect(),
            weight: weight.filter(|weight| (1..=MAX_WEIGHT).contains(weight)).unwrap_or(1),
            ready_nodes: ready_nodes(endpoints),
        })
    }
}

fn ready_nodes<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Box<[Arc<str>]> {
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    let names: BTreeSet<&str> = ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    names.into_iter().map(Arc::from).collect()
}

impl EndpointFacts {
    /// Only the first address counts: in the API the addresses of an endpoint are fungible.
    fn extract(endpoint: &Endpoint, v4: bool, node: &str) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(true);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        let usable = ready || (serving && terminating);
        if !usable {
            return None;
        }
        let addr: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        if addr.is_ipv4() != v4 {
            return None;
        }
        let hints = endpoint.hints.as_ref().map(|hints| {
            let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into());
            let nodes = hints.for_nodes.as_deref().unwrap_or_default();
            Box::new(Hints {
                nodes: !nodes.is_empty(),
                this_node: nodes.iter().any(|hint| hint.name == node),
                zones: zones.collect(),
            })
        });
        let local = endpoint.node_name.as_deref() == Some(node);
        Some(EndpointFacts { addr: addr.into(), local, ready, hints })
    }
}
