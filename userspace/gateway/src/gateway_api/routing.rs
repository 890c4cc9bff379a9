//! Routes at their listeners: what the data plane serves at each port of each Gateway. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::backends::{Backends, Resolver};
use super::conditions::Fault;
use super::http_rules::HostlessRule;
use super::kinds::{BackendRef, StreamRule};
use super::listeners::{GatewayListeners, age};
use super::objects::{Key, Objects};
use super::parents::{ParentVerdict, RouteHead};
use super::{grpc, http_rules};
use crate::config::{Listener, Part, Route, StreamRoute, TlsAction, TlsServer};
use crate::counters::RouteCounters;
use crate::ingress::states::{SecretStates, ServiceStates};
use crate::routing::{HostPattern, HostTable, RouteTable, Rule};

/// What is made of the objects, but for addresses of endpoints.
#[derive(Default)]
pub(crate) struct Routing {
    pub(super) gateways: Vec<GatewayListeners>,
    pub(super) routes: Vec<RouteResult>,
    /// By Gateway and port of its clients. The node's port is not known here.
    pub(crate) ports: BTreeMap<(Key, u16), Listener>,
    /// Ports whose packets go straight to endpoints: Gateway, port, protocol, and the backends.
    pub(super) direct: Vec<(Key, u16, &'static str, Vec<DirectPart>)>,
    pub(crate) backends: Backends,
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

/// What is said of a route in its status.
pub(super) struct RouteResult {
    pub(super) kind: &'static str,
    pub(super) key: Key,
    pub(super) parents: Vec<ParentVerdict>,
    /// Services that it leads to.
    pub(super) services: BTreeSet<Key>,
    /// Fields of an accepted route that have no effect; empty: none.
    pub(super) note: &'static str,
    pub(super) accepted: Result<(), Fault>,
    pub(super) resolved: Result<(), Fault>,
}

/// A route of any kind, before its rules are read.
enum Rules<'a> {
    Http(&'a [crate::gateway_api::kinds::HttpRule]),
    Grpc(&'a [crate::gateway_api::kinds::GrpcRule]),
    Stream(&'a [StreamRule]),
}

impl Rules<'_> {
    fn note(&self) -> &'static str {
        let has_session = match self {
            Rules::Http(rules) => rules.iter().any(|rule| rule.session_persistence.is_some()),
            Rules::Grpc(rules) => rules.iter().any(|rule| rule.session_persistence.is_some()),
            Rules::Stream(_) => false,
        };
        if has_session { "sessionPersistence has no effect" } else { "" }
    }
}

struct Candidate<'a> {
    head: RouteHead<'a>,
    created: i64,
    /// As Services have it.
    protocol: &'static str,
    rules: Rules<'a>,
}

type HostStreams = Vec<(HostPattern, Arc<StreamRoute>)>;

/// By index of Gateway and listener.
#[derive(Default)]
struct Attached {
    rules: BTreeMap<(usize, usize), Vec<Rule<Arc<Route>>>>,
    streams: BTreeMap<(usize, usize), HostStreams>,
}

impl Routing {
    /// `first`: the first index of a backend.
    pub(crate) fn compile(
        objects: &mut Objects,
        services: &ServiceStates,
        secrets: &SecretStates,
        first: usize,
    ) -> Routing {
        let backends = Backends::new(first);
        let gateways = objects.listeners(secrets);
        let mut routing = Routing { gateways, backends, ..Routing::default() };
        let mut attached = Attached::default();
        for candidate in objects.candidates() {
            routing.add(objects, services, &candidate, &mut attached);
        }
        objects.counters =
            routing.counters.iter().map(|counters| (counters.name.clone(), counters.clone())).collect();
        routing.open(attached);
        routing
    }

    fn add(
        &mut self,
        objects: &Objects,
        services: &ServiceStates,
        candidate: &Candidate<'_>,
        attached: &mut Attached,
    ) {
        let RouteHead { key, kind, .. } = candidate.head;
        let parents = objects.attach(&candidate.head, &self.gateways);
        if parents.is_empty() {
            return;
        }
        let counters = objects.counters_of(format!("{}/{key}", kind.to_ascii_lowercase()));
        let mut resolver = Resolver {
            objects,
            services,
            backends: &mut self.backends,
            kind,
            route: key,
            protocol: candidate.protocol,
            verdict: Ok(()),
            reached: BTreeSet::new(),
        };
        let compiled = match candidate.rules {
            Rules::Http(rules) => http_rules::compile(rules, &counters, &mut resolver).map(Compiled::Rules),
            Rules::Grpc(rules) => grpc::compile(rules, &counters, &mut resolver).map(Compiled::Rules),
            Rules::Stream(rules) => Ok(Compiled::Stream(stream(rules, &counters, &mut resolver))),
        };
        let (resolved, services) = (resolver.verdict, resolver.reached);
        self.counters.push(counters);
        let accepted = match compiled {
            Ok(compiled) => {
                attach(&compiled, &parents, &mut self.gateways, attached);
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        self.routes.push(RouteResult {
            kind,
            key: key.clone(),
            parents,
            services,
            note: candidate.rules.note(),
            accepted,
            resolved,
        });
    }

    /// The ports of listeners that are in force, with what is attached to them.
    fn open(&mut self, mut attached: Attached) {
        let mut hosts: BTreeMap<(Key, u16), HostTable<_>> = BTreeMap::new();
        let mut tls: BTreeMap<(Key, u16), HostTable<Arc<TlsServer>>> = BTreeMap::new();
        let mut streams: BTreeMap<(Key, u16), Arc<StreamRoute>> = BTreeMap::new();
        for (at, gateway) in self.gateways.iter().enumerate() {
            for (number, listener) in gateway.listeners.iter().enumerate() {
                if !listener.serves() {
                    continue;
                }
                let port = (gateway.key.clone(), listener.spec.port);
                let mut of_listener = attached.streams.remove(&(at, number)).unwrap_or_default();
                let first = of_listener.first().map(|(_, stream)| stream.clone());
                match listener.spec.protocol.as_str() {
                    "HTTP" | "HTTPS" => {
                        let rules = attached.rules.remove(&(at, number)).unwrap_or_default();
                        let table = Arc::new(RouteTable::compile(rules, []));
                        hosts.entry(port.clone()).or_default().entry(listener.host.clone(), || table);
                        if listener.spec.protocol == "HTTPS" {
                            let certificates = listener.certificates.clone();
                            let server = TlsServer { certificates, action: TlsAction::Http };
                            let table = tls.entry(port).or_default();
                            table.entry(listener.host.clone(), || Arc::new(server));
                        }
                    }
                    "TLS" => {
                        for (host, stream) in of_listener.drain(..) {
                            let (certificates, action) = match listener.is_passthrough() {
                                true => (Vec::new(), TlsAction::Passthrough(stream)),
                                false => (listener.certificates.clone(), TlsAction::Terminate(stream)),
                            };
                            let server = TlsServer { certificates, action };
                            tls.entry(port.clone()).or_default().entry(host, || Arc::new(server));
                        }
                    }
                    protocol => {
                        let Some(stream) = first else { continue };
                        // At the nodes' own addresses there is no Service that leads to endpoints.
                        let parts = direct_parts(&stream, protocol == "UDP");
                        match parts.filter(|_| gateway.is_balanced) {
                            Some(parts) => {
                                let protocol = if protocol == "UDP" { "UDP" } else { "TCP" };
                                self.direct.push((port.0, port.1, protocol, parts));
                            }
                            None => drop(streams.insert(port, stream)),
                        }
                    }
                }
            }
        }
        self.collect(hosts, tls, streams);
    }

    fn collect(
        &mut self,
        mut hosts: BTreeMap<(Key, u16), HostTable<Arc<crate::config::Routes>>>,
        mut tls: BTreeMap<(Key, u16), HostTable<Arc<TlsServer>>>,
        mut streams: BTreeMap<(Key, u16), Arc<StreamRoute>>,
    ) {
        let ports: BTreeSet<_> = hosts.keys().chain(tls.keys()).chain(streams.keys()).cloned().collect();
        for port in ports {
            let passes = tls.get(&port).is_some_and(|servers| {
                servers.values().any(|server| !matches!(server.action, TlsAction::Http))
            });
            let listener = Listener {
                public_port: port.1,
                passes,
                hosts: Arc::new(hosts.remove(&port).unwrap_or_default()),
                tls: tls.remove(&port).map(Arc::new),
                stream: streams.remove(&port),
            };
            self.ports.insert(port, listener);
        }
    }
}

/// A backend's index, and its weight.
pub(super) type DirectPart = (usize, u32);

enum Compiled {
    Rules(Vec<HostlessRule>),
    Stream(Option<Arc<StreamRoute>>),
}

fn attach(
    compiled: &Compiled,
    parents: &[ParentVerdict],
    gateways: &mut [GatewayListeners],
    attached: &mut Attached,
) {
    for attachment in parents.iter().flat_map(|parent| &parent.attachments) {
        let at = (attachment.gateway, attachment.listener);
        gateways[at.0].listeners[at.1].attached += 1;
        for host in &attachment.hosts {
            match compiled {
                Compiled::Rules(rules) => {
                    let rules = rules.iter().map(|(path, conditions, route)| Rule {
                        host: host.clone(),
                        path: path.clone(),
                        conditions: conditions.clone(),
                        target: route.clone(),
                    });
                    attached.rules.entry(at).or_default().extend(rules);
                }
                Compiled::Stream(stream) => {
                    let all = attached.streams.entry(at).or_default();
                    all.extend(stream.iter().map(|stream| (host.clone(), stream.clone())));
                }
            }
        }
    }
}

/// The backends of a route's connections: those of its first rule, as there is nothing to match.
fn stream(
    rules: &[StreamRule],
    counters: &Arc<RouteCounters>,
    resolver: &mut Resolver<'_>,
) -> Option<Arc<StreamRoute>> {
    let mut parts = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let of_rule: Vec<Part> = rule
            .backend_refs
            .iter()
            .map(|reference: &BackendRef| Part {
                backend: resolver.resolve(reference),
                weight: reference.weight.unwrap_or(1),
            })
            .collect();
        if at == 0 {
            parts = of_rule;
        }
    }
    (!rules.is_empty()).then(|| Arc::new(StreamRoute { counters: counters.clone(), parts }))
}

/// The backends whose endpoints get packets without a hop between: where there is one, and all of UDP.
fn direct_parts(stream: &StreamRoute, is_udp: bool) -> Option<Vec<DirectPart>> {
    let weighed: Vec<&Part> = stream.parts.iter().filter(|part| part.weight > 0).collect();
    let parts = weighed.iter().filter_map(|part| Some((part.backend?, part.weight))).collect();
    (is_udp || weighed.len() == 1).then_some(parts)
}

impl Objects {
    /// All routes, the oldest first.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut all: Vec<Candidate<'_>> = Vec::new();
        for (key, route) in &self.http_routes {
            let spec = &route.spec;
            let head =
                RouteHead { key, kind: "HTTPRoute", parents: &spec.parent_refs, hostnames: &spec.hostnames };
            let rules = Rules::Http(&spec.rules);
            all.push(Candidate { head, created: age(&route.metadata), protocol: "TCP", rules });
        }
        for (key, route) in &self.grpc_routes {
            let spec = &route.spec;
            let head =
                RouteHead { key, kind: "GRPCRoute", parents: &spec.parent_refs, hostnames: &spec.hostnames };
            let rules = Rules::Grpc(&spec.rules);
            all.push(Candidate { head, created: age(&route.metadata), protocol: "TCP", rules });
        }
        for (key, route) in &self.tls_routes {
            let spec = &route.spec;
            let head =
                RouteHead { key, kind: "TLSRoute", parents: &spec.parent_refs, hostnames: &spec.hostnames };
            let rules = Rules::Stream(&spec.rules);
            all.push(Candidate { head, created: age(&route.metadata), protocol: "TCP", rules });
        }
        for (key, route) in &self.tcp_routes {
            let head = RouteHead { key, kind: "TCPRoute", parents: &route.spec.parent_refs, hostnames: &[] };
            let rules = Rules::Stream(&route.spec.rules);
            all.push(Candidate { head, created: age(&route.metadata), protocol: "TCP", rules });
        }
        for (key, route) in &self.udp_routes {
            let head = RouteHead { key, kind: "UDPRoute", parents: &route.spec.parent_refs, hostnames: &[] };
            let rules = Rules::Stream(&route.spec.rules);
            all.push(Candidate { head, created: age(&route.metadata), protocol: "UDP", rules });
        }
        all.sort_by(|a, b| (a.created, a.head.key).cmp(&(b.created, b.head.key)));
        all
    }
}
