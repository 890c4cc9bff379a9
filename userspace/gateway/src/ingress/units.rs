//! The routes of all Ingresses, kept in units that depend on nothing in common: a change costs what its unit costs, and a table of
//! hosts that shares all others.
//!
//! A unit is a set of Ingresses in which each has a host in common with another one. [`Units::change`] is called for each change of an
//! Ingress, [`Units::named_changed`] for each of a Secret or a ConfigMap, and [`Units::reset`] when it is not known what changed; then
//! [`Units::update`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Index;
use super::backends::Backends;
use super::compile::{Compiled, compile};
use super::facts::IngressFacts;
use super::hosts::hosts_of;
use super::problem::Problem;
use crate::config::{Routes, StreamRoute};
use crate::routing::HostPattern;

#[derive(Default)]
pub(super) struct Units {
    pub(super) routes: Arc<Routes>,
    pub(super) backends: Backends,
    units: HashMap<usize, Unit>,
    next: usize,
    unit_of: HashMap<Arc<str>, usize>,
    /// Ingresses, of any class.
    with_host: HashMap<HostPattern, Vec<Arc<str>>>,
    /// By the key of a Secret or of a ConfigMap that annotations name.
    naming: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Ingresses that changed.
    stale: BTreeSet<Arc<str>>,
}

/// What is in force of some Ingresses. There may be thousands.
struct Unit {
    ingresses: Box<[Arc<str>]>,
    hosts: Box<[HostPattern]>,
    problems: Box<[Problem]>,
    backends: Box<[(usize, Arc<str>)]>,
    passthroughs: Box<[(HostPattern, Arc<StreamRoute>)]>,
}

impl Units {
    /// An Ingress changed, came or went.
    pub(super) fn change(&mut self, key: &Arc<str>, old: Option<&IngressFacts>, new: Option<&IngressFacts>) {
        if let Some(facts) = old {
            for host in hosts_of(facts) {
                remove(&mut self.with_host, &host, key);
            }
            for named in named_by(key, facts) {
                remove(&mut self.naming, &named, key);
            }
        }
        if let Some(facts) = new {
            for host in hosts_of(facts) {
                self.with_host.entry(host).or_default().push(key.clone());
            }
            for named in named_by(key, facts) {
                self.naming.entry(named).or_default().push(key.clone());
            }
        }
        self.stale.insert(key.clone());
    }

    /// A Secret or a ConfigMap with this key changed.
    pub(super) fn named_changed(&mut self, key: &str) {
        self.stale.extend(self.naming.get(key).into_iter().flatten().cloned());
    }

    /// All has to be made again, of these Ingresses.
    pub(super) fn reset<'a>(&mut self, ingresses: impl Iterator<Item = &'a Arc<str>>) {
        self.stale.extend(ingresses.cloned());
        self.stale.extend(self.unit_of.keys().cloned());
    }

    /// Makes the units of what changed.
    pub(super) fn update(&mut self, index: &Index) {
        let mut pending = std::mem::take(&mut self.stale);
        while let Some(first) = pending.pop_first() {
            let ingresses = self.connected(first, index, &mut pending);
            if !ingresses.is_empty() {
                self.add(index, ingresses);
            }
        }
    }

    /// The Ingresses that are connected with the first one by hosts. The units that they are in end, and what else was in those is
    /// pending.
    fn connected(
        &mut self,
        first: Arc<str>,
        index: &Index,
        pending: &mut BTreeSet<Arc<str>>,
    ) -> BTreeSet<Arc<str>> {
        let (mut connected, mut next) = (BTreeSet::new(), vec![first]);
        while let Some(key) = next.pop() {
            if connected.contains(&key) {
                continue;
            }
            pending.remove(&key);
            self.end_unit_of(&key, pending);
            let Some(facts) = index.claimed_one(&key) else { continue };
            for host in hosts_of(facts) {
                let others = self.with_host.get(&host).into_iter().flatten();
                next.extend(others.filter(|other| !connected.contains(*other)).cloned());
            }
            connected.insert(key);
        }
        connected
    }

    fn end_unit_of(&mut self, key: &Arc<str>, pending: &mut BTreeSet<Arc<str>>) {
        let Some(unit) = self.unit_of.get(key).and_then(|unit| self.units.remove(unit)) else { return };
        let Unit { ingresses, hosts, backends, .. } = unit;
        let routes = Arc::make_mut(&mut self.routes);
        hosts.iter().for_each(|host| routes.remove(host));
        backends.iter().for_each(|(at, ingress)| self.backends.release(*at, ingress));
        for ingress in ingresses {
            self.unit_of.remove(&ingress);
            if ingress != *key {
                pending.insert(ingress);
            }
        }
    }

    fn add(&mut self, index: &Index, ingresses: BTreeSet<Arc<str>>) {
        let mut by_age: Vec<_> =
            ingresses.iter().filter_map(|key| Some((key, index.claimed_one(key)?))).collect();
        by_age.sort_by_key(|(key, facts)| (facts.created, *key));
        let Compiled { routes, problems, backends, passthroughs } =
            compile(index, &by_age, &mut self.backends);
        let hosts = routes.patterns().collect::<BTreeSet<_>>().into_iter().collect();
        Arc::make_mut(&mut self.routes).absorb(routes);
        let number = self.next;
        self.next += 1;
        self.unit_of.extend(ingresses.iter().map(|key| (key.clone(), number)));
        let unit = Unit {
            ingresses: ingresses.into_iter().collect(),
            hosts,
            problems: problems.into(),
            backends: backends.into_iter().collect(),
            passthroughs: passthroughs.into(),
        };
        self.units.insert(number, unit);
    }

    /// Hosts whose handshakes endpoints answer.
    pub(super) fn passthroughs(&self) -> impl Iterator<Item = &(HostPattern, Arc<StreamRoute>)> {
        self.units.values().flat_map(|unit| unit.passthroughs.iter())
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.units.values().flat_map(|unit| unit.problems.iter())
    }
}

fn named_by(key: &str, facts: &IngressFacts) -> BTreeSet<Arc<str>> {
    facts.settings.secrets(key).chain(facts.settings.config_maps(key)).collect()
}

fn remove<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<Arc<str>>>, at: &K, key: &Arc<str>) {
    if let Some(keys) = map.get_mut(at) {
        keys.retain(|known| known != key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}
