//! Peer classes: addresses that match the same rules share one number.
//!
//! In: the peers that rules name (*atoms*), endpoints. Out: the class of a prefix or of an endpoint's address.
//! The signature of an address is the set of atoms that match it and, for pods, the port numbers of the named ports in
//! egress rules. A class's number is made from its signature, so equal rules give equal numbers after a restart, and
//! a new agent can adopt the maps in the kernel.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::{Addr, CLASS_OTHER, Proto};

use crate::entries::{Prefix, prefix_of};
use crate::identity::{class_hash, peer_hash};
use crate::model::{Endpoint, Peer, Policy, Ports};
use crate::select::Labels;

/// No class has the address's signature: a new generation must be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclassified;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Signature {
    /// Indices of atoms, sorted.
    pub(crate) atoms: Vec<u32>,
    /// Index of the named port and its port number, sorted.
    pub(crate) ports: Vec<(u32, u16)>,
}

/// A named port of egress rules, and the endpoints for which it must be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedUse {
    name: Box<str>,
    proto: Proto,
    all_peers: bool,
    atoms: BTreeSet<u32>,
}

/// Made by [`crate::compile`]; classifies endpoints that come later under the same policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifier {
    atoms: Vec<Peer>,
    named: Vec<NamedUse>,
    /// Prefix to the sorted blocks that contain its addresses, except those of longer prefixes.
    tree: BTreeMap<Prefix, Vec<u32>>,
    /// Prefix lengths in `tree`, longest first.
    lengths: Vec<u32>,
    /// The number of each class.
    pub(crate) ids: BTreeMap<Signature, u32>,
}

impl Classifier {
    /// Atoms of `policies`; no class has a number yet.
    pub(crate) fn new<'a>(policies: impl Iterator<Item = &'a Policy> + Clone) -> Self {
        let rules = policies.clone().flat_map(|p| p.ingress.iter().chain(p.egress.iter()).flatten());
        let peers: BTreeSet<&Peer> = rules.flat_map(|rule| rule.peers.iter().flatten()).collect();
        let mut classifier = Classifier { atoms: peers.into_iter().cloned().collect(), ..Self::default() };
        classifier.collect_named(policies);
        classifier.build_tree();
        classifier
    }

    pub(crate) fn atom(&self, peer: &Peer) -> Option<u32> {
        self.atoms.binary_search(peer).ok().map(|at| at as u32)
    }

    pub(crate) fn named(&self, name: &str, proto: Proto) -> Option<u32> {
        self.named.iter().position(|n| n.proto == proto && n.name.as_ref() == name).map(|at| at as u32)
    }

    /// Whether any peer can have a class other than [`CLASS_OTHER`].
    pub fn is_trivial(&self) -> bool {
        self.atoms.is_empty() && self.named.is_empty()
    }

    fn collect_named<'a>(&mut self, policies: impl Iterator<Item = &'a Policy>) {
        let mut uses: BTreeMap<(Box<str>, Proto), (bool, BTreeSet<u32>)> = BTreeMap::new();
        for rule in policies.flat_map(|p| p.egress.iter().flatten()) {
            for port in rule.ports.iter().flatten() {
                let Ports::Named(name) = &port.ports else { continue };
                let (all_peers, atoms) = uses.entry((name.clone(), port.proto)).or_default();
                match &rule.peers {
                    None => *all_peers = true,
                    Some(peers) => atoms.extend(peers.iter().filter_map(|peer| self.atom(peer))),
                }
            }
        }
        let uses = uses.into_iter();
        self.named = uses
            .map(|((name, proto), (all_peers, atoms))| NamedUse { name, proto, all_peers, atoms })
            .collect();
    }

    /// Walks all networks from the outside in. Each inherits its parent's blocks, gains the blocks that start at it and
    /// loses the blocks that except it.
    fn build_tree(&mut self) {
        #[derive(Default)]
        struct Mark {
            gains: Vec<u32>,
            loses: Vec<u32>,
        }
        let mut marks: BTreeMap<(u128, u32), Mark> = BTreeMap::new();
        for (number, atom) in self.atoms.iter().enumerate() {
            let Peer::Block(block) = atom else { continue };
            marks.entry(ordered(&block.cidr)).or_default().gains.push(number as u32);
            for except in &block.except {
                marks.entry(ordered(except)).or_default().loses.push(number as u32);
            }
        }
        if marks.is_empty() {
            return;
        }
        // IPv4 is below ::ffff:0:0/96; IPv6 blocks such as ::/0 do not contain it.
        let v4_root = (u128::from_be_bytes(Addr::from_v4_word(0).octets()), Addr::V4_PREFIX_BITS);
        marks.entry(v4_root).or_default();
        let mut open: Vec<((u128, u32), Vec<u32>)> = Vec::new();
        for (at, mark) in marks {
            while open.last().is_some_and(|(outer, _)| mask(at.0, outer.1) != outer.0) {
                open.pop();
            }
            let mut blocks = match open.last() {
                Some((_, blocks)) if at != v4_root => blocks.clone(),
                _ => Vec::new(),
            };
            blocks.extend(mark.gains);
            blocks.retain(|block| !mark.loses.contains(block));
            blocks.sort_unstable();
            blocks.dedup();
            self.tree.insert((at.1, Addr::from_octets(at.0.to_be_bytes())), blocks.clone());
            open.push((at, blocks));
        }
        let lengths: BTreeSet<u32> = self.tree.keys().map(|(bits, _)| *bits).collect();
        self.lengths = lengths.into_iter().rev().collect();
    }

    /// Blocks that contain the address, by the longest prefix in `tree` that is shorter than `below`.
    fn blocks(&self, addr: Addr, below: u32) -> &[u32] {
        let bits = u128::from_be_bytes(addr.octets());
        for length in self.lengths.iter().copied().filter(|length| *length < below) {
            let key = (length, Addr::from_octets(mask(bits, length).to_be_bytes()));
            if let Some(blocks) = self.tree.get(&key) {
                return blocks;
            }
        }
        &[]
    }

    /// Atoms other than blocks that match the endpoint.
    pub(crate) fn pod_atoms(
        &self,
        endpoint: &Endpoint,
        namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    ) -> Vec<u32> {
        let atoms = self.atoms.iter().enumerate();
        atoms.filter(|(_, atom)| atom.matches_pod(endpoint, namespaces)).map(|(n, _)| n as u32).collect()
    }

    pub(crate) fn signature(&self, pod_atoms: &[u32], endpoint: &Endpoint, addr: Addr) -> Signature {
        let mut atoms = pod_atoms.to_vec();
        atoms.extend_from_slice(self.blocks(addr, u32::MAX));
        atoms.sort_unstable();
        let mut ports = Vec::new();
        for (number, named) in self.named.iter().enumerate() {
            let is_used = named.all_peers || atoms.iter().any(|atom| named.atoms.contains(atom));
            if is_used && let Some(port) = endpoint.named_port(&named.name, named.proto) {
                ports.push((number as u32, port));
            }
        }
        Signature { atoms, ports }
    }

    /// Gives every signature a number; [`CLASS_OTHER`] is the number of the empty one.
    pub(crate) fn assign_ids(&mut self, pods: BTreeSet<Signature>) {
        let mut signatures = pods;
        let of_tree = self.tree.values().map(|blocks| Signature { atoms: blocks.clone(), ports: Vec::new() });
        signatures.extend(of_tree);
        signatures.remove(&Signature::default());
        let hashes: Vec<u64> = self.atoms.iter().map(peer_hash).collect();
        let mut used = HashSet::from([CLASS_OTHER]);
        self.ids = BTreeMap::from([(Signature::default(), CLASS_OTHER)]);
        for signature in signatures {
            let atoms: Vec<u64> =
                signature.atoms.iter().filter_map(|n| hashes.get(*n as usize).copied()).collect();
            let ports: Vec<_> = signature
                .ports
                .iter()
                .filter_map(|(n, port)| {
                    self.named.get(*n as usize).map(|u| (u.name.as_ref(), u.proto, *port))
                })
                .collect();
            let mut id = class_hash(&atoms, &ports) as u32;
            while !used.insert(id) {
                id = id.wrapping_add(1);
            }
            self.ids.insert(signature, id);
        }
    }

    /// The class that the prefixes shorter than `below` give the address.
    fn base_class(&self, addr: Addr, below: u32) -> u32 {
        let blocks = Signature { atoms: self.blocks(addr, below).to_vec(), ports: Vec::new() };
        self.ids.get(&blocks).copied().unwrap_or(CLASS_OTHER)
    }

    /// Prefixes whose class differs from that of the surrounding prefix.
    pub(crate) fn prefix_entries(&self) -> BTreeMap<Prefix, u32> {
        let mut entries = BTreeMap::new();
        for (prefix, blocks) in &self.tree {
            let signature = Signature { atoms: blocks.clone(), ports: Vec::new() };
            let class = self.ids.get(&signature).copied().unwrap_or(CLASS_OTHER);
            if class != self.base_class(prefix.1, prefix.0) {
                entries.insert(*prefix, class);
            }
        }
        entries
    }

    /// The class to write for this address of an endpoint; `None` if shorter prefixes already give it.
    pub(crate) fn entry(&self, signature: &Signature, addr: Addr) -> Result<Option<u32>, Unclassified> {
        let class = *self.ids.get(signature).ok_or(Unclassified)?;
        Ok((class != self.base_class(addr, 128)).then_some(class))
    }

    /// The class to write for this address of the endpoint; `None` if shorter prefixes already give it.
    pub fn classify(
        &self,
        endpoint: &Endpoint,
        addr: Addr,
        namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    ) -> Result<Option<u32>, Unclassified> {
        let atoms = self.pod_atoms(endpoint, namespaces);
        self.entry(&self.signature(&atoms, endpoint, addr), addr)
    }

    /// The class to write for this address while no endpoint has it; `None` if there is nothing to write.
    pub fn vacant(&self, addr: Addr) -> Option<u32> {
        let blocks = self.tree.get(&(128, addr))?;
        let signature = Signature { atoms: blocks.clone(), ports: Vec::new() };
        let class = *self.ids.get(&signature)?;
        (class != self.base_class(addr, 128)).then_some(class)
    }
}

/// A sort key: a network comes before everything inside it.
fn ordered(network: &IpNetwork) -> (u128, u32) {
    let (bits, addr) = prefix_of(network);
    (u128::from_be_bytes(addr.octets()), bits)
}

fn mask(bits: u128, length: u32) -> u128 {
    match length {
        0 => 0,
        1..=127 => bits & (u128::MAX << (128 - length)),
        _ => bits,
    }
}
