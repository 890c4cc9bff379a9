//! One Service and its endpoints to frontends and backend sets.
//!
//! In: facts of the service and of its slices, the node. Out: [`ServicePlan`], without numbers of sets, which
//! [`crate::diff`] gives. Endpoints are chosen as kube-proxy chooses them: ready ones, else those that serve while
//! they terminate (KEP-1669), separately for the Cluster and the Local policy; topology hints as in KEP-2433/3015.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_policy::Prefix;

use crate::index::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts};

/// The node that is planned for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub zone: Box<str>,
    /// Where node ports listen.
    pub addrs: Vec<IpAddr>,
    /// Other nodes' addresses, to whose node ports packets come that these nodes passed on.
    pub others: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Distinct and not empty; backends sorted, each once.
    pub sets: Vec<Vec<Backend>>,
    /// Distinct and not empty; see [`ServiceFacts::ranges_v4`].
    pub ranges: Vec<Box<[Prefix]>>,
    pub frontends: BTreeMap<ServiceKey, Frontend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Place in [`ServicePlan::sets`]; `None`: no backend, then a flag says what to do.
    pub set: Option<usize>,
    /// Place in [`ServicePlan::ranges`]; `None`: everybody may.
    pub ranges: Option<usize>,
    /// Place in [`ServiceFacts::ports`].
    pub port: usize,
    pub affinity: u32,
    pub flags: u32,
}

/// Where traffic to a frontend may go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Cluster,
    Local,
}

pub fn compile<'a>(
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts> + Clone,
    place: &Place,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    for (number, port) in service.ports.iter().enumerate() {
        for v4 in [true, false] {
            // A service is of the families of its cluster addresses; nothing of another family leads to it. One
            // without any, which is a pod's host ports, is of the families of its endpoint.
            let of_family = match service.cluster_ips.is_empty() {
                true => slices.clone().any(|slice| slice.v4 == v4),
                false => service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4),
            };
            if !of_family {
                continue;
            }
            let endpoints = Endpoints::collect(port, slices.clone().filter(|slice| slice.v4 == v4), place);
            let mut adder =
                Adder { plan: &mut plan, service, number, port, endpoints: &endpoints, ranges: &[] };
            let family = |ip: &&IpAddr| ip.is_ipv4() == v4;
            adder.cluster(service.cluster_ips.iter().filter(family));
            // First the balancer's addresses: one that is an external address too stays restricted.
            adder.ranges = if v4 { &service.ranges_v4 } else { &service.ranges_v6 };
            adder.external(service.balancer_ips.iter().filter(family), port.port);
            adder.ranges = &[];
            adder.external(service.external_ips.iter().filter(family), port.port);
            if port.node_port != 0 {
                adder.external(place.addrs.iter().filter(family), port.node_port);
                if service.is_direct() {
                    adder.passed_on(place.others.iter().filter(family), port.node_port);
                }
            }
        }
    }
    if !service.ports.is_empty() {
        let refused = Frontend { set: None, ranges: None, port: 0, affinity: 0, flags: ServiceValue::REJECT };
        let rest = service.cluster_ips.iter().map(|ip| (ServiceKey::any_port((*ip).into()), refused));
        plan.frontends.extend(rest);
    }
    plan
}

/// Backends of one port and family by policy.
struct Endpoints {
    cluster: Vec<Backend>,
    local: Vec<Backend>,
    /// Whether any node could serve: what is missing only here is dropped, what is missing everywhere is refused.
    anywhere: bool,
}

impl Endpoints {
    fn collect<'a>(port: &PortFacts, slices: impl Iterator<Item = &'a SliceFacts>, place: &Place) -> Self {
        // An endpoint may stand in two slices for a moment; ready wins.
        let mut all: BTreeMap<(Addr, u16), &EndpointFacts> = BTreeMap::new();
        for slice in slices {
            let ports = slice.ports.iter();
            for (_, _, number) in ports.filter(|(name, proto, _)| *name == port.name && *proto == port.proto)
            {
                for endpoint in &slice.endpoints {
                    let known = all.entry((endpoint.addr, *number)).or_insert(endpoint);
                    if endpoint.ready && !known.ready {
                        *known = endpoint;
                    }
                }
            }
        }
        let topology = Topology::of(all.values().copied().filter(|e| e.ready), &place.zone);
        let pick = |wanted: &dyn Fn(&EndpointFacts) -> bool| -> Vec<Backend> {
            let chosen = all.iter().filter(|(_, endpoint)| wanted(endpoint));
            chosen
                .map(|((addr, port), _)| Backend { addr: *addr, port: Be16::new(*port), reserved: 0 })
                .collect()
        };
        let or_terminating = |ready: Vec<Backend>, local: bool| match ready.is_empty() {
            true => pick(&|e| !e.ready && (e.local || !local)),
            false => ready,
        };
        Endpoints {
            cluster: or_terminating(pick(&|e| e.ready && topology.admits(e, &place.zone)), false),
            local: or_terminating(pick(&|e| e.ready && e.local), true),
            anywhere: !all.is_empty(),
        }
    }
}

/// Hints hold only if every ready endpoint has them and one is meant for here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

impl Topology {
    fn of<'a>(ready: impl Iterator<Item = &'a EndpointFacts> + Clone, zone: &str) -> Self {
        let hints = ready.map(|endpoint| endpoint.hints.as_deref());
        let all_nodes = hints.clone().all(|h| h.is_some_and(|h| h.nodes));
        if all_nodes && hints.clone().flatten().any(|h| h.this_node) {
            return Topology::SameNode;
        }
        let all_zones = hints.clone().all(|h| h.is_some_and(|h| !h.zones.is_empty()));
        if all_zones && hints.flatten().any(|h| h.zones.iter().any(|z| z.as_ref() == zone)) {
            return Topology::SameZone;
        }
        Topology::Anywhere
    }

    fn admits(self, endpoint: &EndpointFacts, zone: &str) -> bool {
        let hints = endpoint.hints.as_deref();
        match self {
            Topology::Anywhere => true,
            Topology::SameNode => hints.is_some_and(|h| h.this_node),
            Topology::SameZone => hints.is_some_and(|h| h.zones.iter().any(|z| z.as_ref() == zone)),
        }
    }
}

struct Adder<'p, 's> {
    plan: &'p mut ServicePlan,
    service: &'s ServiceFacts,
    number: usize,
    port: &'s PortFacts,
    endpoints: &'s Endpoints,
    /// The clients that may use what is added, from inside and from outside alike.
    ranges: &'s [Prefix],
}

impl Adder<'_, '_> {
    fn cluster<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>) {
        let policy = if self.service.internal_local { Policy::Local } else { Policy::Cluster };
        for addr in addrs {
            self.add(key(*addr, self.port.port, self.port.proto, Scope::INTERNAL), policy, 0);
        }
    }

    /// Seen from within the cluster an external address is short-cut to all endpoints, whatever its policy.
    fn external<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>, port: u16) {
        let (policy, flags) = match self.service.external_local {
            true => (Policy::Local, ServiceValue::KEEP_SOURCE),
            false if self.service.is_direct() => (Policy::Cluster, ServiceValue::DSR),
            false => (Policy::Cluster, 0),
        };
        for addr in addrs {
            let proto = self.port.proto;
            self.add(key(*addr, port, proto, Scope::INTERNAL), Policy::Cluster, 0);
            self.add(key(*addr, port, proto, Scope::EXTERNAL), policy, flags);
        }
    }

    fn passed_on<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>, port: u16) {
        for addr in addrs {
            let key = key(*addr, port, self.port.proto, Scope::EXTERNAL);
            self.add(key, Policy::Cluster, ServiceValue::DSR);
        }
    }

    fn add(&mut self, key: ServiceKey, policy: Policy, flags: u32) {
        let backends = match policy {
            Policy::Cluster => &self.endpoints.cluster,
            Policy::Local => &self.endpoints.local,
        };
        if backends.is_empty() {
            let elsewhere = policy == Policy::Local && self.endpoints.anywhere;
            let action = if elsewhere { ServiceValue::DROP } else { ServiceValue::REJECT };
            return self.insert(key, None, flags | action);
        }
        let set = place_of(&mut self.plan.sets, backends);
        self.insert(key, Some(set), flags);
    }

    fn insert(&mut self, key: ServiceKey, set: Option<usize>, flags: u32) {
        let affinity = self.service.affinity;
        let ranges = (!self.ranges.is_empty()).then(|| place_of(&mut self.plan.ranges, self.ranges));
        let frontend = Frontend { set, ranges, port: self.number, affinity, flags };
        // Two ports of one service on one frontend: the API refuses it; the first stays.
        self.plan.frontends.entry(key).or_insert(frontend);
    }
}

/// Where the list stands among the others; added if it does not yet.
fn place_of<L, T>(lists: &mut Vec<L>, list: &[T]) -> usize
where
    L: AsRef<[T]> + for<'t> From<&'t [T]>,
    T: PartialEq,
{
    lists.iter().position(|known| known.as_ref() == list).unwrap_or_else(|| {
        lists.push(list.into());
        lists.len() - 1
    })
}

fn key(addr: IpAddr, port: u16, proto: Proto, scope: Scope) -> ServiceKey {
    ServiceKey { addr: addr.into(), port: Be16::new(port), proto, scope }
}
