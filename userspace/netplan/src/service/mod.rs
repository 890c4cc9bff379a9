//! One Service and its endpoints to frontends and backend sets.
//!
//! In: facts of the service and of its slices, the node. Out: [`ServicePlan`]; [`crate::diff`] gives its sets their
//! numbers. Endpoints are chosen as kube-proxy does: ready ones, else those that serve while they terminate (KEP-1669),
//! separately for the Cluster and the Local policy; topology hints as in KEP-2433 and KEP-3015.

mod block;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_abi::{Addr, Backend, Be16, OtherPorts, Proto, Scope, ServiceKey, ServiceValue};
use skep_policy::Prefix;

use crate::index::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts};
use block::Block;

/// This node, as far as frontends depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    pub zone: Box<str>,
    /// This node's addresses: host ports listen on them.
    pub addrs: Vec<IpAddr>,
    /// Those of them on which node ports listen, and the loopback addresses if they do there.
    pub node_port_addrs: Vec<IpAddr>,
    /// Other nodes' addresses: packets to their node ports arrive here if those nodes forward them unchanged (dsr).
    pub other_nodes: Vec<IpAddr>,
}

/// The wanted frontends of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Backend sets, distinct and not empty; backends are sorted, each as often as its weight says.
    pub sets: Vec<Vec<Backend>>,
    /// Lists of source ranges, distinct and not empty; see [`ServiceFacts::ranges_v4`].
    pub ranges: Vec<Box<[Prefix]>>,
    /// Also [`other_ports_key`]s, with flags of [`OtherPorts`].
    pub frontends: BTreeMap<ServiceKey, Frontend>,
}

/// What one frontend does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into [`ServicePlan::sets`]; `None`: no backend, and `flags` has REJECT, DROP or NODE.
    pub set: Option<usize>,
    /// Index into [`ServicePlan::ranges`]; `None`: all sources are allowed.
    pub ranges: Option<usize>,
    /// Index into [`ServiceFacts::ports`], continued by [`ServiceFacts::shared_ports`].
    pub port: usize,
    /// As [`ServiceFacts::affinity`].
    pub affinity: u32,
    /// As [`ServiceValue::flags`], or flags of [`OtherPorts`].
    pub flags: u32,
}

/// What stands for the ports of the address that have no frontend.
pub fn other_ports_key(addr: Addr) -> ServiceKey {
    ServiceKey { addr, port: Be16(0), proto: Proto(0), scope: Scope::INTERNAL }
}

/// Whether it is an [`other_ports_key`].
pub(crate) fn is_other_ports(key: &ServiceKey) -> bool {
    *key == other_ports_key(key.addr)
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
    let shared: Vec<PortFacts> = service.shared_ports().collect();
    for (number, port) in service.ports.iter().chain(&shared).enumerate() {
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
            let mut adder = Adder::new(&mut plan, service, (number, port), &endpoints);
            adder.service(v4);
            // A host port is no Service's, and has no cluster IP.
            let is_host_port = service.cluster_ips.is_empty();
            let addrs = if is_host_port { &node.addrs } else { &node.node_port_addrs };
            adder.node(addrs.iter().filter(|ip| ip.is_ipv4() == v4));
            adder.forwarded(node.other_nodes.iter().filter(|ip| ip.is_ipv4() == v4));
        }
    }
    plan.frontends.extend(other_ports(service, !shared.is_empty()));
    plan
}

/// What the addresses do with ports that are in no list of the Service: a cluster IP refuses them; `blocks`: some are in blocks.
fn other_ports(service: &ServiceFacts, blocks: bool) -> impl Iterator<Item = (ServiceKey, Frontend)> + '_ {
    let blocks = if blocks { OtherPorts::BLOCKS } else { 0 };
    let frontend = move |ip: &IpAddr, flags| {
        let frontend = Frontend { set: None, ranges: None, port: 0, affinity: 0, flags };
        (other_ports_key((*ip).into()), frontend)
    };
    let others = service.external_ips.iter().chain(&service.balancer_ips).filter(move |_| blocks != 0);
    let own = service.cluster_ips.iter().filter(|_| !service.ports.is_empty());
    let others = others.map(move |ip| frontend(ip, blocks));
    others.chain(own.map(move |ip| frontend(ip, OtherPorts::REFUSED | blocks)))
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
        let mut all: BTreeMap<(Addr, u16), (&EndpointFacts, u8)> = BTreeMap::new();
        for slice in slices {
            let ports = slice.ports.iter();
            let ports = ports.filter(|(name, proto, _)| *name == port.name && *proto == port.proto);
            // Ports in ranges are the same at every endpoint, whatever ports its slice names.
            let same = (port.port == 0).then_some(0);
            for number in ports.map(|(_, _, number)| *number).chain(same) {
                for endpoint in &slice.endpoints {
                    let weighed = (endpoint, slice.weight);
                    let known = all.entry((endpoint.addr, number)).or_insert(weighed);
                    if endpoint.ready && !known.0.ready {
                        *known = weighed;
                    }
                }
            }
        }
        let topology =
            Topology::of(all.values().map(|(endpoint, _)| *endpoint).filter(|e| e.ready), &node.zone);
        let pick = |wanted: &dyn Fn(&EndpointFacts) -> bool| -> Vec<Backend> {
            let chosen = all.iter().filter(|(_, (endpoint, _))| wanted(endpoint));
            let backends = chosen.flat_map(|((addr, port), (_, weight))| {
                let backend = Backend { addr: *addr, port: Be16::new(*port), reserved: 0 };
                std::iter::repeat_n(backend, usize::from(*weight))
            });
            backends.collect()
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
    /// The ports of the Service's addresses.
    blocks: Vec<Block>,
    /// Flags of all frontends of the port.
    flags: u32,
    /// Allowed sources of the frontends that are added, internal and external ones alike; empty: all.
    ranges: &'s [Prefix],
}

impl<'p, 's> Adder<'p, 's> {
    fn new(
        plan: &'p mut ServicePlan,
        service: &'s ServiceFacts,
        (number, port): (usize, &'s PortFacts),
        endpoints: &'s Endpoints,
    ) -> Self {
        let ranges = service.port_ranges.iter().flat_map(|ranges| ranges.iter());
        let (blocks, flags) = match port.port {
            0 => (ranges.flat_map(Block::of_range).collect(), ServiceValue::SAME_PORT),
            port => (vec![Block::of_port(port)], 0),
        };
        Adder { plan, service, number, port, endpoints, blocks, flags, ranges: &[] }
    }
}

impl Adder<'_, '_> {
    /// The Service's own addresses of a family.
    fn service(&mut self, v4: bool) {
        let service = self.service;
        let family = |ip: &&IpAddr| ip.is_ipv4() == v4;
        for block in self.blocks.clone() {
            for addr in service.cluster_ips.iter().filter(family) {
                self.cluster(addr, block);
            }
            if service.of_node {
                continue;
            }
            // The balancer's addresses come first: if one is an external address too, it stays restricted.
            self.ranges = if v4 { &service.ranges_v4 } else { &service.ranges_v6 };
            for addr in service.balancer_ips.iter().filter(family) {
                self.external(addr, block);
            }
            self.ranges = &[];
            for addr in service.external_ips.iter().filter(family) {
                self.external(addr, block);
            }
        }
    }

    fn cluster(&mut self, addr: &IpAddr, block: Block) {
        let key = block.key(*addr, self.port.proto, Scope::INTERNAL);
        if self.service.of_node {
            return self.insert(key, None, ServiceValue::NODE);
        }
        let policy = if self.service.internal_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        self.add(key, policy, 0);
    }

    /// From within the cluster an external address reaches all endpoints, whatever its traffic policy.
    fn external(&mut self, addr: &IpAddr, block: Block) {
        let proto = self.port.proto;
        if let Some(loopback) = Addr::from(*addr).loopback() {
            // SCTP has no socket hook, and a packet with a loopback address never leaves the node.
            if proto != Proto::SCTP {
                let key = block.key(loopback.into(), proto, Scope::LOOPBACK);
                self.add(key, TrafficPolicy::Cluster, 0);
            }
            return;
        }
        let (policy, flags) = match self.service.external_local {
            true => (TrafficPolicy::Local, ServiceValue::KEEP_SOURCE),
            false if self.service.is_direct() => (TrafficPolicy::Cluster, ServiceValue::DSR),
            false => (TrafficPolicy::Cluster, 0),
        };
        self.add(block.key(*addr, proto, Scope::INTERNAL), TrafficPolicy::Cluster, 0);
        self.add(block.key(*addr, proto, Scope::EXTERNAL), policy, flags);
    }

    /// The node port at this node's addresses.
    fn node<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>) {
        let port = self.port.node_port;
        for addr in addrs.filter(|_| port != 0 && !self.service.of_node) {
            self.external(addr, Block::of_port(port));
        }
    }

    /// The node port of other nodes, which forward packets with the client's address (dsr).
    fn forwarded<'i>(&mut self, addrs: impl Iterator<Item = &'i IpAddr>) {
        let port = self.port.node_port;
        for addr in addrs.filter(|_| port != 0 && self.service.is_direct()) {
            let key = Block::of_port(port).key(*addr, self.port.proto, Scope::EXTERNAL);
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
        let frontend = Frontend { set, ranges, port: self.number, affinity, flags: self.flags | flags };
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
