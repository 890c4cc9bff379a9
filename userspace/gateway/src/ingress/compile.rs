//! Ingresses that share hosts to routes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::Index;
use super::backends::{BackendKey, Backends};
use super::endpoint_tls::EndpointTls;
use super::facts::{BackendFacts, IngressFacts, PortName, RuleFacts};
use super::policies::CanaryRule;
use super::problem::Problem;
use crate::config::{Part, Route, Routes, StreamRoute};
use crate::routing::{Conditions, HostPattern, PathMatch, RouteTable, Rule};

/// What is made of some Ingresses. It depends on no other Ingress.
pub(super) struct Compiled {
    pub(super) routes: Routes,
    pub(super) problems: Vec<Problem>,
    /// Backends that the routes lead to, each with the Ingress that names it.
    pub(super) backends: BTreeSet<(usize, Arc<str>)>,
    /// Hosts whose handshakes endpoints answer.
    pub(super) passthroughs: Vec<(HostPattern, Arc<StreamRoute>)>,
}

/// Compiles Ingress by Ingress, the oldest first.
pub(super) struct Builder<'a> {
    pub(super) rules: Vec<Rule<Arc<Route>>>,
    defaults: Vec<(HostPattern, Arc<Route>)>,
    all_backends: &'a mut Backends,
    backends: BTreeSet<(usize, Arc<str>)>,
    /// Which Ingress a rule is of.
    pub(super) owners: HashMap<(HostPattern, PathMatch), Arc<str>>,
    /// Those that have rules.
    pub(super) hosts: HashSet<HostPattern>,
    /// By host and path.
    pub(super) canaries: HashMap<(HostPattern, Box<str>), CanaryRule<'a>>,
    pub(super) problems: Vec<Problem>,
    passthroughs: Vec<(HostPattern, Arc<StreamRoute>)>,
}

/// `ingresses`: those that the gateway serves and that have a host in common with one of them, the oldest first.
pub(super) fn compile(
    index: &Index,
    ingresses: &[(&Arc<str>, &IngressFacts)],
    all_backends: &mut Backends,
) -> Compiled {
    let mut builder = Builder {
        rules: Vec::new(),
        defaults: Vec::new(),
        all_backends,
        backends: BTreeSet::new(),
        owners: HashMap::new(),
        hosts: HashSet::new(),
        canaries: HashMap::new(),
        problems: Vec::new(),
        passthroughs: Vec::new(),
    };
    let (canaries, mains): (Vec<_>, Vec<_>) =
        ingresses.iter().copied().partition(|(_, facts)| facts.settings.canary.is_on);
    for (key, facts) in &canaries {
        builder.problems.extend(facts.problems.iter().cloned());
        for rule in &facts.rules {
            let at = (rule.host.clone(), rule.text.clone());
            builder.canaries.entry(at).or_insert_with(|| CanaryRule::new(key, facts, rule));
        }
    }
    for (key, facts) in &mains {
        builder.add(index, key, facts);
    }
    // What rules say comes before what follows from annotations.
    for (key, facts) in &mains {
        builder.add_others(key, facts);
        builder.add_aliases(index, key, facts);
    }
    let lone = builder.canaries.iter().filter(|(_, canary)| !canary.is_used);
    let lone = lone.map(|((host, path), canary)| {
        Problem::lone_canary(canary.key, rule_text(host, &PathMatch::Prefix(path.clone())))
    });
    let lone: Vec<_> = lone.collect();
    builder.problems.extend(lone);
    let Builder { rules, defaults, backends, problems, passthroughs, .. } = builder;
    Compiled { routes: RouteTable::compile(rules, defaults), problems, backends, passthroughs }
}

impl Builder<'_> {
    fn add(&mut self, index: &Index, key: &Arc<str>, facts: &IngressFacts) {
        self.problems.extend(facts.problems.iter().cloned());
        for rule in &facts.rules {
            let RuleFacts { host, path, backend, text: _ } = rule;
            match self.owners.entry((host.clone(), path.clone())) {
                Entry::Occupied(older) => {
                    self.problems.push(Problem::duplicate(key, rule_text(host, path), older.get()));
                    continue;
                }
                Entry::Vacant(free) => drop(free.insert(key.clone())),
            }
            self.hosts.insert(host.clone());
            if facts.settings.passes_tls && *path == PathMatch::Prefix("/".into()) {
                self.pass_through(key, facts, host, backend);
            }
            let target = self.route(index, key, facts, backend, Some(rule));
            let (host, path) = (host.clone(), path.clone());
            self.rules.push(Rule { host, path, conditions: Conditions::default(), target });
        }
        if let Some(backend) = &facts.default {
            let route = self.route(index, key, facts, backend, None);
            // Its own hosts come before the default of all others.
            for rule in &facts.rules {
                self.defaults.push((rule.host.clone(), route.clone()));
            }
            self.defaults.push((HostPattern::Any, route));
        }
    }

    /// Connections for the host go to the endpoints as they are.
    fn pass_through(
        &mut self,
        key: &Arc<str>,
        facts: &IngressFacts,
        host: &HostPattern,
        backend: &BackendFacts,
    ) {
        let BackendFacts::Service(service, port) = backend else { return };
        let at = self.index_of(key, BackendKey::new(service.clone(), port.clone()));
        let parts = vec![Part { backend: Some(at), weight: 1 }];
        let stream = StreamRoute { counters: facts.counters.clone(), parts };
        self.passthroughs.push((host.clone(), Arc::new(stream)));
    }

    /// Its index; `None`: what it is cannot be served.
    pub(super) fn backend(
        &mut self,
        key: &Arc<str>,
        facts: &IngressFacts,
        backend: &BackendFacts,
    ) -> Option<usize> {
        let BackendFacts::Service(service, port) = backend else { return None };
        let settings = &facts.settings;
        let tls = match EndpointTls::of(&settings.endpoint_tls, key) {
            Ok(tls) => tls,
            Err(error) => {
                self.problems.push(Problem::bad_endpoint_tls(key, service, error));
                return None;
            }
        };
        let (service, port) = (service.clone(), port.clone());
        let (protocol, by_service) = (settings.protocol, settings.by_service);
        Some(self.index_of(key, BackendKey { service, port, protocol, by_service, tls }))
    }

    pub(super) fn index_of(&mut self, ingress: &Arc<str>, key: BackendKey) -> usize {
        let at = self.all_backends.take(key, ingress);
        self.backends.insert((at, ingress.clone()));
        at
    }
}

fn rule_text(host: &HostPattern, path: &PathMatch) -> String {
    let (PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Pattern(path)) = path;
    match host {
        HostPattern::Exact(name) => format!("{name}{path}"),
        HostPattern::OneLabel(suffix) | HostPattern::Suffix(suffix) => format!("*.{suffix}{path}"),
        HostPattern::Any => path.to_string(),
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortName::Number(number) => write!(out, "{number}"),
            PortName::Name(name) => out.write_str(name),
            PortName::First => out.write_str("first"),
        }
    }
}
