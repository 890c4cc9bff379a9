//! Policies to map entries, for the local pods of one node.
//!
//! In: valid policies, namespaces, all endpoints, the local ones with their slots. Out: [`Entries`]: prefix to class,
//! verdict maps (one for each distinct rule set), slot to verdict map. Entries that do not fit into the maps are an
//! [`Overflow`]: the caller keeps the generation in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{Be16, CLASSES_MAX, Direction, Proto, SLOTS_MAX, VERDICTS_MAX, Verdict, VerdictKey};

use crate::classify::{Classifier, Signature};
use crate::entries::{Entries, Prefix, VerdictEntry, VerdictMapId};
use crate::identity::{policy_hash, verdicts_hash};
use crate::model::{Endpoint, NamedPort, Policy, PolicyKey, PortMatch, Ports, Rule};
use crate::ports::port_prefixes;
use crate::select::Labels;

/// The maps cannot hold the policies; the limits are those of `skep_abi`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    #[error("policies need {wanted} address entries, {CLASSES_MAX} fit")]
    Classes { wanted: usize },
    #[error("the policies of one pod of namespace {namespace} need {wanted} verdicts, {VERDICTS_MAX} fit")]
    Verdicts { namespace: Arc<str>, wanted: usize },
    #[error("pod slot {slot} is beyond the {SLOTS_MAX} slots of a node")]
    Slots { slot: u32 },
}

/// A pod of this node and its slot, see [`skep_abi::verdicts_index`].
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    pub slot: u32,
    pub endpoint: &'a Endpoint,
}

/// The maps' content, and the classifier for endpoints that come later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub entries: Entries,
    pub classifier: Classifier,
}

/// The inputs of a pod's verdicts: indices of its policies, and its named ports.
type RuleSet<'a> = (&'a [usize], &'a Arc<[NamedPort]>);

/// If several of `peers` have one address, the last of them counts.
pub fn compile<'a>(
    policies: &BTreeMap<PolicyKey, Policy>,
    namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    peers: impl Iterator<Item = &'a Endpoint>,
    local: &[Local<'a>],
) -> Result<Compiled, Overflow> {
    let selected = Selected::new(policies, local);
    let mut classifier = Classifier::new(selected.policies.iter().map(|(_, policy)| *policy));
    let classes = classes(&mut classifier, namespaces, peers)?;
    let rules = selected.resolve(&classifier);
    let mut entries = Entries { classes, policies: selected.numbers(), ..Entries::default() };
    let mut map_of: HashMap<RuleSet<'_>, Option<VerdictMapId>> = HashMap::new();
    for (local, of_pod) in local.iter().zip(&selected.of_local) {
        if local.slot >= SLOTS_MAX {
            return Err(Overflow::Slots { slot: local.slot });
        }
        let key = (of_pod.as_slice(), &local.endpoint.ports);
        let map = match map_of.get(&key) {
            Some(map) => *map,
            None => {
                let of_pod = of_pod.iter().filter_map(|n| rules.get(*n));
                let verdicts = verdicts(of_pod, local.endpoint, &classifier)?;
                let map = verdicts.map(|verdicts| intern(&mut entries.maps, verdicts));
                map_of.insert(key, map);
                map
            }
        };
        entries.slots.extend(map.map(|map| (local.slot, map)));
    }
    Ok(Compiled { entries, classifier })
}

/// Policies that select a local pod, in the order of their keys, and for each local pod the indices of its policies.
struct Selected<'a> {
    policies: Vec<(&'a PolicyKey, &'a Policy)>,
    of_local: Vec<Vec<usize>>,
}

impl<'a> Selected<'a> {
    fn new(policies: &'a BTreeMap<PolicyKey, Policy>, local: &[Local<'_>]) -> Self {
        let mut selected = Selected { policies: Vec::new(), of_local: vec![Vec::new(); local.len()] };
        for (key, policy) in policies {
            let index = selected.policies.len();
            let mut selects = false;
            for (local, of_pod) in local.iter().zip(&mut selected.of_local) {
                let endpoint = local.endpoint;
                if endpoint.namespace == key.namespace && policy.pods.matches(&endpoint.labels) {
                    of_pod.push(index);
                    selects = true;
                }
            }
            if selects {
                selected.policies.push((key, policy));
            }
        }
        selected
    }

    /// Numbers for the flow log, made from the keys, so that a restart does not change them.
    fn numbers(&self) -> BTreeMap<u32, PolicyKey> {
        let mut numbers = BTreeMap::new();
        for (key, _) in &self.policies {
            let mut number = (policy_hash(key) as u32).max(1);
            while numbers.contains_key(&number) {
                number = number.checked_add(1).unwrap_or(1);
            }
            numbers.insert(number, (*key).clone());
        }
        numbers
    }

    fn resolve(&self, classifier: &Classifier) -> Vec<Resolved<'a>> {
        let by_key: BTreeMap<PolicyKey, u32> = self.numbers().into_iter().map(|(n, key)| (key, n)).collect();
        let side = |rules: &'a Option<Vec<Rule>>| {
            let rules = rules.as_ref()?.iter();
            Some(rules.map(|rule| ResolvedRule::new(rule, classifier)).collect())
        };
        let policies = self.policies.iter();
        policies
            .map(|(key, policy)| Resolved {
                number: by_key.get(key).copied().unwrap_or_default(),
                ingress: side(&policy.ingress),
                egress: side(&policy.egress),
            })
            .collect()
    }
}

/// A policy whose peers are atoms of the classifier.
struct Resolved<'a> {
    number: u32,
    ingress: Option<Vec<ResolvedRule<'a>>>,
    egress: Option<Vec<ResolvedRule<'a>>>,
}

struct ResolvedRule<'a> {
    atoms: Option<BTreeSet<u32>>,
    ports: Option<&'a [PortMatch]>,
}

impl<'a> ResolvedRule<'a> {
    fn new(rule: &'a Rule, classifier: &Classifier) -> Self {
        let peers = rule.peers.as_ref();
        ResolvedRule {
            atoms: peers.map(|peers| peers.iter().filter_map(|peer| classifier.atom(peer)).collect()),
            ports: rule.ports.as_deref(),
        }
    }

    fn matches(&self, class: &Signature) -> bool {
        match &self.atoms {
            None => true,
            Some(atoms) => class.atoms.iter().any(|atom| atoms.contains(atom)),
        }
    }
}

fn classes<'a>(
    classifier: &mut Classifier,
    namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    peers: impl Iterator<Item = &'a Endpoint>,
) -> Result<BTreeMap<Prefix, u32>, Overflow> {
    if classifier.is_trivial() {
        classifier.assign_ids(BTreeSet::new());
        return Ok(BTreeMap::new());
    }
    // Pods of one template share their labels: match them once.
    let mut known: HashMap<(*const u8, *const Labels), Vec<u32>> = HashMap::new();
    let mut signatures = BTreeMap::new();
    for endpoint in peers {
        let key = (endpoint.namespace.as_ptr(), Arc::as_ptr(&endpoint.labels));
        let atoms = known.entry(key).or_insert_with(|| classifier.pod_atoms(endpoint, namespaces));
        for addr in endpoint.addrs.iter() {
            signatures.insert(*addr, classifier.signature(atoms, endpoint, *addr));
        }
    }
    classifier.assign_ids(signatures.values().cloned().collect());
    let mut entries = classifier.prefix_entries();
    for (addr, signature) in &signatures {
        match classifier.entry(signature, *addr) {
            Ok(Some(class)) => drop(entries.insert((128, *addr), class)),
            // The surrounding network has the same class: an entry of a /32 block of this address must not override it.
            Ok(None) | Err(_) => drop(entries.remove(&(128, *addr))),
        }
    }
    match entries.len() {
        wanted if wanted > CLASSES_MAX as usize => Err(Overflow::Classes { wanted }),
        _ => Ok(entries),
    }
}

/// All verdicts of one rule set; `None` if no policy isolates the pod.
fn verdicts<'r>(
    policies: impl Iterator<Item = &'r Resolved<'r>> + Clone,
    endpoint: &Endpoint,
    classifier: &Classifier,
) -> Result<Option<Arc<[VerdictEntry]>>, Overflow> {
    let ingress = policies.clone().filter_map(|p| Some((p.number, p.ingress.as_deref()?)));
    let egress = policies.filter_map(|p| Some((p.number, p.egress.as_deref()?)));
    if ingress.clone().next().is_none() && egress.clone().next().is_none() {
        return Ok(None);
    }
    let mut side = Side { classifier, entries: BTreeMap::new() };
    // The receiving pod resolves named ports: this pod for ingress, the peer for egress.
    let own = |_: &Signature, port: &PortMatch, name: &str| endpoint.named_port(name, port.proto);
    side.compile(Direction::INGRESS, ingress, own);
    let of_peer = |class: &Signature, port: &PortMatch, name: &str| {
        let number = classifier.named(name, port.proto)?;
        class.ports.iter().find(|(n, _)| *n == number).map(|(_, port)| *port)
    };
    side.compile(Direction::EGRESS, egress, of_peer);
    let wanted = side.entries.len();
    if wanted > VERDICTS_MAX as usize {
        return Err(Overflow::Verdicts { namespace: endpoint.namespace.clone(), wanted });
    }
    Ok(Some(side.entries.into_iter().map(|((bits, key), verdict)| (bits, key, verdict)).collect()))
}

struct Side<'c> {
    classifier: &'c Classifier,
    entries: BTreeMap<(u32, VerdictKey), Verdict>,
}

impl Side<'_> {
    fn compile<'r>(
        &mut self,
        direction: Direction,
        policies: impl Iterator<Item = (u32, &'r [ResolvedRule<'r>])> + Clone,
        named: impl Fn(&Signature, &PortMatch, &str) -> Option<u16>,
    ) {
        let (any_proto, any_port) = (Proto(0), Be16::default());
        let isolated = policies.clone().next().is_some();
        let rules = policies.flat_map(|(number, rules)| rules.iter().map(move |rule| (number, rule)));
        let open = rules.clone().find(|(_, rule)| rule.atoms.is_none() && rule.ports.is_none());
        let default = match (isolated, open) {
            (false, _) => Verdict { allow: 1, policy: 0 },
            (true, Some((policy, _))) => Verdict { allow: 1, policy },
            (true, None) => Verdict { allow: 0, policy: 0 },
        };
        let key = VerdictKey::new(direction, 0, any_proto, any_port);
        self.entries.insert((VerdictKey::DIRECTION_BITS, key), default);
        if default.allow == 1 {
            return;
        }
        for (signature, class) in &self.classifier.ids {
            let matching = rules.clone().filter(|(_, rule)| rule.matches(signature));
            if let Some((policy, _)) = matching.clone().find(|(_, rule)| rule.ports.is_none()) {
                let key = VerdictKey::new(direction, *class, any_proto, any_port);
                self.entries.insert((VerdictKey::CLASS_BITS, key), Verdict { allow: 1, policy });
                continue;
            }
            for (policy, rule) in matching {
                for port in rule.ports.into_iter().flatten() {
                    let verdict = Verdict { allow: 1, policy };
                    let (first, last) = match &port.ports {
                        Ports::All => (0, u16::MAX),
                        Ports::Range(first, last) => (*first, *last),
                        Ports::Named(name) => match named(signature, port, name) {
                            Some(number) => (number, number),
                            None => continue,
                        },
                    };
                    for (start, bits) in port_prefixes(first, last) {
                        let key = VerdictKey::new(direction, *class, port.proto, Be16::new(start));
                        self.entries.entry((VerdictKey::PROTO_BITS + bits, key)).or_insert(verdict);
                    }
                }
            }
        }
    }
}

/// Equal content has an equal id; if two contents have one hash, the later one takes the next free id.
fn intern(
    maps: &mut BTreeMap<VerdictMapId, Arc<[VerdictEntry]>>,
    entries: Arc<[VerdictEntry]>,
) -> VerdictMapId {
    let mut id = VerdictMapId(verdicts_hash(&entries));
    while maps.get(&id).is_some_and(|other| *other != entries) {
        id = VerdictMapId(id.0.wrapping_add(1));
    }
    maps.insert(id, entries);
    id
}
