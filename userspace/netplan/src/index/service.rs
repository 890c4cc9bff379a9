//! The facts about a Service: addresses, ports and traffic policies.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use skep_abi::{Addr, Proto};
use skep_api::kinds::service::{PORT_RANGES, PortRanges, PortRangesError};
use skep_policy::{Prefix, prefix_of};

/// Another proxy serves services with this label, as with kube-proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The condition that our load balancer controller sets on Services with an address from a pool.
const POOL_ADDRESS_CONDITION: &str = "skep.io/LoadBalancerAddress";
/// The annotation for [`Forwarding`].
const FORWARDING: &str = "skep.io/forwarding";
/// The API's default timeout of ClientIP affinity.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// The name of the [`ServiceFacts::shared_ports`]; no port of a Service has it.
const SHARED: &str = ":";

/// The only Service that nodes can serve themselves.
pub(crate) const DNS: &str = "kube-system/kube-dns";
/// The annotation that asks for it.
const SERVED_BY: &str = "skep.io/served-by";
const NODE: &str = "node";

/// The annotation for [`RouteOfPort`]s, as PORT/PROTOCOL=ROUTE with commas. Our gateway's controller writes it.
const ROUTES: &str = "skep.io/routes";

/// What the planner keeps of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Timeout of ClientIP affinity in seconds; 0: none.
    pub affinity: u32,
    /// internalTrafficPolicy is Local.
    pub internal_local: bool,
    /// externalTrafficPolicy is Local.
    pub external_local: bool,
    /// loadBalancerSourceRanges by family, sorted, each once; empty: all sources are allowed. As in kube-proxy, a list
    /// with a zero-length prefix counts as empty, and a family without ranges is open.
    pub ranges_v4: Box<[Prefix]>,
    pub ranges_v6: Box<[Prefix]>,
    pub cluster_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    pub balancer_ips: Box<[IpAddr]>,
    pub ports: Box<[PortFacts]>,
    /// Ports beside those of the list. An annotation that is none counts as absent, and is reported.
    pub port_ranges: Result<PortRanges, PortRangesError>,
    /// healthCheckNodePort; 0: none.
    pub health_check_port: u16,
    /// The `balancer_ips` are from a pool of this cluster.
    pub addresses_from_pool: bool,
    pub forwarding: Forwarding,
    /// Each node serves it itself, at its cluster IPs; see [`DNS`].
    pub of_node: bool,
    /// Few Services have any.
    pub routes: Option<Box<[RouteOfPort]>>,
}

/// The route of Gateway API that made a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOfPort {
    pub proto: Proto,
    pub port: u16,
    /// KIND/NAMESPACE/NAME.
    pub name: Arc<str>,
}

/// How packets from outside reach backends on other nodes, by the Service's annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// `snat`: the receiving node replaces the client's address by its own.
    #[default]
    Translated,
    /// `dsr`: the backend's node sees the client's address and answers the client.
    Direct,
    /// Another value; treated as `snat`, and reported.
    Unknown,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Box<str>,
    pub proto: Proto,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
}

impl ServiceFacts {
    /// `None` if it has no frontends here: headless, ExternalName, or served by another proxy.
    pub fn extract(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
            return None;
        }
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let first = spec.cluster_ip.as_deref().unwrap_or_default();
        if kind == "ExternalName" || first == "None" || first.is_empty() {
            return None;
        }
        let all = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
        let cluster_ips = match all {
            Some(all) => addresses(all.iter().map(String::as_str)),
            None => addresses([first].into_iter()),
        };
        let affinity = match spec.session_affinity.as_deref() {
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
                let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
                seconds.filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS)
            }
            _ => 0,
        };
        Some(ServiceFacts {
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            ranges_v4: source_ranges(spec, true),
            ranges_v6: source_ranges(spec, false),
            cluster_ips,
            external_ips: addresses(spec.external_ips.iter().flatten().map(String::as_str)),
            balancer_ips: if kind == "LoadBalancer" { balancer_ips(service) } else { Box::default() },
            ports: spec.ports.iter().flatten().filter_map(PortFacts::extract).collect(),
            port_ranges: port_ranges(service),
            health_check_port: health_check_port(kind, spec),
            addresses_from_pool: kind == "LoadBalancer" && has_pool_address(service),
            forwarding: forwarding(service),
            of_node: is_of_node(service),
            routes: routes(service),
        })
    }

    pub(crate) fn route(&self, proto: Proto, port: u16) -> Option<&Arc<str>> {
        let mut routes = self.routes.iter().flatten();
        routes.find(|route| route.proto == proto && route.port == port).map(|route| &route.name)
    }

    /// Addresses for which one node of the cluster answers ARP and neighbour discovery.
    pub fn announced(&self) -> impl Iterator<Item = &IpAddr> {
        let balancer = self.balancer_ips.iter().filter(|_| self.addresses_from_pool);
        self.external_ips.iter().chain(balancer)
    }

    /// For each protocol of the Service the port that stands for those of `port_ranges`: they have one identity and one affinity.
    pub(crate) fn shared_ports(&self) -> impl Iterator<Item = PortFacts> {
        let has_ranges = !self.of_node && self.port_ranges.as_ref().is_ok_and(|ranges| !ranges.is_empty());
        let ports = self.ports.iter().filter(|_| has_ranges);
        let protos: BTreeSet<Proto> = ports.map(|port| port.proto).collect();
        protos.into_iter().map(|proto| PortFacts { name: SHARED.into(), proto, port: 0, node_port: 0 })
    }

    /// Whether packets go to other nodes with the client's address. Under a Local policy none goes to another node, and
    /// affinity needs one node to see all packets of a client.
    pub fn is_direct(&self) -> bool {
        self.forwarding == Forwarding::Direct && !self.external_local && self.affinity == 0
    }
}

impl PortFacts {
    fn extract(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<Self> {
        Some(PortFacts {
            name: port.name.as_deref().unwrap_or_default().into(),
            proto: proto(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok().filter(|port| *port != 0)?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        })
    }
}

fn source_ranges(spec: &ServiceSpec, v4: bool) -> Box<[Prefix]> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    // The API allows white space around a range.
    let cidrs = texts.filter_map(|text| text.trim().parse::<IpNetwork>().ok()).filter(|c| c.is_ipv4() == v4);
    let ranges: BTreeSet<Prefix> = cidrs.map(|cidr| prefix_of(&cidr)).collect();
    let open = if v4 { Addr::V4_PREFIX_BITS } else { 0 };
    if ranges.iter().any(|(bits, _)| *bits == open) {
        return Box::default();
    }
    ranges.into_iter().collect()
}

fn port_ranges(service: &Service) -> Result<PortRanges, PortRangesError> {
    let annotations = service.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(PORT_RANGES));
    text.map_or(Ok(PortRanges::default()), |text| text.parse())
}

fn health_check_port(kind: &str, spec: &ServiceSpec) -> u16 {
    let local = kind == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|_| local);
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
}

fn forwarding(service: &Service) -> Forwarding {
    let annotations = service.metadata.annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(FORWARDING)).map(String::as_str) {
        None | Some("snat") => Forwarding::Translated,
        Some("dsr") => Forwarding::Direct,
        Some(_) => Forwarding::Unknown,
    }
}

/// A Service with a selector is served by the pods that it selects, whatever its annotation says.
fn is_of_node(service: &Service) -> bool {
    let meta = &service.metadata;
    let key = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let annotation = meta.annotations.as_ref().and_then(|annotations| annotations.get(SERVED_BY));
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    DNS.split_once('/') == Some(key)
        && annotation.is_some_and(|value| value == NODE)
        && selector.is_none_or(|selector| selector.is_empty())
}

/// What cannot be read names nothing.
fn routes(service: &Service) -> Option<Box<[RouteOfPort]>> {
    let text = service.metadata.annotations.as_ref()?.get(ROUTES)?;
    let routes = text.split(',').filter_map(|entry| {
        let (port, name) = entry.split_once('=')?;
        let (port, protocol) = port.split_once('/')?;
        Some(RouteOfPort { proto: proto(Some(protocol))?, port: port.parse().ok()?, name: name.into() })
    });
    Some(routes.collect())
}

fn has_pool_address(service: &Service) -> bool {
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == POOL_ADDRESS_CONDITION)
}

/// Load balancer addresses that are still the destination when packets arrive here.
fn balancer_ips(service: &Service) -> Box<[IpAddr]> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ours = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(ours.filter_map(|ingress| ingress.ip.as_deref()))
}

/// TCP by default; `None` for protocols that are not balanced.
pub(crate) fn proto(name: Option<&str>) -> Option<Proto> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Proto::TCP),
        "UDP" => Some(Proto::UDP),
        "SCTP" => Some(Proto::SCTP),
        _ => None,
    }
}

pub(crate) fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Box<[IpAddr]> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
