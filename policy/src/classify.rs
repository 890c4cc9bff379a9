//! Peer classes: addresses that match the same rules share one number.
//!
//! In: the sets of peers that rules name, endpoints. Out: the class of a prefix or of an endpoint's address.
//! The signature of an address is the rules that it meets, by their sets of peers, and for pods the port numbers of the
//! named ports in egress rules. Two networks of one rule are one class. A class's number is made from its signature, so
//! equal rules give equal numbers after a restart, and a new agent can adopt the maps in the kernel.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use skep_abi::{Addr, CLASS_ANY, CLASS_OTHER, Proto};

use crate::entries::Prefix;
use crate::identity::{class_hash, peers_hash};
use crate::model::{Endpoint, IpBlock, Peer, Policy, Ports, Rule};
use crate::networks::Networks;
use crate::select::{Labels, Selector};

/// No class has the address's signature: a new generation must be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclassified;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Signature {
    /// Numbers of the sets of peers that contain the address, sorted.
    pub(crate) sets: Vec<u32>,
    /// Index of the named port and its port number, sorted.
    pub(crate) ports: Vec<(u32, u16)>,
}

/// A named port of egress rules, and the endpoints for which it must be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedUse {
    name: Box<str>,
    proto: Proto,
    all_peers: bool,
    sets: BTreeSet<u32>,
}

/// The peers of a rule: sorted, each once.
type PeerSet = Vec<Peer>;

/// Made by [`crate::compile`]; classifies endpoints that come later under the same policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifier {
    /// Sorted, each once.
    sets: Vec<PeerSet>,
    /// Peers other than blocks, with the sets that have them.
    selectors: Vec<(Peer, Vec<u32>)>,
    named: Vec<NamedUse>,
    networks: Networks,
    /// The number of each class.
    pub(crate) ids: BTreeMap<Signature, u32>,
}

impl Classifier {
    /// The peers of `policies`; no class has a number yet.
    pub(crate) fn new<'a>(policies: impl Iterator<Item = &'a Policy> + Clone) -> Self {
        let rules = policies.clone().flat_map(|p| p.ingress.iter().chain(p.egress.iter()).flatten());
        let sets: BTreeSet<PeerSet> = rules.filter_map(|rule| rule.peers.as_deref()).map(peer_set).collect();
        let mut classifier = Classifier { sets: sets.into_iter().collect(), ..Self::default() };
        classifier.collect_named(policies);
        let mut selectors: BTreeMap<&Peer, Vec<u32>> = BTreeMap::new();
        let mut blocks: BTreeMap<&IpBlock, Vec<u32>> = BTreeMap::new();
        for (set, number) in classifier.sets.iter().zip(0..) {
            for peer in set {
                match peer {
                    Peer::Block(block) => blocks.entry(block).or_default().push(number),
                    selector => selectors.entry(selector).or_default().push(number),
                }
            }
        }
        classifier.networks = Networks::new(&blocks);
        classifier.selectors = selectors.into_iter().map(|(peer, sets)| (peer.clone(), sets)).collect();
        classifier
    }

    /// The number of the rule's set of peers; `None` if the rule is for all peers.
    pub(crate) fn set_of(&self, rule: &Rule) -> Option<u32> {
        let set = peer_set(rule.peers.as_deref()?);
        self.sets.binary_search(&set).ok().map(|at| at as u32)
    }

    pub(crate) fn named(&self, name: &str, proto: Proto) -> Option<u32> {
        self.named.iter().position(|n| n.proto == proto && n.name.as_ref() == name).map(|at| at as u32)
    }

    /// Whether any peer can have a class other than [`CLASS_OTHER`].
    pub fn is_trivial(&self) -> bool {
        self.sets.is_empty() && self.named.is_empty()
    }

    /// Whether labels of namespaces matter.
    pub fn reads_namespaces(&self) -> bool {
        self.selectors.iter().any(|(peer, _)| matches!(peer, Peer::Namespaces { .. }))
    }

    fn collect_named<'a>(&mut self, policies: impl Iterator<Item = &'a Policy>) {
        let mut uses: BTreeMap<(Box<str>, Proto), (bool, BTreeSet<u32>)> = BTreeMap::new();
        for rule in policies.flat_map(|p| p.egress.iter().flatten()) {
            for port in rule.ports.iter().flatten() {
                let Ports::Named(name) = &port.ports else { continue };
                let (all_peers, sets) = uses.entry((name.clone(), port.proto)).or_default();
                match self.set_of(rule) {
                    None => *all_peers = true,
                    Some(set) => drop(sets.insert(set)),
                }
            }
        }
        let uses = uses.into_iter();
        self.named = uses
            .map(|((name, proto), (all_peers, sets))| NamedUse { name, proto, all_peers, sets })
            .collect();
    }

    /// The selectors that may select pods of the namespace, with the sets that have them.
    pub(crate) fn selectors_of<'c>(
        &'c self,
        namespace: &Arc<str>,
        namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    ) -> Vec<(&'c Selector, &'c [u32])> {
        let labels = namespaces.get(namespace).map(Arc::as_ref);
        let of =
            |(peer, sets): &'c (Peer, Vec<u32>)| Some((peer.pods_of(namespace, labels)?, sets.as_slice()));
        self.selectors.iter().filter_map(of).collect()
    }

    /// Of an endpoint at an address in the network. `selectors` are those of its namespace.
    pub(crate) fn signature(
        &self,
        selectors: &[(&Selector, &[u32])],
        endpoint: &Endpoint,
        network: Option<u32>,
    ) -> Signature {
        let matching = selectors.iter().filter(|(selector, _)| selector.matches(&endpoint.labels));
        let mut sets: Vec<u32> = matching.flat_map(|(_, sets)| *sets).copied().collect();
        sets.extend_from_slice(self.networks.sets(network));
        sets.sort_unstable();
        sets.dedup();
        let mut ports = Vec::new();
        for (number, named) in self.named.iter().enumerate() {
            let is_used = named.all_peers || sets.iter().any(|set| named.sets.contains(set));
            if is_used && let Some(port) = endpoint.named_port(&named.name, named.proto) {
                ports.push((number as u32, port));
            }
        }
        Signature { sets, ports }
    }

    /// Gives every signature a number; [`CLASS_OTHER`] is the number of the empty one.
    pub(crate) fn assign_ids(&mut self, pods: BTreeSet<Signature>) {
        let mut signatures = pods;
        signatures.extend(self.networks.iter().map(|(_, sets)| of_network(sets)));
        signatures.remove(&Signature::default());
        let hashes: Vec<u64> = self.sets.iter().map(|set| peers_hash(set)).collect();
        let mut used = HashSet::from([CLASS_OTHER, CLASS_ANY]);
        self.ids = BTreeMap::from([(Signature::default(), CLASS_OTHER)]);
        for signature in signatures {
            let mut sets: Vec<u64> =
                signature.sets.iter().filter_map(|n| hashes.get(*n as usize).copied()).collect();
            // Their numbers depend on which other rules there are.
            sets.sort_unstable();
            let ports: Vec<_> = signature
                .ports
                .iter()
                .filter_map(|(n, port)| {
                    self.named.get(*n as usize).map(|u| (u.name.as_ref(), u.proto, *port))
                })
                .collect();
            let mut id = class_hash(&sets, &ports) as u32;
            while !used.insert(id) {
                id = id.wrapping_add(1);
            }
            self.ids.insert(signature, id);
        }
    }

    fn class_of_network(&self, sets: &[u32]) -> u32 {
        self.ids.get(&of_network(sets)).copied().unwrap_or(CLASS_OTHER)
    }

    /// The networks, by which addresses are found.
    pub(crate) fn networks(&self) -> &Networks {
        &self.networks
    }

    /// Prefixes whose class differs from that of the surrounding prefix, in the order of [`Networks::iter`].
    pub(crate) fn prefix_entries(&self) -> Vec<(Prefix, u32)> {
        self.networks.iter().map(|(prefix, sets)| (prefix, self.class_of_network(sets))).collect()
    }

    /// The class to write for this address of the endpoint; `None` if shorter prefixes already give it.
    pub fn classify(
        &self,
        endpoint: &Endpoint,
        addr: Addr,
        namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    ) -> Result<Option<u32>, Unclassified> {
        let selectors = self.selectors_of(&endpoint.namespace, namespaces);
        let signature = self.signature(&selectors, endpoint, self.networks.at(addr));
        let class = *self.ids.get(&signature).ok_or(Unclassified)?;
        let around = self.class_of_network(self.networks.sets(self.networks.around(addr)));
        Ok((class != around).then_some(class))
    }

    /// The class to write for this address while no endpoint has it; `None` if there is nothing to write.
    pub fn vacant(&self, addr: Addr) -> Option<u32> {
        self.networks.single(addr).map(|sets| self.class_of_network(sets))
    }
}

fn of_network(sets: &[u32]) -> Signature {
    Signature { sets: sets.to_vec(), ports: Vec::new() }
}

fn peer_set(peers: &[Peer]) -> PeerSet {
    let mut set = peers.to_vec();
    set.sort_unstable();
    set.dedup();
    set
}
