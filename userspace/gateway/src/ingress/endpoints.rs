//! Services and their EndpointSlices to the addresses of a backend.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::facts::PortName;
use super::nearby::{Hints, Location, nearby};
use crate::config::{EndpointDemand, Protocol};
use crate::duration::duration;

/// How long a new endpoint gets less than its part of the requests, as a duration of Gateway API.
const SLOW_START: &str = "skep.io/slow-start";
/// Requests at once that an endpoint gets of each gateway.
const MAX_REQUESTS: &str = "skep.io/max-requests";
/// The names of HTTP/2 without TLS and of gRPC in a port's `appProtocol` (KEP-3726).
const H2C: [&str; 3] = ["kubernetes.io/h2c", "grpc", "kubernetes.io/grpc"];

#[derive(Default, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) is_external_name: bool,
    is_ipv6: bool,
    ports: Vec<PortFacts>,
    /// The Service's own address.
    ip: Option<IpAddr>,
    pub(crate) demand: EndpointDemand,
}

#[derive(PartialEq, Eq)]
pub(crate) struct PortFacts {
    number: i32,
    is_udp: bool,
    /// Empty for the only port of a Service.
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
}

/// The endpoints of one slice.
pub(crate) struct SliceFacts {
    is_ipv6: bool,
    /// Name, number, and whether it is of UDP.
    ports: Vec<(Box<str>, u16, bool)>,
    ready: Vec<EndpointFacts>,
    /// They end, and still serve.
    ending: Vec<EndpointFacts>,
}

struct EndpointFacts {
    ip: IpAddr,
    hints: Option<Box<Hints>>,
}

impl ServiceFacts {
    pub(super) fn parse(service: &Service) -> ServiceFacts {
        let Some(spec) = &service.spec else {
            return ServiceFacts::default();
        };
        let is_served = |protocol: Option<&str>| matches!(protocol, None | Some("" | "TCP" | "UDP"));
        let ports = spec.ports.iter().flatten().filter(|port| is_served(port.protocol.as_deref()));
        let ports = ports.map(|port| PortFacts {
            number: port.port,
            is_udp: port.protocol.as_deref() == Some("UDP"),
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: match port.app_protocol.as_deref() {
                Some(name) if H2C.contains(&name) => Protocol::H2c,
                _ => Protocol::Http1,
            },
        });
        ServiceFacts {
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            is_ipv6: spec
                .ip_families
                .as_ref()
                .and_then(|all| all.first())
                .is_some_and(|first| first == "IPv6"),
            ports: ports.collect(),
            ip: spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()),
            demand: demand(service),
        }
    }

    /// The Service itself as the only endpoint; none if it is headless.
    pub(super) fn own(&self, port: &PortFacts) -> Vec<SocketAddr> {
        let number = u16::try_from(port.number).ok();
        self.ip.zip(number).map(|(ip, port)| SocketAddr::new(ip, port)).into_iter().collect()
    }

    /// A port of TCP.
    pub(super) fn port(&self, wanted: &PortName) -> Option<&PortFacts> {
        self.port_of(wanted, "TCP")
    }

    /// A port of a protocol; empty: of TCP, or else of UDP.
    pub(crate) fn port_of(&self, wanted: &PortName, protocol: &str) -> Option<&PortFacts> {
        let is_wanted = |port: &&PortFacts| match wanted {
            PortName::Number(number) => port.number == *number,
            PortName::Name(name) => port.name == *name,
            PortName::First => true,
        };
        let mut found = self.ports.iter().filter(is_wanted).collect::<Vec<_>>();
        found.sort_by_key(|port| port.is_udp);
        match protocol {
            "" => found.first().copied(),
            _ => found.into_iter().find(|port| port.is_udp == (protocol == "UDP")),
        }
    }

    /// The endpoints that get requests: those that are ready; if there are none, those that end and still serve (KEP-1669). A Service
    /// of both families is reached by its first one. Of those that are ready, the ones that are meant for this location.
    pub(crate) fn endpoints(
        &self,
        port: &PortFacts,
        slices: Option<&BTreeMap<Arc<str>, SliceFacts>>,
        location: &Location,
    ) -> Vec<SocketAddr> {
        let slices =
            || slices.into_iter().flat_map(BTreeMap::values).filter(|slice| slice.is_ipv6 == self.is_ipv6);
        let of = |endpoints: fn(&SliceFacts) -> &[EndpointFacts]| {
            let mut found = BTreeMap::new();
            for slice in slices() {
                let of_port =
                    |(name, _, is_udp): &&(Box<str>, u16, bool)| *name == port.name && *is_udp == port.is_udp;
                for (_, number, _) in slice.ports.iter().filter(of_port) {
                    found.extend(
                        endpoints(slice).iter().map(|endpoint| {
                            (SocketAddr::new(endpoint.ip, *number), endpoint.hints.as_deref())
                        }),
                    );
                }
            }
            found
        };
        let ready = of(|slice| &slice.ready);
        if ready.is_empty() {
            return of(|slice| &slice.ending).into_keys().collect();
        }
        nearby(&ready, location)
    }
}

/// What the Service's annotations say of requests to its endpoints.
fn demand(service: &Service) -> EndpointDemand {
    let annotations = service.metadata.annotations.as_ref();
    let text = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
    let at_once = text(MAX_REQUESTS).and_then(|text| text.parse().ok()).filter(|most| *most > 0);
    EndpointDemand { slow_start: text(SLOW_START).and_then(duration).unwrap_or_default(), at_once }
}

impl SliceFacts {
    /// `None`: the slice has names, not addresses.
    pub(super) fn parse(slice: &EndpointSlice) -> Option<SliceFacts> {
        let is_ipv6 = match slice.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            _ => return None,
        };
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|port| matches!(port.protocol.as_deref(), None | Some("" | "TCP" | "UDP")));
        let ports = ports.filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            let is_udp = port.protocol.as_deref() == Some("UDP");
            Some((port.name.as_deref().unwrap_or_default().into(), number, is_udp))
        });
        let (mut ready, mut ending) = (Vec::new(), Vec::new());
        for endpoint in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint are the same.
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|all| all.ready).unwrap_or(true);
            let serves = conditions.and_then(|all| all.serving).unwrap_or(is_ready);
            let hints = endpoint.hints.as_ref().map(|hints| Box::new(Hints::parse(hints)));
            let facts = EndpointFacts { ip, hints };
            if is_ready {
                ready.push(facts);
            } else if serves && conditions.and_then(|all| all.terminating) == Some(true) {
                ending.push(facts);
            }
        }
        Some(SliceFacts { is_ipv6, ports: ports.collect(), ready, ending })
    }
}
