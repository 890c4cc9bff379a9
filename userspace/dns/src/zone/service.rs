//! Names of Services, of their ports and of their endpoints.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, RecordType};

use super::address::{of, record, records};
use super::found::{Asked, Lookup};
use crate::index::{EndpointFacts, PortFacts, ServiceFacts, ServiceKind};

/// `below` are the labels before the service's name.
pub(super) fn lookup(asked: &Asked, below: &[&str], service: &str, namespace: &str) -> Lookup {
    let Some((key, facts)) = asked.index.service(namespace, service) else { return Lookup::Absent };
    let named = Named { asked, key, facts };
    match below {
        [] => named.itself(),
        [protocol] if protocol.starts_with('_') => named.protocol(protocol),
        [endpoint] => named.endpoint(endpoint),
        [port, protocol] => named.port(port, protocol),
        _ => Lookup::Absent,
    }
}

/// A Service that was found.
struct Named<'a> {
    asked: &'a Asked<'a>,
    key: &'a Arc<str>,
    facts: &'a ServiceFacts,
}

impl<'a> Named<'a> {
    fn itself(&self) -> Lookup {
        match &self.facts.kind {
            ServiceKind::External(target) => {
                Lookup::Alias { target: target.as_ref().clone(), ttl: self.asked.ttl() }
            }
            ServiceKind::Cluster(ips) => match self.asked.kind {
                RecordType::SRV => self.servers(self.facts.ports.iter()),
                _ => of(self.asked, ips),
            },
            ServiceKind::Headless { .. } => {
                let ips = distinct(self.endpoints().map(|(_, endpoint)| endpoint.ip));
                match self.asked.kind {
                    // A headless service without endpoints does not exist (the specification, 2.4.1).
                    _ if ips.is_empty() => Lookup::Absent,
                    RecordType::SRV => self.servers_of_endpoints(|_| true, |_| true),
                    kind => records(kind, self.asked.name, ips.into_iter(), self.asked.ttl()),
                }
            }
        }
    }

    /// `_tcp`: names below it exist if a port has the protocol.
    fn protocol(&self, label: &str) -> Lookup {
        let wanted = label.trim_start_matches('_');
        match self.ports().iter().any(|port| *port.protocol == *wanted) {
            true => Lookup::NonTerminal,
            false => Lookup::Absent,
        }
    }

    /// `_http._tcp`.
    fn port(&self, port: &str, protocol: &str) -> Lookup {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Lookup::Absent;
        };
        let matches =
            |facts: &PortFacts| *facts.protocol == *protocol && facts.name.eq_ignore_ascii_case(port);
        let exists = self.ports().iter().any(|port| matches(port));
        match (&self.facts.kind, self.asked.kind) {
            _ if !exists => Lookup::Absent,
            (ServiceKind::Cluster(_), RecordType::SRV | RecordType::ANY) => {
                self.servers(self.facts.ports.iter().filter(|port| matches(port)))
            }
            (ServiceKind::Headless { .. }, RecordType::SRV | RecordType::ANY) => {
                self.servers_of_endpoints(|_| true, matches)
            }
            _ => Lookup::Empty,
        }
    }

    /// The host name of an endpoint, or its address with dashes.
    fn endpoint(&self, label: &str) -> Lookup {
        let named = || self.endpoints().filter(|(_, endpoint)| endpoint.label() == label);
        if named().next().is_none() {
            return Lookup::Absent;
        }
        match self.asked.kind {
            RecordType::SRV => self.servers_of_endpoints(|endpoint| endpoint.label() == label, |_| true),
            kind => {
                let ips = distinct(named().map(|(_, endpoint)| endpoint.ip));
                records(kind, self.asked.name, ips.into_iter(), self.asked.ttl())
            }
        }
    }

    /// The ports of the Service; of a headless one those of its endpoints.
    fn ports(&self) -> Vec<&'a PortFacts> {
        match self.facts.kind {
            ServiceKind::Cluster(_) => self.facts.ports.iter().collect(),
            ServiceKind::Headless { .. } => self.endpoints().flat_map(|(ports, _)| ports).collect(),
            ServiceKind::External(_) => Vec::new(),
        }
    }

    /// Endpoints that have names, with the ports of their slices.
    fn endpoints(&self) -> impl Iterator<Item = (&'a [PortFacts], &'a EndpointFacts)> + use<'a> {
        let all = matches!(self.facts.kind, ServiceKind::Headless { publish_not_ready: true });
        let slices = self.asked.index.slices_of(self.key);
        let endpoints =
            slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| (&*slice.ports, endpoint)));
        endpoints.filter(move |(_, endpoint)| all || endpoint.ready)
    }

    /// Ports of the cluster IPs.
    fn servers<'p>(&self, ports: impl Iterator<Item = &'p PortFacts>) -> Lookup {
        let Some(target) = self.target("") else { return Lookup::Empty };
        let servers = ports.map(|port| (target.clone(), port.port)).collect();
        self.srv(servers, self.facts.cluster_ips().iter().map(|ip| (target.clone(), *ip)).collect())
    }

    /// Ports of endpoints.
    fn servers_of_endpoints(
        &self,
        wanted: impl Fn(&EndpointFacts) -> bool,
        port: impl Fn(&PortFacts) -> bool,
    ) -> Lookup {
        let (mut servers, mut addresses) = (Vec::new(), Vec::new());
        for (ports, endpoint) in self.endpoints().filter(|(_, endpoint)| wanted(endpoint)) {
            let Some(target) = self.target(&endpoint.label()) else { continue };
            let before = servers.len();
            servers.extend(ports.iter().filter(|p| port(p)).map(|port| (target.clone(), port.port)));
            if servers.len() > before {
                addresses.push((target, endpoint.ip));
            }
        }
        self.srv(servers, addresses)
    }

    /// Each server has the same priority and weight.
    fn srv(&self, servers: Vec<(Name, u16)>, addresses: Vec<(Name, IpAddr)>) -> Lookup {
        let servers = distinct(servers.into_iter());
        if servers.is_empty() {
            return Lookup::Empty;
        }
        let addresses = distinct(addresses.into_iter());
        let additionals = addresses.iter().map(|(name, ip)| record(name, *ip, self.asked.ttl())).collect();
        let weight = u16::try_from(100 / servers.len()).unwrap_or(1).max(1);
        let srv = |(target, port)| self.asked.record(RData::SRV(SRV::new(0, weight, port, target)));
        Lookup::Records { answers: servers.into_iter().map(srv).collect(), additionals }
    }

    /// The name of the service, or of an endpoint of it, in full.
    fn target(&self, label: &str) -> Option<Name> {
        let (namespace, service) = crate::index::split(self.key);
        let labels = [label, service, namespace, "svc"];
        let labels = labels.into_iter().filter(|label| !label.is_empty()).map(str::as_bytes);
        let mut name = Name::from_labels(labels).ok()?;
        name.set_fqdn(false);
        name.append_domain(self.asked.settings.domain()).ok()
    }
}

/// Each item once, in the order of the first ones.
fn distinct<T: std::hash::Hash + Eq + Clone>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen: HashSet<T> = HashSet::new();
    items.filter(|item: &T| seen.insert(item.clone())).collect::<Vec<T>>()
}
