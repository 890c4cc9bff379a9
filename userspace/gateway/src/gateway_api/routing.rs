//! Routes at their listeners: what the data plane serves at each port of each Gateway. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::attached::{Attached, Made, Place, Streams};
use super::authority_refs::Inputs;
use super::backend_tls::BackendPolicies;
use super::backends::{Backends, Resolver};
use super::conditions::Fault;
use super::kinds::{BackendRef, GrpcRoute, HttpRoute, StreamRule};
use super::listeners::{GatewayListeners, age};
use super::objects::{Key, Objects, RouteKey};
use super::parents::{ParentVerdict, RouteHead};
use super::{grpc, http_rules};
use crate::client_check::ClientChecks;
use crate::config::{Listener, Part, StreamRoute, TlsAction, TlsServer, TlsServers};
use crate::counters::RouteCounters;
use crate::ingress::states::ServiceStates;
use crate::routing::{HostPattern, HostTable};

/// Backends that may be added before all is compiled again: those that no route leads to any more are found then.
const MAX_ADDED_BACKENDS: usize = 1_024;
/// Kinds of routes that [`Routing::update`] makes.
const MADE_ALONE: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// What is made of the objects, but for addresses of endpoints. Routes of HTTP and of gRPC that change are made again alone, and
/// so are certificates of listeners.
#[derive(Default)]
pub(crate) struct Routing {
    pub(super) gateways: Vec<GatewayListeners>,
    pub(super) routes: BTreeMap<RouteKey, RouteResult>,
    attached: Attached,
    /// By Gateway and port of its clients. The node's port is not known here.
    pub(crate) ports: BTreeMap<(Key, u16), Listener>,
    pub(super) direct: Vec<Direct>,
    pub(crate) backends: Backends,
    checks: ClientChecks,
    pub(crate) policies: BackendPolicies,
    /// Services whose endpoints are spoken to in another way than when they were last taken.
    changed_backends: BTreeSet<Key>,
    /// Backends when all was compiled.
    compiled_backends: usize,
}

/// What is made of a route, and what is said of it in its status.
pub(super) struct RouteResult {
    pub(super) kind: &'static str,
    pub(super) key: Key,
    pub(super) created: i64,
    pub(super) parents: Vec<ParentVerdict>,
    /// Services that it leads to.
    pub(super) services: BTreeSet<Key>,
    /// Services on which what is made of it depends.
    read: BTreeSet<Key>,
    pub(super) accepted: Result<(), Fault>,
    pub(super) resolved: Result<(), Fault>,
    pub(super) made: Made,
    counters: Arc<RouteCounters>,
}

/// A route of any kind, before its rules are read.
enum Rules<'a> {
    Http(&'a [crate::gateway_api::kinds::HttpRule]),
    Grpc(&'a [crate::gateway_api::kinds::GrpcRule]),
    Stream(&'a [StreamRule]),
}

struct Candidate<'a> {
    head: RouteHead<'a>,
    created: i64,
    /// As Services have it.
    protocol: &'static str,
    rules: Rules<'a>,
}

impl Routing {
    /// `first`: the first index of a backend. `old`: what was made before; counters go on.
    pub(crate) fn compile(
        objects: &mut Objects,
        services: &ServiceStates,
        inputs: Inputs<'_>,
        first: usize,
        old: Option<Routing>,
    ) -> Routing {
        objects.take_changed();
        let Routing { routes: known, checks, policies, changed_backends, .. } = old.unwrap_or_default();
        let (gateways, backends) = (objects.listeners(inputs, &checks), Backends::new(first));
        checks.forget_unused();
        let mut routing =
            Routing { gateways, backends, checks, policies, changed_backends, ..Routing::default() };
        routing.take_policies(objects, inputs);
        let mut places = BTreeSet::new();
        for candidate in objects.candidates() {
            let key = (candidate.head.kind, candidate.head.key.clone());
            let counters = known.get(&key).map(|known| known.counters.clone());
            routing.add(objects, services, &candidate, counters, &mut places);
        }
        places.iter().for_each(|(place, host)| routing.attached.link(*place, host, &routing.routes));
        routing.compiled_backends = routing.backends.all.len();
        routing.open();
        routing
    }

    /// Whether [`Routing::update`] is enough while nothing but routes and Services changes.
    pub(crate) fn can_update(&self, changed_services: &BTreeSet<Key>) -> bool {
        let has_room = self.backends.all.len() <= self.compiled_backends + MAX_ADDED_BACKENDS;
        has_room && self.readers(changed_services).all(|(kind, _)| MADE_ALONE.contains(kind))
    }

    /// Routes that depend on one of these Services.
    fn readers<'r>(&'r self, services: &'r BTreeSet<Key>) -> impl Iterator<Item = &'r RouteKey> {
        let routes = (!services.is_empty()).then_some(&self.routes).into_iter().flatten();
        routes.filter(|(_, route)| !route.read.is_disjoint(services)).map(|(key, _)| key)
    }

    /// Makes the routes that changed, and those that depend on a Service that changed.
    pub(crate) fn update(
        &mut self,
        objects: &mut Objects,
        services: &ServiceStates,
        changed_services: &BTreeSet<Key>,
    ) {
        let mut changed = objects.take_changed();
        changed.extend(self.readers(changed_services).cloned());
        if changed.is_empty() {
            return;
        }
        let mut places = BTreeSet::new();
        for key in changed {
            let old = self.routes.remove(&key);
            if let Some(old) = &old {
                self.attached.detach(old, &mut self.gateways, &mut places);
            }
            if let Some(candidate) = objects.candidate(&key) {
                self.add(objects, services, &candidate, old.map(|old| old.counters), &mut places);
            }
        }
        places.iter().for_each(|(place, host)| self.attached.link(*place, host, &self.routes));
        self.open();
    }

    /// Takes what Gateways and their listeners name as it is now. No route depends on it.
    pub(crate) fn look_up(&mut self, objects: &Objects, inputs: Inputs<'_>) {
        for gateway in &mut self.gateways {
            objects.look_up(gateway, inputs, &self.checks);
        }
        self.take_policies(objects, inputs);
        self.open();
    }

    fn take_policies(&mut self, objects: &Objects, inputs: Inputs<'_>) {
        let policies = objects.backend_policies(inputs, &self.policies);
        self.changed_backends.extend(policies.changed(&self.policies));
        self.policies = policies;
    }

    /// Services whose endpoints are spoken to in another way than at the last call.
    pub(crate) fn take_changed_backends(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed_backends)
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = &Arc<RouteCounters>> {
        self.routes.values().map(|route| &route.counters)
    }

    /// `places`: where it is attached is added.
    fn add(
        &mut self,
        objects: &Objects,
        services: &ServiceStates,
        candidate: &Candidate<'_>,
        counters: Option<Arc<RouteCounters>>,
        places: &mut BTreeSet<(Place, HostPattern)>,
    ) {
        let RouteHead { key, kind, .. } = candidate.head;
        let parents = objects.attach(&candidate.head, &self.gateways);
        if parents.is_empty() {
            return;
        }
        let new = || Arc::new(RouteCounters::new(format!("{}/{key}", kind.to_ascii_lowercase())));
        let counters = counters.unwrap_or_else(new);
        let mut resolver = Resolver {
            objects,
            services,
            backends: &mut self.backends,
            kind,
            route: key,
            protocol: candidate.protocol,
            is_as_is: false,
            verdict: Ok(()),
            reached: BTreeSet::new(),
            read: BTreeSet::new(),
        };
        let made = match candidate.rules {
            Rules::Http(rules) => http_rules::compile(rules, &counters, &mut resolver).map(Made::Rules),
            Rules::Grpc(rules) => grpc::compile(rules, &counters, &mut resolver).map(Made::Rules),
            Rules::Stream(rules) => Ok(Made::Stream(streams(rules, &counters, &mut resolver))),
        };
        let (resolved, services, read) = (resolver.verdict, resolver.reached, resolver.read);
        let (made, accepted) = match made {
            Ok(made) => (made, Ok(())),
            Err(fault) => (Made::Nothing, Err(fault)),
        };
        let route = RouteResult {
            kind,
            key: key.clone(),
            created: candidate.created,
            parents,
            services,
            read,
            accepted,
            resolved,
            made,
            counters,
        };
        self.attached.attach(&route, &mut self.gateways, places);
        self.routes.insert((kind, key.clone()), route);
    }

    /// The ports of listeners that are in force, with what is attached to them.
    fn open(&mut self) {
        self.ports.clear();
        self.direct.clear();
        let mut hosts: BTreeMap<(Key, u16), HostTable<_>> = BTreeMap::new();
        let mut tls: BTreeMap<(Key, u16), HostTable<Arc<TlsServer>>> = BTreeMap::new();
        let mut streams: BTreeMap<(Key, u16), Arc<StreamRoute>> = BTreeMap::new();
        for (at, gateway) in self.gateways.iter().enumerate() {
            for (number, listener) in gateway.listeners.iter().enumerate() {
                if !listener.serves() {
                    continue;
                }
                let port = (gateway.key.clone(), listener.spec.port);
                let of_listener = self.attached.streams(&(at, number));
                match listener.spec.protocol.as_str() {
                    "HTTP" | "HTTPS" => {
                        let table = self.attached.routes(&(at, number));
                        hosts.entry(port.clone()).or_default().entry(listener.host.clone(), || table);
                        if listener.spec.protocol == "HTTPS" {
                            let certificates = listener.certificates.clone();
                            let clients = listener.clients.clone();
                            let server = TlsServer { certificates, clients, action: TlsAction::Http };
                            let table = tls.entry(port).or_default();
                            table.entry(listener.host.clone(), || Arc::new(server));
                        }
                    }
                    "TLS" => {
                        for (host, stream) in of_listener.iter().cloned() {
                            let (certificates, action) = match listener.is_passthrough() {
                                true => (Vec::new(), TlsAction::Passthrough(stream)),
                                false => (listener.certificates.clone(), TlsAction::Terminate(stream)),
                            };
                            let server =
                                TlsServer { certificates, clients: listener.clients.clone(), action };
                            tls.entry(port.clone()).or_default().entry(host, || Arc::new(server));
                        }
                    }
                    protocol => {
                        let Some((_, stream)) = of_listener.first().cloned() else { continue };
                        // At the nodes' own addresses there is no Service that leads to endpoints.
                        let parts = direct_parts(&stream, protocol == "UDP");
                        match parts.filter(|_| gateway.is_balanced) {
                            Some(parts) => {
                                let protocol = if protocol == "UDP" { "UDP" } else { "TCP" };
                                let counters = stream.counters.clone();
                                let (gateway, port) = port;
                                self.direct.push(Direct { gateway, port, protocol, counters, parts });
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
            let of_port = self.gateways.iter().find(|gateway| gateway.key == port.0);
            let listener = Listener {
                public_port: port.1,
                hosts: Arc::new(hosts.remove(&port).unwrap_or_default()),
                tls: tls.remove(&port).map(|servers| Arc::new(TlsServers::new(servers))),
                stream: streams.remove(&port),
                identity: of_port.and_then(|gateway| gateway.identity.clone()),
            };
            self.ports.insert(port, listener);
        }
    }
}

/// A port whose packets go straight to endpoints.
pub(super) struct Direct {
    pub(super) gateway: Key,
    pub(super) port: u16,
    pub(super) protocol: &'static str,
    /// Of the route. What does not pass the gateway is not counted.
    pub(super) counters: Arc<RouteCounters>,
    pub(super) parts: Vec<DirectPart>,
}

/// A backend's index, and its weight.
pub(super) type DirectPart = (usize, u32);

fn streams(rules: &[StreamRule], counters: &Arc<RouteCounters>, resolver: &mut Resolver<'_>) -> Streams {
    // Only TLS may end here.
    let inside = (resolver.kind == "TLSRoute").then(|| stream(rules, counters, resolver)).flatten();
    resolver.is_as_is = true;
    Streams { as_is: stream(rules, counters, resolver), inside }
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

impl<'a> Candidate<'a> {
    fn http(key: &'a Key, route: &'a HttpRoute) -> Candidate<'a> {
        let spec = &route.spec;
        let head =
            RouteHead { key, kind: "HTTPRoute", parents: &spec.parent_refs, hostnames: &spec.hostnames };
        let rules = Rules::Http(&spec.rules);
        Candidate { head, created: age(&route.metadata), protocol: "TCP", rules }
    }

    fn grpc(key: &'a Key, route: &'a GrpcRoute) -> Candidate<'a> {
        let spec = &route.spec;
        let head =
            RouteHead { key, kind: "GRPCRoute", parents: &spec.parent_refs, hostnames: &spec.hostnames };
        let rules = Rules::Grpc(&spec.rules);
        Candidate { head, created: age(&route.metadata), protocol: "TCP", rules }
    }
}

impl Objects {
    /// A route of a kind that [`Objects::take_changed`] has.
    fn candidate(&self, (kind, key): &RouteKey) -> Option<Candidate<'_>> {
        match *kind {
            "HTTPRoute" => {
                self.http_routes.get_key_value(key).map(|(key, route)| Candidate::http(key, route))
            }
            "GRPCRoute" => {
                self.grpc_routes.get_key_value(key).map(|(key, route)| Candidate::grpc(key, route))
            }
            _ => None,
        }
    }

    /// All routes, the oldest first.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut all: Vec<Candidate<'_>> = Vec::new();
        all.extend(self.http_routes.iter().map(|(key, route)| Candidate::http(key, route)));
        all.extend(self.grpc_routes.iter().map(|(key, route)| Candidate::grpc(key, route)));
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
