//! What of a Service the datapath needs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use skep_abi::{Addr, Proto};
use skep_policy::Prefix;

use crate::routes::prefix;

/// kube-proxy leaves services with this label to another proxy; so do we.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The condition by which the pools' controller marks its Services.
const BALANCED: &str = "skep.io/LoadBalancerAddress";
/// How packets from outside come to backends on other nodes: [`Forwarding`].
const FORWARDING: &str = "skep.io/forwarding";
/// The API's default of ClientIP affinity.
const AFFINITY_SECONDS: u32 = 10_800;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Seconds; 0: none.
    pub affinity: u32,
    pub internal_local: bool,
    pub external_local: bool,
    /// loadBalancerSourceRanges by family, in order, each once; empty: everybody may. That a list with a zero-length
    /// prefix is empty, and that a family without a range of its own is open, are kube-proxy's rules.
    pub ranges_v4: Box<[Prefix]>,
    pub ranges_v6: Box<[Prefix]>,
    pub cluster_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    pub balancer_ips: Box<[IpAddr]>,
    pub ports: Box<[PortFacts]>,
    /// 0: none.
    pub health_check_port: u16,
    /// Its `balancer_ips` are from a pool of this cluster.
    pub balanced_here: bool,
    pub forwarding: Forwarding,
}

/// As the Service's annotation says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// `snat`: the node that a packet comes to puts its own address in place of the client's.
    #[default]
    Translated,
    /// `dsr`: the backend's node sees the client's address and answers the client.
    Direct,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Box<str>,
    pub proto: Proto,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
}

impl ServiceFacts {
    /// `None`: no frontend of ours (headless, ExternalName, left to another proxy).
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
                seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS)
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
            health_check_port: health_check_port(kind, spec),
            balanced_here: kind == "LoadBalancer" && is_balanced_here(service),
            forwarding: forwarding(service),
        })
    }

    /// Addresses that a node of the cluster answers for on its link.
    pub fn announced(&self) -> impl Iterator<Item = &IpAddr> {
        let balancer = self.balancer_ips.iter().filter(|_| self.balanced_here);
        self.external_ips.iter().chain(balancer)
    }

    /// Whether packets go to other nodes as they are. Under a Local policy none goes there; and which backend a client had
    /// before only the node knows that its packets came to.
    pub fn is_direct(&self) -> bool {
        self.forwarding == Forwarding::Direct && !self.external_local && self.affinity == 0
    }

    /// Whether anything but cluster addresses leads to it.
    pub fn is_external(&self) -> bool {
        let balanced = !self.external_ips.is_empty() || !self.balancer_ips.is_empty();
        balanced || self.ports.iter().any(|port| port.node_port != 0)
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
    // The API allows blanks around a range.
    let cidrs = texts.filter_map(|text| text.trim().parse::<IpNetwork>().ok()).filter(|c| c.is_ipv4() == v4);
    let ranges: BTreeSet<Prefix> = cidrs.map(|cidr| prefix(&cidr)).collect();
    let open = if v4 { Addr::V4_PREFIX_BITS } else { 0 };
    if ranges.iter().any(|(bits, _)| *bits == open) {
        return Box::default();
    }
    ranges.into_iter().collect()
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

fn is_balanced_here(service: &Service) -> bool {
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == BALANCED)
}

/// Addresses of the load balancer that traffic still bears when it arrives here.
fn balancer_ips(service: &Service) -> Box<[IpAddr]> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ours = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(ours.filter_map(|ingress| ingress.ip.as_deref()))
}

/// TCP where none is named; `None`: one that we do not balance.
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
