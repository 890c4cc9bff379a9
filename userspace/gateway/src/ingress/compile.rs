//! The gateway's Ingresses to listeners and backends.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::facts::{BackendFacts, IngressFacts, PortName, RuleFacts};
use super::policies::CanaryRule;
use super::problem::Problem;
use super::states::SecretState;
use super::{Index, Ports};
use crate::config::{Backend, Listener, Protocol, Route, TlsAction, TlsServer};
use crate::counters::RouteCounters;
use crate::routing::{Conditions, HostPattern, HostTable, PathMatch, RouteTable, Rule};

/// What does not depend on Services and their endpoints.
pub(super) struct Routing {
    pub(super) listeners: BTreeMap<u16, Listener>,
    pub(super) counters: Vec<Arc<RouteCounters>>,
    pub(super) problems: Vec<Problem>,
    /// When the next certificate expires, in seconds since 1970.
    pub(super) next_expiry: Option<i64>,
    /// In the order of the routes' indexes, with an Ingress that names them.
    backends: Vec<(BackendKey, Arc<str>)>,
}

/// What requests of a route go to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct BackendKey {
    service: Arc<str>,
    port: PortName,
    /// `None`: as the Service says.
    protocol: Option<Protocol>,
    /// The Service's own address is the endpoint.
    by_service: bool,
}

/// Compiles Ingress by Ingress, the oldest first.
#[derive(Default)]
pub(super) struct Builder<'a> {
    pub(super) rules: Vec<Rule<Arc<Route>>>,
    defaults: Vec<(HostPattern, Arc<Route>)>,
    tls: HostTable<Arc<TlsServer>>,
    /// By Secret.
    servers: HashMap<Arc<str>, Arc<TlsServer>>,
    backends: Vec<(BackendKey, Arc<str>)>,
    index_of: HashMap<BackendKey, usize>,
    /// Which Ingress a rule is of.
    pub(super) owners: HashMap<(HostPattern, PathMatch), Arc<str>>,
    /// Those that have rules.
    pub(super) hosts: HashSet<HostPattern>,
    /// By host and path.
    pub(super) canaries: HashMap<(HostPattern, Box<str>), CanaryRule<'a>>,
    pub(super) problems: Vec<Problem>,
    now: i64,
    next_expiry: Option<i64>,
}

impl Routing {
    pub(super) fn compile(index: &Index, now: i64) -> Routing {
        let mut claimed: Vec<_> = index.claimed().collect();
        claimed.sort_by_key(|(key, facts)| (facts.created, *key));
        let mut builder = Builder { now, ..Builder::default() };
        let (canaries, mains): (Vec<_>, Vec<_>) =
            claimed.iter().copied().partition(|(_, facts)| facts.settings.canary.is_on);
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
        let has_tls = claimed.iter().any(|(_, facts)| !facts.tls.is_empty());
        let counters = claimed.iter().map(|(_, facts)| facts.counters.clone()).collect();
        let routes = Arc::new(RouteTable::compile(
            std::mem::take(&mut builder.rules),
            std::mem::take(&mut builder.defaults),
        ));
        let hosts = Arc::new(HostTable::of_any(routes));
        let tls = Arc::new(std::mem::take(&mut builder.tls));
        let Ports { http, https } = index.ports;
        let mut listeners = BTreeMap::new();
        if let Some(port) = http.filter(|_| !claimed.is_empty()) {
            listeners.insert(
                port,
                Listener { public_port: port, hosts: hosts.clone(), tls: None, passes: false, stream: None },
            );
        }
        if let Some(port) = https.filter(|_| has_tls) {
            listeners.insert(
                port,
                Listener { public_port: port, hosts, tls: Some(tls), passes: false, stream: None },
            );
        }
        let Builder { problems, backends, next_expiry, .. } = builder;
        Routing { listeners, counters, problems, next_expiry, backends }
    }

    /// The backends with the endpoints of now.
    pub(super) fn backends(&self, index: &Index) -> (Vec<Arc<Backend>>, Vec<Problem>) {
        let mut problems = Vec::new();
        let backends = self.backends.iter().map(|(key, ingress)| {
            let (name, BackendKey { service, port, protocol: said, by_service }) = (key.name(), key);
            let nothing = |problem| (Protocol::Http1, Vec::new(), Some(problem));
            let (protocol, endpoints, problem) = match index.services.get(service) {
                None => nothing(Problem::no_service(ingress, service)),
                Some(facts) if facts.is_external_name => nothing(Problem::external_name(ingress, service)),
                Some(facts) => match facts.port(port) {
                    None => nothing(Problem::no_port(ingress, service, port)),
                    Some(port) if *by_service => (said.unwrap_or(port.protocol), facts.own(port), None),
                    Some(port) => {
                        let endpoints = facts.endpoints(port, index.slices.get(service));
                        (said.unwrap_or(port.protocol), endpoints, None)
                    }
                },
            };
            problems.extend(problem);
            Arc::new(Backend { name, protocol, endpoints })
        });
        (backends.collect(), problems)
    }
}

impl BackendKey {
    pub(super) fn new(service: Arc<str>, port: PortName) -> BackendKey {
        BackendKey { service, port, protocol: None, by_service: false }
    }

    fn name(&self) -> Arc<str> {
        let BackendKey { service, port, protocol, by_service } = self;
        let protocol = match protocol {
            None => "",
            Some(Protocol::Http1) => "/http1",
            Some(Protocol::H2c) => "/h2c",
        };
        format!("{service}:{port}{protocol}{}", if *by_service { "/service" } else { "" }).into()
    }
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
        self.add_certificates(index, key, facts);
    }

    /// Its index; `None`: a resource, which is not served.
    pub(super) fn backend(
        &mut self,
        key: &Arc<str>,
        facts: &IngressFacts,
        backend: &BackendFacts,
    ) -> Option<usize> {
        let BackendFacts::Service(service, port) = backend else { return None };
        let (protocol, by_service) = (facts.settings.protocol, facts.settings.by_service);
        let wanted = BackendKey { service: service.clone(), port: port.clone(), protocol, by_service };
        Some(self.index_of(key, wanted))
    }

    pub(super) fn index_of(&mut self, ingress: &Arc<str>, key: BackendKey) -> usize {
        let next = self.backends.len();
        let at = *self.index_of.entry(key.clone()).or_insert(next);
        if at == next {
            self.backends.push((key, ingress.clone()));
        }
        at
    }

    fn add_certificates(&mut self, index: &Index, key: &Arc<str>, facts: &IngressFacts) {
        for tls in &facts.tls {
            let Some(secret) = &tls.secret else { continue };
            let certificate = match index.secrets.get(secret) {
                Some(SecretState::Good(certificate)) => Some(certificate),
                Some(SecretState::Bad(error, last)) => {
                    self.problems.push(Problem::bad_secret(key, secret, error));
                    last.as_ref()
                }
                Some(SecretState::Missing) => {
                    self.problems.push(Problem::no_secret(key, secret));
                    None
                }
                // It was not looked for yet.
                None => None,
            };
            let Some(certificate) = certificate else { continue };
            match certificate.not_after {
                at if at <= self.now => self.problems.push(Problem::expired(key, secret, at)),
                at => self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at))),
            }
            let new =
                || Arc::new(TlsServer { certificates: vec![certificate.clone()], action: TlsAction::Http });
            let server = self.servers.entry(secret.clone()).or_insert_with(new);
            for alias in &facts.settings.aliases {
                self.tls.entry(HostPattern::of_ingress(alias), || server.clone());
            }
            for host in &tls.hosts {
                self.tls.entry(host.clone(), || server.clone());
            }
        }
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
