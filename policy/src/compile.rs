//! Policies to map entries, for the local pods of one node.
//!
//! In: valid policies, namespaces, all endpoints, the local ones with their slots. Out: [`Entries`]: prefix to class,
//! verdict maps (one for each distinct rule set), slot to verdict map. Verdicts of a pod that do not fit into its map are an
//! [`Overflow`] of that pod alone. Classes that do not fit are one of the node: the caller keeps the generation in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{
    Be16, CLASS_ANY, CLASSES_MAX, Direction, Proto, SLOTS_MAX, VERDICTS_MAX, Verdict, VerdictKey,
};

use crate::classify::{Classifier, Signature};
use crate::entries::{Entries, Prefix, RuleId, VerdictEntry, VerdictMapId};
use crate::identity::{rule_hash, verdicts_hash};
use crate::model::{Endpoint, Local, NamedPort, Policy, PolicyKey, PortMatch, Ports, Rule};
use crate::peers::Peers;
use crate::ports::port_prefixes;
use crate::select::Labels;
use crate::signed::Signed;

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

/// The maps' content, and the classifier for endpoints that come later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub entries: Entries,
    pub classifier: Classifier,
    /// The verdict maps by the rules that they are made of.
    pub known: BTreeMap<RuleSet, Option<VerdictMapId>>,
    /// Pods, by slot, whose verdicts do not fit. `entries` has no map for them.
    pub overflows: BTreeMap<u32, Overflow>,
}

/// What a pod's verdicts are made of: the keys of the policies that select it, and its named ports.
pub type RuleSet = (Vec<PolicyKey>, Arc<[NamedPort]>);

/// The rules that apply to the endpoint.
pub fn rule_set(policies: &BTreeMap<PolicyKey, Policy>, endpoint: &Endpoint) -> RuleSet {
    let selecting =
        of_namespace(policies, &endpoint.namespace).filter(|(_, p)| p.pods.matches(&endpoint.labels));
    (selecting.map(|(key, _)| key.clone()).collect(), endpoint.ports.clone())
}

fn of_namespace<'p>(
    policies: &'p BTreeMap<PolicyKey, Policy>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = (&'p PolicyKey, &'p Policy)> {
    let first = PolicyKey { namespace: namespace.clone(), name: "".into() };
    let namespace = namespace.clone();
    policies.range(first..).take_while(move |(key, _)| key.namespace == namespace)
}

/// The addresses of `local` pods are theirs, whatever `peers` says; the last one counts.
pub fn compile(
    policies: &BTreeMap<PolicyKey, Policy>,
    namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    peers: &Peers,
    local: &[Local<'_>],
) -> Result<Compiled, Overflow> {
    let selected = Selected::new(policies, local);
    let mut classifier = Classifier::new(selected.policies.iter().map(|(_, policy)| *policy));
    let classes = classes(&mut classifier, namespaces, peers, local)?;
    let numbers = selected.numbers();
    let rules = selected.resolve(&classifier, &numbers);
    let by_set = ClassesBySet::new(&classifier);
    let entries = Entries { classes, rules: numbers, ..Entries::default() };
    let mut compiled = Compiled { entries, ..Compiled::default() };
    // Of rule sets that do not fit.
    let mut overflows: BTreeMap<&RuleSet, Overflow> = BTreeMap::new();
    for (local, of_pod) in local.iter().zip(&selected.of_local) {
        let slot = local.slot;
        if slot >= SLOTS_MAX {
            compiled.overflows.insert(slot, Overflow::Slots { slot });
            continue;
        }
        if let Some(overflow) = overflows.get(of_pod) {
            compiled.overflows.insert(slot, overflow.clone());
            continue;
        }
        let map = match compiled.known.get(of_pod) {
            Some(map) => *map,
            None => {
                let of_pod_rules = of_pod.0.iter().filter_map(|key| rules.get(key));
                match verdicts(of_pod_rules, local.endpoint, &classifier, &by_set) {
                    Ok(verdicts) => {
                        let map = verdicts.map(|verdicts| intern(&mut compiled.entries.maps, verdicts));
                        compiled.known.insert(of_pod.clone(), map);
                        map
                    }
                    Err(overflow) => {
                        overflows.insert(of_pod, overflow.clone());
                        compiled.overflows.insert(slot, overflow);
                        continue;
                    }
                }
            }
        };
        compiled.entries.slots.extend(map.map(|map| (slot, map)));
    }
    Ok(Compiled { classifier, ..compiled })
}

/// Policies that select a local pod, in the order of their keys, and for each local pod its rules.
struct Selected<'a> {
    policies: Vec<(&'a PolicyKey, &'a Policy)>,
    of_local: Vec<RuleSet>,
}

impl<'a> Selected<'a> {
    fn new(policies: &'a BTreeMap<PolicyKey, Policy>, local: &[Local<'_>]) -> Self {
        let of_local: Vec<RuleSet> = local.iter().map(|local| rule_set(policies, local.endpoint)).collect();
        let keys: BTreeSet<&PolicyKey> = of_local.iter().flat_map(|(keys, _)| keys).collect();
        let selected = keys.into_iter().filter_map(|key| policies.get_key_value(key)).collect();
        Selected { policies: selected, of_local }
    }

    /// Numbers for the flow log, made from the rules' names, so that a restart does not change them.
    fn numbers(&self) -> BTreeMap<u32, RuleId> {
        let mut numbers = BTreeMap::new();
        for (key, policy) in &self.policies {
            for (direction, rules) in policy.sides() {
                for index in 0..rules.len() {
                    let rule = RuleId { policy: (*key).clone(), direction, index };
                    let mut number = (rule_hash(&rule) as u32).max(1);
                    while numbers.contains_key(&number) {
                        number = number.checked_add(1).unwrap_or(1);
                    }
                    numbers.insert(number, rule);
                }
            }
        }
        numbers
    }

    fn resolve(
        &self,
        classifier: &Classifier,
        numbers: &BTreeMap<u32, RuleId>,
    ) -> BTreeMap<&'a PolicyKey, Resolved<'a>> {
        let by_rule: BTreeMap<&RuleId, u32> = numbers.iter().map(|(number, rule)| (rule, *number)).collect();
        let side = |key: &PolicyKey, direction, rules: &'a Option<Vec<Rule>>| {
            let rules = rules.as_ref()?.iter().enumerate();
            let resolved = rules.map(|(index, rule)| {
                let id = RuleId { policy: key.clone(), direction, index };
                ResolvedRule::new(by_rule.get(&id).copied().unwrap_or_default(), rule, classifier)
            });
            Some(resolved.collect())
        };
        let policies = self.policies.iter();
        policies
            .map(|(key, policy)| {
                let ingress = side(key, Direction::INGRESS, &policy.ingress);
                (*key, Resolved { ingress, egress: side(key, Direction::EGRESS, &policy.egress) })
            })
            .collect()
    }
}

/// A policy whose rules name their peers by number.
struct Resolved<'a> {
    ingress: Option<Vec<ResolvedRule<'a>>>,
    egress: Option<Vec<ResolvedRule<'a>>>,
}

struct ResolvedRule<'a> {
    /// See [`Verdict::rule`].
    number: u32,
    /// The set of peers; `None`: all.
    set: Option<u32>,
    ports: Option<&'a [PortMatch]>,
}

impl<'a> ResolvedRule<'a> {
    fn new(number: u32, rule: &'a Rule, classifier: &Classifier) -> Self {
        // A set without a number has no class, so the rule would allow nothing.
        let set = rule.peers.as_ref().map(|_| classifier.set_of(rule).unwrap_or(u32::MAX));
        ResolvedRule { number, set, ports: rule.ports.as_deref() }
    }
}

fn classes(
    classifier: &mut Classifier,
    namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
    peers: &Peers,
    local: &[Local<'_>],
) -> Result<BTreeMap<Prefix, u32>, Overflow> {
    if classifier.is_trivial() {
        classifier.assign_ids(BTreeSet::new());
        return Ok(BTreeMap::new());
    }
    let signed = Signed::new(classifier, namespaces, peers, local);
    classifier.assign_ids(signed.used());
    let entries = signed.entries(classifier);
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
    by_set: &ClassesBySet<'_>,
) -> Result<Option<Arc<[VerdictEntry]>>, Overflow> {
    let ingress = policies.clone().filter_map(|p| p.ingress.as_deref());
    let egress = policies.filter_map(|p| p.egress.as_deref());
    if ingress.clone().next().is_none() && egress.clone().next().is_none() {
        return Ok(None);
    }
    let mut side = Side { classes: by_set, entries: BTreeMap::new() };
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

/// The classes of each set of peers, so that a rule meets its own ones only.
struct ClassesBySet<'c> {
    all: Vec<(&'c Signature, u32)>,
    /// Positions in `all`.
    by_set: HashMap<u32, Vec<usize>>,
}

impl<'c> ClassesBySet<'c> {
    fn new(classifier: &'c Classifier) -> Self {
        let all: Vec<(&Signature, u32)> =
            classifier.ids.iter().map(|(signature, class)| (signature, *class)).collect();
        let mut by_set: HashMap<u32, Vec<usize>> = HashMap::new();
        for (position, (signature, _)) in all.iter().enumerate() {
            signature.sets.iter().for_each(|set| by_set.entry(*set).or_default().push(position));
        }
        ClassesBySet { all, by_set }
    }

    /// Classes with the rules that name them, both in their order.
    fn with_rules<'r>(
        &self,
        rules: impl Iterator<Item = &'r ResolvedRule<'r>>,
    ) -> impl Iterator<Item = (&'c Signature, u32, Vec<&'r ResolvedRule<'r>>)> {
        let mut matching: BTreeMap<usize, Vec<&ResolvedRule<'_>>> = BTreeMap::new();
        for rule in rules {
            let positions = rule.set.and_then(|set| self.by_set.get(&set)).into_iter().flatten();
            positions.for_each(|position| matching.entry(*position).or_default().push(rule));
        }
        matching.into_iter().filter_map(|(position, rules)| {
            let (signature, class) = *self.all.get(position)?;
            Some((signature, class, rules))
        })
    }
}

struct Side<'c> {
    classes: &'c ClassesBySet<'c>,
    entries: BTreeMap<(u32, VerdictKey), Verdict>,
}

impl Side<'_> {
    fn compile<'r>(
        &mut self,
        direction: Direction,
        policies: impl Iterator<Item = &'r [ResolvedRule<'r>]> + Clone,
        named: impl Fn(&Signature, &PortMatch, &str) -> Option<u16>,
    ) {
        let (any_proto, any_port) = (Proto(0), Be16::default());
        let isolated = policies.clone().next().is_some();
        let rules = policies.flatten();
        let open = rules.clone().find(|rule| rule.set.is_none() && rule.ports.is_none());
        let default = match (isolated, open) {
            (false, _) => Verdict { allow: 1, rule: 0 },
            (true, Some(rule)) => Verdict { allow: 1, rule: rule.number },
            (true, None) => Verdict { allow: 0, rule: 0 },
        };
        let key = VerdictKey::new(direction, 0, any_proto, any_port);
        self.entries.insert((VerdictKey::DIRECTION_BITS, key), default);
        if default.allow == 1 {
            return;
        }
        // Rules for all peers stand once, and not in each class. Only where the peer's own port counts they must.
        let is_of_peer =
            |port: &PortMatch| direction == Direction::EGRESS && matches!(port.ports, Ports::Named(_));
        let anyone = Signature::default();
        for rule in rules.clone().filter(|rule| rule.set.is_none()) {
            let ports = rule.ports.into_iter().flatten().filter(|port| !is_of_peer(port));
            self.allow(direction, CLASS_ANY, rule.number, ports, |port, name| named(&anyone, port, name));
        }
        let classes = self.classes;
        for (signature, class, matching) in classes.with_rules(rules.clone()) {
            if let Some(rule) = matching.iter().find(|rule| rule.ports.is_none()) {
                let key = VerdictKey::new(direction, class, any_proto, any_port);
                self.entries.insert((VerdictKey::CLASS_BITS, key), Verdict { allow: 1, rule: rule.number });
                continue;
            }
            for rule in matching {
                let ports = rule.ports.into_iter().flatten();
                self.allow(direction, class, rule.number, ports, |port, name| named(signature, port, name));
            }
        }
        for rule in rules.filter(|rule| rule.set.is_none()) {
            let ports = || rule.ports.into_iter().flatten().filter(|port| is_of_peer(port));
            if ports().next().is_none() {
                continue;
            }
            for (signature, class) in &classes.all {
                let whole = (VerdictKey::CLASS_BITS, VerdictKey::new(direction, *class, any_proto, any_port));
                if !self.entries.contains_key(&whole) {
                    self.allow(direction, *class, rule.number, ports(), |port, name| {
                        named(signature, port, name)
                    });
                }
            }
        }
    }

    /// Allows the ports to the class; `named` resolves a port's name.
    fn allow<'p>(
        &mut self,
        direction: Direction,
        class: u32,
        rule: u32,
        ports: impl Iterator<Item = &'p PortMatch>,
        named: impl Fn(&PortMatch, &str) -> Option<u16>,
    ) {
        for port in ports {
            let (first, last) = match &port.ports {
                Ports::All => (0, u16::MAX),
                Ports::Range(first, last) => (*first, *last),
                Ports::Named(name) => match named(port, name) {
                    Some(number) => (number, number),
                    None => continue,
                },
            };
            for (start, bits) in port_prefixes(first, last) {
                let key = VerdictKey::new(direction, class, port.proto, Be16::new(start));
                let verdict = Verdict { allow: 1, rule };
                self.entries.entry((VerdictKey::PROTO_BITS + bits, key)).or_insert(verdict);
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
