//! The cluster as this node needs it: small facts extracted from API objects, and what changed since the last plan.
//!
//! In: objects by `apply_*`, keys by `delete_*`, whole lists by `keep_*`. Out: facts, and [`Changes`]. An object whose
//! facts stay the same (a heartbeat, an annotation) changes nothing. A key is `namespace/name`; for nodes and namespaces
//! it is the name.

mod host_port;
mod interner;
mod node;
pub(crate) mod node_service;
mod pod;
mod service;
mod slice;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_abi::Addr;
use skep_policy::{Labels, Policy, PolicyKey, PolicyProblem};

use host_port::HostPorts;
use interner::Interner;
pub use node::NodeFacts;
pub use pod::{EGRESS_BANDWIDTH, INGRESS_BANDWIDTH, PodFacts};
pub use service::{Forwarding, PortFacts, ServiceFacts};
pub use slice::{EndpointFacts, Hints, SliceFacts};

/// The Service of the API servers.
pub(crate) const API_SERVER: &str = "default/kubernetes";
/// Suffixes of the keys of host ports' slices.
const FAMILIES: [&str; 2] = ["v4", "v6"];

/// What must be compiled again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys of services that changed, or whose slices did.
    pub services: BTreeSet<Arc<str>>,
    /// Addresses whose pod appeared, disappeared or changed.
    pub peers: BTreeSet<Addr>,
    /// All policies must be compiled again.
    pub policy: bool,
    /// Namespaces whose policies changed.
    pub policies: BTreeSet<Arc<str>>,
    /// Labels of a namespace changed.
    pub namespaces: bool,
    /// Pods of this node came, went, or changed in what policies read of them.
    pub locals: bool,
    /// Any node changed.
    pub nodes: bool,
}

/// Facts by key. Accepts objects in any order, each any number of times.
#[derive(Debug, Default)]
pub struct Index {
    /// The name of this node.
    node: String,
    pub(crate) services: BTreeMap<Arc<str>, ServiceFacts>,
    slices: HashMap<Arc<str>, SliceFacts>,
    /// Keys of a service's slices, sorted.
    by_service: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Services that need more than map entries: their addresses are announced, or their health is served.
    announced: BTreeSet<Arc<str>>,
    /// By a pod's key: the keys of the Services of its hostPorts.
    host_ports: HashMap<Arc<str>, Vec<Arc<str>>>,
    pub(crate) pods: BTreeMap<Arc<str>, PodFacts>,
    by_addr: HashMap<Addr, Vec<Arc<str>>>,
    pub(crate) nodes: BTreeMap<Arc<str>, NodeFacts>,
    pub(crate) namespaces: BTreeMap<Arc<str>, Arc<Labels>>,
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    problems: BTreeMap<PolicyKey, Vec<PolicyProblem>>,
    interner: Interner,
    pub(crate) changes: Changes,
    /// Services with external IPs, and how many have each.
    with_external_ips: BTreeSet<Arc<str>>,
    external_ips: HashMap<Addr, usize>,
    /// See [`Index::published_version`].
    published_version: u64,
}

/// `namespace/name`, or the name alone for objects without a namespace.
pub fn key_of(meta: &ObjectMeta) -> Arc<str> {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

impl Changes {
    /// Whether verdicts or classes may change.
    pub(crate) fn concern_policy(&self) -> bool {
        self.policy || self.namespaces || self.locals || !self.policies.is_empty() || !self.peers.is_empty()
    }

    /// Forgets what may change verdicts and classes.
    pub(crate) fn clear_policy(&mut self) {
        let Changes { policy, policies, namespaces, locals, peers, services: _, nodes: _ } = self;
        (*policy, *namespaces, *locals) = (false, false, false);
        policies.clear();
        peers.clear();
    }
}

impl Index {
    /// `node` is the name of this node.
    pub fn new(node: &str) -> Self {
        Index { node: node.to_owned(), ..Index::default() }
    }

    pub fn apply_service(&mut self, service: &Service) {
        let key = key_of(&service.metadata);
        match ServiceFacts::extract(service) {
            Some(facts) => {
                match node_service::peer(service, &facts, &mut self.interner) {
                    Some(peer) => self.put_pod(node_service::peer_key(&key), peer),
                    None => self.remove_peer(&key),
                }
                self.put_service(key, facts);
            }
            None => self.delete_service(&key),
        }
    }

    /// Removes the peer that stands for the service, which is one that nodes can serve themselves.
    fn remove_peer(&mut self, service: &str) {
        if service == service::DNS {
            self.remove_pod(&node_service::peer_key(service));
        }
    }

    fn put_service(&mut self, key: Arc<str>, facts: ServiceFacts) {
        let key = match self.services.get_key_value(&key) {
            Some((_, before)) if *before == facts => return,
            Some((known, _)) => known.clone(),
            None => self.known_key(key),
        };
        self.changes.services.insert(key.clone());
        self.unlink_service(&key);
        let is_announced = facts.health_check_port != 0 || facts.announced().next().is_some();
        set_member(&mut self.announced, &key, is_announced && !host_port::is_host_port(&key));
        // Host ports have no cluster IP: their addresses are those of the node anyway.
        let has_external_ips = !facts.external_ips.is_empty() && !facts.cluster_ips.is_empty();
        set_member(&mut self.with_external_ips, &key, has_external_ips);
        if has_external_ips {
            let addrs = facts.external_ips.iter().map(|ip| Addr::from(*ip));
            addrs.for_each(|addr| *self.external_ips.entry(addr).or_default() += 1);
        }
        self.note_service(&key, &facts);
        self.services.insert(key, facts);
    }

    /// Takes back what the service's present facts brought.
    fn unlink_service(&mut self, key: &str) {
        let Some(facts) = self.services.remove(key) else { return };
        self.note_service(key, &facts);
        self.announced.remove(key);
        if self.with_external_ips.remove(key) {
            for addr in facts.external_ips.iter().map(|ip| Addr::from(*ip)) {
                match self.external_ips.get_mut(&addr) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(self.external_ips.remove(&addr)),
                }
            }
        }
    }

    /// Notes that what is published may change with this service: it is announced, it is DNS, or it has the address of another's
    /// external IP.
    fn note_service(&mut self, key: &str, facts: &ServiceFacts) {
        let is_published = self.announced.contains(key) || key == service::DNS;
        let takes = || facts.cluster_ips.iter().any(|ip| self.external_ips.contains_key(&Addr::from(*ip)));
        if is_published || takes() {
            self.published_version += 1;
        }
    }

    /// As [`Index::note_service`], of a slice of the service.
    fn note_slice(&mut self, service: &str) {
        let counts_endpoints = |facts: &ServiceFacts| facts.external_local || facts.health_check_port != 0;
        let is_published =
            self.announced.contains(service) && self.services.get(service).is_some_and(counts_endpoints);
        if is_published || service == API_SERVER && !self.external_ips.is_empty() {
            self.published_version += 1;
        }
    }

    /// As [`Index::note_service`], of a pod's address.
    fn note_addr(&mut self, addr: Addr) {
        if self.external_ips.contains_key(&addr) {
            self.published_version += 1;
        }
    }

    /// One allocation for a service's key, wherever it is kept.
    fn known_key(&self, key: Arc<str>) -> Arc<str> {
        let of_service = self.services.get_key_value(&key).map(|(known, _)| known);
        of_service
            .or_else(|| self.by_service.get_key_value(&key).map(|(known, _)| known))
            .cloned()
            .unwrap_or(key)
    }

    /// Grows when anything changes of which announcements and health checks are made.
    pub fn published_version(&self) -> u64 {
        self.published_version
    }

    pub fn delete_service(&mut self, key: &str) {
        self.remove_peer(key);
        if let Some((known, _)) = self.services.get_key_value(key) {
            self.changes.services.insert(known.clone());
            self.unlink_service(key);
        }
    }

    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = key_of(&slice.metadata);
        match SliceFacts::extract(slice, &self.node) {
            Some(mut facts) => {
                facts.ready_nodes.iter_mut().for_each(|name| *name = self.interner.text(name));
                self.put_slice(key, facts);
            }
            None => self.delete_slice(&key),
        }
    }

    fn put_slice(&mut self, key: Arc<str>, mut facts: SliceFacts) {
        match self.slices.get(&key) {
            Some(before) if *before == facts => return,
            Some(_) => self.delete_slice(&key),
            None => {}
        }
        facts.service = self.known_key(facts.service);
        self.note_slice(&facts.service);
        self.changes.services.insert(facts.service.clone());
        match self.by_service.get_mut(&facts.service) {
            Some(slices) => slices.insert(slices.partition_point(|other| *other < key), key.clone()),
            None => drop(self.by_service.insert(facts.service.clone(), vec![key.clone()])),
        }
        self.slices.insert(key, facts);
    }

    pub fn delete_slice(&mut self, key: &str) {
        let Some(facts) = self.slices.remove(key) else { return };
        if let Some(slices) = self.by_service.get_mut(&facts.service) {
            slices.retain(|other| **other != *key);
            if slices.is_empty() {
                self.by_service.remove(&facts.service);
            }
        }
        self.note_slice(&facts.service);
        self.changes.services.insert(facts.service);
    }

    pub fn apply_pod(&mut self, pod: &Pod) {
        let key = key_of(&pod.metadata);
        let facts = PodFacts::extract(pod, &self.node, &mut self.interner);
        let ports = match facts.on_this_node {
            true => host_port::extract(pod, &key, &facts.endpoint.addrs),
            false => Vec::new(),
        };
        self.put_host_ports(&key, ports);
        self.put_pod(key, facts);
    }

    fn put_pod(&mut self, key: Arc<str>, facts: PodFacts) {
        let before = self.pods.get(&key);
        if before == Some(&facts) {
            return;
        }
        // The attachment gives the addresses of a pod of this node; only its labels and ports matter here.
        let policy_of = |facts: &PodFacts| {
            let endpoint = &facts.endpoint;
            (endpoint.labels.clone(), endpoint.ports.clone(), facts.uid.clone())
        };
        self.changes.locals |= facts.on_this_node && before.map(policy_of) != Some(policy_of(&facts));
        self.unlink_addrs(&key);
        for addr in facts.endpoint.addrs.iter() {
            match self.by_addr.get_mut(addr) {
                Some(keys) => keys.push(key.clone()),
                None => drop(self.by_addr.insert(*addr, vec![key.clone()])),
            }
            self.changes.peers.insert(*addr);
            self.note_addr(*addr);
        }
        self.pods.insert(key, facts);
    }

    fn put_host_ports(&mut self, pod: &Arc<str>, ports: Vec<HostPorts>) {
        let before = self.host_ports.remove(pod).unwrap_or_default();
        let now: Vec<Arc<str>> = ports.iter().map(|ports| ports.key.clone()).collect();
        for key in before.iter().filter(|key| !now.contains(key)) {
            self.delete_service(key);
            FAMILIES.iter().for_each(|family| self.delete_slice(&format!("{key}/{family}")));
        }
        for HostPorts { key, service, slices } in ports {
            self.put_service(key.clone(), service);
            for (family, slice) in FAMILIES.iter().zip(slices) {
                let slice_key = format!("{key}/{family}");
                match slice {
                    Some(slice) => self.put_slice(slice_key.into(), slice),
                    None => self.delete_slice(&slice_key),
                }
            }
        }
        if !now.is_empty() {
            self.host_ports.insert(pod.clone(), now);
        }
    }

    pub fn delete_pod(&mut self, key: &str) {
        self.put_host_ports(&key.into(), Vec::new());
        self.remove_pod(key);
    }

    fn remove_pod(&mut self, key: &str) {
        self.unlink_addrs(key);
        if let Some(facts) = self.pods.remove(key) {
            self.changes.locals |= facts.on_this_node;
        }
    }

    fn unlink_addrs(&mut self, key: &str) {
        let Some(addrs) = self.pods.get(key).map(|facts| facts.endpoint.addrs.clone()) else { return };
        for addr in addrs.iter() {
            self.changes.peers.insert(*addr);
            self.note_addr(*addr);
            if let Some(keys) = self.by_addr.get_mut(addr) {
                keys.retain(|other| other.as_ref() != key);
                if keys.is_empty() {
                    self.by_addr.remove(addr);
                }
            }
        }
    }

    pub fn apply_node(&mut self, node: &Node) {
        let key = key_of(&node.metadata);
        let facts = NodeFacts::extract(node);
        let before = self.nodes.get(&key);
        if before == Some(&facts) {
            return;
        }
        self.changes.nodes = true;
        self.published_version += 1;
        let of_services =
            |facts: &NodeFacts| (facts.internal_ips.clone(), facts.external_ips.clone(), facts.zone.clone());
        // Node ports use this node's addresses, and hints name its zone.
        let moved = before.map(of_services) != Some(of_services(&facts));
        if moved {
            self.mark_services_of(&key);
        }
        self.nodes.insert(key, facts);
    }

    /// Marks the services whose frontends depend on the node's addresses: all for this node; for another node those with
    /// dsr, whose node ports exist at every node's addresses.
    fn mark_services_of(&mut self, node: &str) {
        let is_this_node = *node == *self.node;
        let dependent = self.services.iter().filter(|(_, service)| is_this_node || service.is_direct());
        self.changes.services.extend(dependent.map(|(key, _)| key.clone()));
    }

    /// Marks all services: this node's addresses changed.
    pub(crate) fn mark_own_services(&mut self) {
        self.changes.services.extend(self.services.keys().cloned());
    }

    pub fn delete_node(&mut self, key: &str) {
        // This node keeps its addresses even if its Node object is deleted.
        if *key != *self.node && self.nodes.remove(key).is_some() {
            self.changes.nodes = true;
            self.published_version += 1;
            self.mark_services_of(key);
        }
    }

    pub fn apply_namespace(&mut self, namespace: &Namespace) {
        let name = self.interner.text(&key_of(&namespace.metadata));
        let labels = self.interner.labels(Labels::from(namespace.metadata.labels.as_ref()));
        if self.namespaces.get(&name) != Some(&labels) {
            self.changes.namespaces = true;
            self.namespaces.insert(name, labels);
        }
    }

    pub fn delete_namespace(&mut self, key: &str) {
        self.changes.namespaces |= self.namespaces.remove(key).is_some();
    }

    pub fn apply_policy(&mut self, object: &NetworkPolicy) {
        let key = PolicyKey {
            namespace: self.interner.text(object.metadata.namespace.as_deref().unwrap_or_default()),
            name: object.metadata.name.as_deref().unwrap_or_default().into(),
        };
        let (policy, problems) = Policy::parse(&key, object);
        self.put_policy(key, policy, problems);
    }

    /// A policy of that name exists and cannot be decoded.
    pub fn apply_unreadable_policy(&mut self, meta: &ObjectMeta, error: &str) {
        let key = PolicyKey {
            namespace: self.interner.text(meta.namespace.as_deref().unwrap_or_default()),
            name: meta.name.as_deref().unwrap_or_default().into(),
        };
        let (policy, problem) = Policy::unreadable(&key, error);
        self.put_policy(key, policy, vec![problem]);
    }

    fn put_policy(&mut self, key: PolicyKey, policy: Policy, problems: Vec<PolicyProblem>) {
        if problems.is_empty() {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
        if self.policies.get(&key) != Some(&policy) {
            self.changes.policies.insert(key.namespace.clone());
            self.policies.insert(key, policy);
        }
    }

    pub fn delete_policy(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let key = PolicyKey { namespace: namespace.into(), name: name.into() };
        self.problems.remove(&key);
        if self.policies.remove(&key).is_some() {
            self.changes.policies.insert(key.namespace);
        }
    }

    /// What is wrong in the policies.
    pub fn problems(&self) -> impl Iterator<Item = &PolicyProblem> {
        self.problems.values().flatten()
    }

    /// After a complete list: deletes the services that are not in it. The other `keep_*` do the same for their kinds.
    pub fn keep_services(&mut self, listed: &HashSet<Arc<str>>) {
        let services = self.services.keys().filter(|key| !host_port::is_host_port(key));
        missing(services, listed).iter().for_each(|key| self.delete_service(key));
    }

    pub fn keep_slices(&mut self, listed: &HashSet<Arc<str>>) {
        let slices = self.slices.keys().filter(|key| !host_port::is_host_port(key));
        missing(slices, listed).iter().for_each(|key| self.delete_slice(key));
    }

    pub fn keep_pods(&mut self, listed: &HashSet<Arc<str>>) {
        let pods = self.pods.keys().filter(|key| !node_service::is_peer(key));
        missing(pods, listed).iter().for_each(|key| self.delete_pod(key));
    }

    pub fn keep_nodes(&mut self, listed: &HashSet<Arc<str>>) {
        missing(self.nodes.keys(), listed).iter().for_each(|key| self.delete_node(key));
    }

    pub fn keep_namespaces(&mut self, listed: &HashSet<Arc<str>>) {
        missing(self.namespaces.keys(), listed).iter().for_each(|key| self.delete_namespace(key));
    }

    pub fn keep_policies(&mut self, listed: &HashSet<Arc<str>>) {
        let keys: Vec<Arc<str>> = self.policies.keys().map(|key| key.to_string().into()).collect();
        missing(keys.iter(), listed).iter().for_each(|key| self.delete_policy(key));
    }

    /// The facts of a pod by its key.
    pub fn pod(&self, key: &str) -> Option<&PodFacts> {
        self.pods.get(key)
    }

    /// The pod that has the address; while two have it, the one that is not being deleted.
    pub(crate) fn pod_at(&self, addr: Addr) -> Option<&PodFacts> {
        self.keyed_pod_at(addr).map(|(_, facts)| facts)
    }

    /// As [`Index::pod_at`], with the pod's key.
    pub(crate) fn keyed_pod_at(&self, addr: Addr) -> Option<(&Arc<str>, &PodFacts)> {
        let pods = self.by_addr.get(&addr)?.iter().filter_map(|key| Some((key, self.pods.get(key)?)));
        pods.max_by_key(|(key, facts)| (!facts.deleting, *key))
    }

    /// The name of the node with the address.
    pub(crate) fn node_at(&self, addr: Addr) -> Option<&Arc<str>> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, node)| node.addrs().any(|own| Addr::from(own) == addr)).map(|(name, _)| name)
    }

    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &SliceFacts> + Clone {
        let keys = self.by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    /// Services whose addresses are announced, or whose health is served.
    pub(crate) fn announced_services(&self) -> impl Iterator<Item = (&Arc<str>, &ServiceFacts)> {
        self.announced.iter().filter_map(|key| self.services.get_key_value(key))
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &NodeFacts)> {
        self.nodes.iter().map(|(name, facts)| (name.as_ref(), facts))
    }

    pub(crate) fn has_ready_endpoint(&self, service: &str, node: &str) -> bool {
        self.slices_of(service).any(|slice| slice.ready_nodes.iter().any(|name| name.as_ref() == node))
    }

    pub(crate) fn this_node(&self) -> Option<&NodeFacts> {
        self.nodes.get(self.node.as_str())
    }

    /// Takes less memory for the same content: maps that grew have half-empty nodes.
    pub(crate) fn compact(&mut self) {
        compact(&mut self.services);
        compact(&mut self.pods);
        self.slices.shrink_to_fit();
        self.by_service.shrink_to_fit();
        self.by_addr.shrink_to_fit();
    }

    /// Drops shared values that no fact refers to any more, once they may be most of them.
    pub(crate) fn shrink(&mut self) {
        self.interner.shrink();
    }

    /// The networks of this node's pods; empty until its Node object has them.
    pub fn pod_cidrs(&self) -> Vec<ipnetwork::IpNetwork> {
        self.this_node().map(|node| node.pod_cidrs.to_vec()).unwrap_or_default()
    }

    /// Addresses in this node's Node object.
    pub(crate) fn node_addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.this_node().into_iter().flat_map(NodeFacts::addrs)
    }

    /// Addresses of the other nodes.
    pub(crate) fn other_addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let others = self.nodes.iter().filter(|(name, _)| ***name != *self.node);
        others.flat_map(|(_, node)| node.addrs())
    }

    /// The facts of a Service without external IPs that are another's: it would take the traffic of a node, a pod, the API
    /// server or another Service. Host ports have the addresses of their node.
    pub(crate) fn without_taken<'f>(&self, facts: &'f ServiceFacts) -> Cow<'f, ServiceFacts> {
        let is_taken = |ip: &IpAddr| !facts.cluster_ips.is_empty() && self.is_taken(*ip);
        if !facts.external_ips.iter().any(is_taken) {
            return Cow::Borrowed(facts);
        }
        let external_ips = facts.external_ips.iter().filter(|ip| !is_taken(ip)).copied().collect();
        Cow::Owned(ServiceFacts { external_ips, ..facts.clone() })
    }

    fn is_taken(&self, ip: IpAddr) -> bool {
        let addr = Addr::from(ip);
        let of_node = |node: &NodeFacts| {
            node.addrs().any(|own| own == ip) || node.pod_cidrs.iter().any(|cidr| cidr.contains(ip))
        };
        let mut servers = self.slices_of(API_SERVER).flat_map(|slice| slice.endpoints.iter());
        self.nodes.values().any(of_node)
            || self.by_addr.contains_key(&addr)
            || servers.any(|server| server.addr == addr)
            || self.services.values().any(|service| service.cluster_ips.contains(&ip))
    }

    /// The Services that take external IPs.
    pub(crate) fn with_external_ips(&self) -> impl Iterator<Item = &Arc<str>> {
        self.with_external_ips.iter()
    }

    /// The addresses at which this node itself serves DNS.
    pub fn dns_addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let service = self.services.get(service::DNS).filter(|facts| facts.of_node);
        service.into_iter().flat_map(|facts| facts.cluster_ips.iter().copied())
    }

    pub(crate) fn node_name(&self) -> &str {
        &self.node
    }
}

/// The same map of full nodes.
pub(crate) fn compact<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

fn set_member(set: &mut BTreeSet<Arc<str>>, key: &Arc<str>, is_member: bool) {
    match is_member {
        true => drop(set.insert(key.clone())),
        false => drop(set.remove(key)),
    }
}

fn missing<'a>(known: impl Iterator<Item = &'a Arc<str>>, listed: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
    known.filter(|key| !listed.contains(*key)).cloned().collect()
}
