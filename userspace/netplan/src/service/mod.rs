//! One Service and its endpoints to frontends and backend sets.
//!
//! In: facts of the service and of its slices, the node. Out: [`ServicePlan`]; [`crate::diff`] gives its sets their
//! numbers. Endpoints are chosen as kube-proxy does: ready ones, else those that serve while they terminate (KEP-1669),
//! separately for the Cluster and the Local policy; topology hints as in KEP-2433 and KEP-3015.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_policy::Prefix;

use crate::index::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts};

/// This node, as far as frontends depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    pub zone: Box<str>,
    /// This node's addresses: host ports listen on them.
    pub addrs: Vec<IpAddr>,
    /// Those of them on which node ports listen.
    pub node_port_addrs: Vec<IpAddr>,
    /// Other nodes' addresses: packets to their node ports arrive here if those nodes forward them unchanged (dsr).
    pub other_nodes: Vec<IpAddr>,
}

/// The wanted frontends of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Backend sets, distinct and not empty; backends are sorted, each once.
    pub sets: Vec<Vec<Backend>>,
    /// Lists of source ranges, distinct and not empty; see [`ServiceFacts::ranges_v4`].
    pub ranges: Vec<Box<[Prefix]>>,
    pub frontends: BTreeMap<ServiceKey, Frontend>,
}

/// What one frontend does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into [`ServicePlan::sets`]; `None`: no backend, and `flags` has REJECT, DROP or NODE.
    pub set: Option<usize>,
    /// Index into [`ServicePlan::ranges`]; `None`: all sources are allowed.
    pub ranges: Option<usize>,
    /// Index into [`ServiceFacts::ports`].
    pub port: usize,
    /// As [`ServiceFacts::affinity`].
    pub affinity: u32,
    /// As [`ServiceValue::flags`].
    pub flags: u32,
}

/// Which endpoints a frontend may use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrafficPolicy {
    Cluster,
    Local,
}

/// `slices` are those of the service.
pub fn compile<'a>(
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts> + Clone,
    node: &NodeContext,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    for (number, port) in service.ports.iter().enumerate() {
        for v4 in [true, false] {
            // A service has the families of its cluster IPs; addresses of another family are no frontends of it. Host
            // ports have no cluster IP, and the families of their endpoint.
            let of_family = match service.cluster_ips.is_empty() {
                true => slices.clone().any(|slice| slice.v4 == v4),
                false => service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4),
            };
            if !of_family {
                continue;
            }
            let endpoints = Endpoints::collect(port, slices.clone().filter(|slice| slice.v4 == v4), node);
            let mut adder =
                Adder { plan: &mut plan, service, number, port, endpoints: &endpoints, ranges: &[] };
            let family = |ip: &&IpAddr| ip.is_ipv4() == v4;
            adder.cluster(service.cluster_ips.iter().filter(family));
            if service.of_node {
                continue;
            }
            // The balancer's addresses come first: if one is an external address too, it stays restricted.
            adder.ranges = if v4 { &service.ranges_v4 } else { &service.ranges_v6 };
            adder.external(service.balancer_ips.iter().filter(family), port.port);
            adder.ranges = &[];
            adder.external(service.external_ips.iter().filter(family), port.port);
            if port.node_port != 0 {
                // A host port is no Service's, and has no cluster IP.
                let is_host_port = service.cluster_ips.is_empty();
                let addrs = if is_host_port { &node.addrs } else { &node.node_port_addrs };
                adder.external(addrs.iter().filter(family), port.node_port);
                if service.is_direct() {
                    adder.forwarded(node.other_nodes.iter().filter(family), port.node_port);
                }
            }
        }
    }
    if !service.ports.is_empty() {
        let refused = Frontend { set: None, ranges: None, port: 0, affinity: 0, flags: ServiceValue::REJECT };
        let other_ports = service.cluster_ips.iter().map(|ip| (ServiceKey::any_port((*ip).into()), refused));
        plan.frontends.extend(other_ports);
    }
    plan
}

/// Backends of one port and family, by traffic policy.
struct Endpoints {
    cluster: Vec<Backend>,
    local: Vec<Backend>,
    /// Whether any node has an endpoint. If only this node has none, packets are dropped, otherwise rejected.
    anywhere: bool,
}

impl Endpoints {
    fn collect<'a>(
        port: &PortFacts,
        slices: impl Iterator<Item = &'a SliceFacts>,
        node: &NodeContext,
    ) -> Self {
        // An endpoint may be in two slices while it moves between them; the ready one counts.
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
        let topology = Topology::of(all.values().copied().filter(|e| e.ready), &node.zone);
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
            cluster: or_terminating(pick(&|e| e.ready && topology.admits(e, &node.zone)), false),
            local: or_terminating(pick(&|e| e.ready && e.local), true),
            anywhere: !all.is_empty(),
        }
    }
}

/// Hints count only if every ready endpoint has them and one of them names this node or zone.
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
    /// Allowed sources of the frontends that are added, internal and external ones alike; empty: all.
    ranges: &'s [Prefix],
}

impl Adder<'_, '_> {
    fn cluster<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>) {
        if self.service.of_node {
            for addr in addrs {
                let key = key(*addr, self.port.port, self.port.proto, Scope::INTERNAL);
                self.insert(key, None, ServiceValue::NODE);
            }
            return;
        }
        let policy = if self.service.internal_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        for addr in addrs {
            self.add(key(*addr, self.port.port, self.port.proto, Scope::INTERNAL), policy, 0);
        }
    }

    /// From within the cluster an external address reaches all endpoints, whatever its traffic policy.
    fn external<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>, port: u16) {
        let (policy, flags) = match self.service.external_local {
            true => (TrafficPolicy::Local, ServiceValue::KEEP_SOURCE),
            false if self.service.is_direct() => (TrafficPolicy::Cluster, ServiceValue::DSR),
            false => (TrafficPolicy::Cluster, 0),
        };
        for addr in addrs {
            let proto = self.port.proto;
            self.add(key(*addr, port, proto, Scope::INTERNAL), TrafficPolicy::Cluster, 0);
            self.add(key(*addr, port, proto, Scope::EXTERNAL), policy, flags);
        }
    }

    /// Node ports of other nodes, which forward packets with the client's address (dsr).
    fn forwarded<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>, port: u16) {
        for addr in addrs {
            let key = key(*addr, port, self.port.proto, Scope::EXTERNAL);
            self.add(key, TrafficPolicy::Cluster, ServiceValue::DSR);
        }
    }

    fn add(&mut self, key: ServiceKey, policy: TrafficPolicy, flags: u32) {
        let backends = match policy {
            TrafficPolicy::Cluster => &self.endpoints.cluster,
            TrafficPolicy::Local => &self.endpoints.local,
        };
        if backends.is_empty() {
            let elsewhere = policy == TrafficPolicy::Local && self.endpoints.anywhere;
            let action = if elsewhere { ServiceValue::DROP } else { ServiceValue::REJECT };
            return self.insert(key, None, flags | action);
        }
        let set = intern(&mut self.plan.sets, backends);
        self.insert(key, Some(set), flags);
    }

    fn insert(&mut self, key: ServiceKey, set: Option<usize>, flags: u32) {
        let affinity = self.service.affinity;
        let ranges = (!self.ranges.is_empty()).then(|| intern(&mut self.plan.ranges, self.ranges));
        let frontend = Frontend { set, ranges, port: self.number, affinity, flags };
        // The API refuses two ports of one service on one frontend; the first counts.
        self.plan.frontends.entry(key).or_insert(frontend);
    }
}

/// The index of the list in `lists`; appends it if it is new.
fn intern<L, T>(lists: &mut Vec<L>, list: &[T]) -> usize
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
