//! Ingress v1 to a [`Config`]. PURE. In: Ingresses, IngressClasses, Services, EndpointSlices and the Secrets that Ingresses name, as they
//! change. Out: the configuration, what of it cannot be served, and which Secrets are needed.
//!
//! Rules follow the API's documentation. `ImplementationSpecific` is `Prefix`. A rule whose backend cannot be served answers 503, so
//! that its requests do not go to a less specific rule. Of two equal rules, and of two certificates for a name, the older Ingress'
//! is in force.

mod acme;
mod acme_facts;
pub mod annotations;
mod backends;
mod certificates;
mod client_certificates;
mod compile;
mod endpoint_tls;
mod endpoints;
pub(crate) mod facts;
mod headers;
mod hosts;
mod nearby;
mod policies;
mod problem;
pub(crate) mod states;
#[cfg(test)]
mod tests;
mod units;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

pub use problem::Problem;

use crate::acme::Challenges;
use crate::client_check::ClientChecks;
use crate::config::{Backend, Config, EndpointDemand, Listener, Protocol};
use crate::gateway_api::{self, PortKey, PortTls, Publication, StatusUpdate};
use crate::routing::HostTable;
use backends::Inputs;
use certificates::Certificates;
use endpoints::{ServiceFacts, SliceFacts};
use facts::{IngressFacts, PortName};
use nearby::Location;
use states::{ConfigMapState, ConfigMapStates, SecretState, SecretStates, ServiceStates, key_of};
use units::Units;
use users::Users;

/// The `spec.controller` of the classes that the gateway serves.
pub const CONTROLLER: &str = "skep.io/ingress";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Where the gateway listens for Ingresses; `None`: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub http: Option<u16>,
    pub https: Option<u16>,
}

/// What is known of the cluster. Keys are NAMESPACE/NAME, of classes NAME.
pub struct Index {
    ports: Ports,
    ingresses: BTreeMap<Arc<str>, IngressFacts>,
    /// Classes whose controller this is.
    classes: BTreeSet<Arc<str>>,
    services: ServiceStates,
    /// By service, then by slice.
    slices: HashMap<Arc<str>, BTreeMap<Arc<str>, SliceFacts>>,
    service_of_slice: HashMap<Arc<str>, Arc<str>>,
    secrets: SecretStates,
    config_maps: ConfigMapStates,
    /// Secrets of users.
    users: HashMap<Arc<str>, Users>,
    client_checks: ClientChecks,
    location: Location,
    challenges: Arc<Challenges>,
    units: Units,
    /// `None`: an Ingress with TLS or a Secret changed.
    certificates: Option<Certificates>,
    gateway_api: gateway_api::Objects,
    /// With the revision of the objects and the first index of a backend that it was made from.
    gateway_routing: Option<((u64, usize), gateway_api::Routing)>,
    /// Services that changed since that was made.
    changed_services: BTreeSet<Arc<str>>,
    /// A Secret or a ConfigMap that Gateways or policies name changed since that was made.
    are_inputs_stale: bool,
    /// Of Gateway API, by Service and port, until one of these changes.
    gateway_backends: HashMap<Arc<str>, BTreeMap<PortKey, Arc<Backend>>>,
}

/// What [`Index::compile`] makes.
#[derive(Debug)]
pub struct Compiled {
    pub config: Config,
    pub problems: Vec<Problem>,
    /// When a certificate in force expires, in seconds since 1970. What is compiled then says so.
    pub next_expiry: Option<i64>,
}

impl Index {
    pub fn new(ports: Ports) -> Index {
        Index {
            ports,
            ingresses: BTreeMap::new(),
            classes: BTreeSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            service_of_slice: HashMap::new(),
            secrets: HashMap::new(),
            config_maps: HashMap::new(),
            users: HashMap::new(),
            client_checks: ClientChecks::default(),
            location: Location::default(),
            challenges: Arc::default(),
            units: Units::default(),
            certificates: None,
            gateway_api: gateway_api::Objects::default(),
            gateway_routing: None,
            changed_services: BTreeSet::new(),
            are_inputs_stale: false,
            gateway_backends: HashMap::new(),
        }
    }

    /// Of the gateway on a node. Endpoints that are meant for it are preferred.
    #[must_use]
    pub fn at(mut self, node: &str) -> Index {
        self.location.node = node.into();
        self
    }

    pub fn apply_node(&mut self, node: &Node) {
        if node.metadata.name.as_deref() == Some(&*self.location.node) {
            let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
            let zone = zone.map(|zone| zone.as_str().into());
            if std::mem::replace(&mut self.location.zone, zone.clone()) != zone {
                self.units.backends.touch_all();
                self.gateway_backends.clear();
            }
        }
        self.gateway_api.apply_node(node);
    }

    pub fn delete_node(&mut self, name: &str) {
        self.gateway_api.delete_node(name);
    }

    pub fn keep_nodes(&mut self, listed: &HashSet<Arc<str>>) {
        self.gateway_api.keep_nodes(listed);
    }

    /// The objects of Gateway API.
    pub fn gateway_api(&mut self) -> &mut gateway_api::Objects {
        &mut self.gateway_api
    }

    pub fn apply_ingress(&mut self, ingress: &Ingress) {
        let key = key_of(&ingress.metadata);
        let old = self.ingresses.get(&key);
        let facts = IngressFacts::parse(&key, ingress, old);
        // A status is written by the gateway itself, and changes no rule.
        if old.is_none_or(|old| !old.has_equal_rules(&facts)) {
            self.units.change(&key, old, Some(&facts));
            if old.into_iter().chain([&facts]).any(IngressFacts::concerns_handshakes) {
                self.certificates = None;
            }
        }
        self.ingresses.insert(key, facts);
    }

    pub fn delete_ingress(&mut self, key: &str) {
        if let Some((key, old)) = self.ingresses.remove_entry(key) {
            self.units.change(&key, Some(&old), None);
            if old.concerns_handshakes() {
                self.certificates = None;
            }
        }
    }

    pub fn keep_ingresses(&mut self, listed: &HashSet<Arc<str>>) {
        let gone: Vec<_> = self.ingresses.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_ingress(key));
    }

    pub fn apply_class(&mut self, class: &IngressClass) {
        let name = key_of(&class.metadata);
        let is_ours = class.spec.as_ref().is_some_and(|spec| spec.controller.as_deref() == Some(CONTROLLER));
        let changed = if is_ours { self.classes.insert(name) } else { self.classes.remove(&name) };
        if changed {
            self.classes_changed();
        }
    }

    pub fn delete_class(&mut self, name: &str) {
        if self.classes.remove(name) {
            self.classes_changed();
        }
    }

    pub fn keep_classes(&mut self, listed: &HashSet<Arc<str>>) {
        let before = self.classes.len();
        self.classes.retain(|name| listed.contains(name));
        if self.classes.len() != before {
            self.classes_changed();
        }
    }

    fn classes_changed(&mut self) {
        self.units.reset(self.ingresses.keys());
        self.certificates = None;
    }

    pub fn apply_service(&mut self, service: &Service) {
        let (key, facts) = (key_of(&service.metadata), ServiceFacts::parse(service));
        if self.services.get(&key) != Some(&facts) {
            self.changed_services.insert(key.clone());
            self.service_changed(&key);
        }
        self.services.insert(key, facts);
        self.gateway_api.apply_service(service);
    }

    pub fn delete_service(&mut self, key: &str) {
        if self.services.remove(key).is_some() {
            self.changed_services.insert(key.into());
            self.service_changed(key);
        }
        self.gateway_api.delete_service(key);
    }

    pub fn keep_services(&mut self, listed: &HashSet<Arc<str>>) {
        let gone: Vec<_> = self.services.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_service(key));
    }

    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = key_of(&slice.metadata);
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let service: Option<Arc<str>> = name.map(|name| format!("{namespace}/{name}").into());
        if self.service_of_slice.get(&key) != service.as_ref() {
            self.delete_slice(&key);
        }
        let (Some(service), Some(facts)) = (service, SliceFacts::parse(slice)) else { return };
        self.service_changed(&service);
        self.service_of_slice.insert(key.clone(), service.clone());
        self.slices.entry(service).or_default().insert(key, facts);
    }

    pub fn delete_slice(&mut self, key: &str) {
        let Some(service) = self.service_of_slice.remove(key) else { return };
        self.service_changed(&service);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    pub fn keep_slices(&mut self, listed: &HashSet<Arc<str>>) {
        let gone: Vec<_> =
            self.service_of_slice.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_slice(key));
    }

    /// What was found of a Secret of [`Index::secrets`] at `now`, in seconds since 1970; `None`: there is none.
    pub fn apply_secret(&mut self, key: &Arc<str>, secret: Option<&Secret>, now: i64) {
        let state = SecretState::parse(secret, self.secrets.remove(key), now);
        match secret.and_then(|secret| secret.data.clone()) {
            Some(data) if !data.contains_key("tls.crt") => {
                drop(self.users.insert(key.clone(), Users::new(data)))
            }
            _ => drop(self.users.remove(key)),
        }
        self.secrets.insert(key.clone(), state);
        self.units.named_changed(key);
        self.units.backends.touch_secret(key);
        self.certificates = None;
        self.are_inputs_stale |= self.gateway_api.named().secrets.contains(key);
    }

    /// What was found of a ConfigMap of [`Index::config_maps`]; `None`: there is none.
    pub fn apply_config_map(&mut self, key: &Arc<str>, config_map: Option<&ConfigMap>) {
        let state = ConfigMapState::parse(config_map, self.config_maps.remove(key));
        self.config_maps.insert(key.clone(), state);
        self.units.named_changed(key);
        self.are_inputs_stale |= self.gateway_api.named().config_maps.contains(key);
    }

    /// The ConfigMaps that the gateway's objects name. Others are forgotten.
    pub fn config_maps(&mut self) -> BTreeSet<Arc<str>> {
        let named = self.claimed().flat_map(|(key, facts)| facts.settings.config_maps(key));
        let named: BTreeSet<_> = named.chain(self.gateway_api.named().config_maps).collect();
        self.config_maps.retain(|key, _| named.contains(key));
        named
    }

    /// What answers challenges of ACME.
    pub fn apply_challenges(&mut self, challenges: Challenges) {
        self.challenges = Arc::new(challenges);
    }

    /// The Secrets that the gateway's Ingresses and Gateways name. Others are forgotten.
    pub fn secrets(&mut self) -> BTreeSet<Arc<str>> {
        let named = self.claimed().flat_map(|(key, facts)| {
            facts.tls.iter().filter_map(|tls| tls.secret.clone()).chain(facts.settings.secrets(key))
        });
        let named: BTreeSet<_> = named.chain(self.gateway_api.named().secrets).collect();
        self.secrets.retain(|key, _| named.contains(key));
        self.users.retain(|key, _| named.contains(key));
        named
    }

    /// The Ingresses that the gateway serves, and the addresses that their status has.
    pub fn statuses(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<IpAddr>)> {
        self.claimed().map(|(key, facts)| (key, &facts.status))
    }

    /// The configuration of `now`, in seconds since 1970.
    pub fn compile(&mut self, now: i64) -> Compiled {
        let mut units = std::mem::take(&mut self.units);
        units.update(self);
        let certificates = match self.certificates.take() {
            Some(certificates) if certificates.next_expiry.is_none_or(|at| at > now) => certificates,
            _ => Certificates::compile(self.claimed(), &self.secrets, &self.client_checks, now),
        };
        self.client_checks.forget_unused();
        let (backends, mut problems) = units.backends.all(self.inputs());
        problems.extend(units.problems().chain(&certificates.problems).cloned());
        problems.sort();
        problems.dedup();
        let counters = self.claimed().map(|(_, facts)| facts.counters.clone()).collect();
        let listeners = self.listeners(&units, &certificates);
        let challenges = self.challenges.clone();
        let mut config = Config { listeners, backends, counters, challenges };
        let next_expiry = certificates.next_expiry;
        (self.units, self.certificates) = (units, Some(certificates));
        self.add_gateways(&mut config);
        Compiled { config, problems, next_expiry }
    }

    /// Those of Ingresses. A port is open while an Ingress needs it.
    fn listeners(&self, units: &Units, certificates: &Certificates) -> BTreeMap<u16, Listener> {
        let Ports { http, https } = self.ports;
        let http = http.filter(|_| self.claimed().next().is_some());
        let has_tls = |facts: &IngressFacts| !facts.tls.is_empty() || facts.settings.passes_tls;
        let https = https.filter(|_| self.claimed().any(|(_, facts)| has_tls(facts)));
        let hosts = Arc::new(HostTable::of_any(units.routes.clone()));
        let listener = |port, tls| {
            let hosts = hosts.clone();
            (port, Listener { public_port: port, hosts, tls, stream: None, identity: None })
        };
        let of_http = http.map(|port| listener(port, None));
        let of_https = https.map(|port| listener(port, Some(certificates.servers(units.passthroughs()))));
        of_http.into_iter().chain(of_https).collect()
    }

    fn add_gateways(&mut self, config: &mut Config) {
        let first = config.backends.len();
        let made_from = (self.gateway_api.revision(), first);
        let changed = std::mem::take(&mut self.changed_services);
        let are_inputs_stale = std::mem::take(&mut self.are_inputs_stale);
        let are_inputs_stale = self.gateway_api.take_changed_policies() || are_inputs_stale;
        let inputs = gateway_api::Inputs { secrets: &self.secrets, config_maps: &self.config_maps };
        let mut routing = match self.gateway_routing.take() {
            Some((known, mut routing)) if known == made_from && routing.can_update(&changed) => {
                routing.update(&mut self.gateway_api, &self.services, &changed);
                if are_inputs_stale {
                    routing.look_up(&self.gateway_api, inputs);
                }
                routing
            }
            old => {
                let old = old.map(|(_, routing)| routing);
                gateway_api::Routing::compile(&mut self.gateway_api, &self.services, inputs, first, old)
            }
        };
        for service in routing.take_changed_backends() {
            self.gateway_backends.remove(&service);
        }
        for key in &routing.backends.all {
            let made = self.gateway_backends.get(&key.service).and_then(|of_service| of_service.get(key));
            let made = made.cloned().unwrap_or_else(|| self.gateway_backend(key, &routing.policies));
            config.backends.push(made.clone());
            self.gateway_backends.entry(key.service.clone()).or_default().insert(key.clone(), made);
        }
        config.counters.extend(routing.counters().cloned());
        for ((gateway, port), listener) in &routing.ports {
            for node_port in self.gateway_api.node_ports(gateway, *port) {
                // Of two that want the same port the first one has it, and Ingresses come before Gateways.
                config.listeners.entry(node_port).or_insert_with(|| listener.clone());
            }
        }
        self.gateway_routing = Some((made_from, routing));
    }

    fn gateway_backend(&self, key: &PortKey, policies: &gateway_api::BackendPolicies) -> Arc<Backend> {
        let PortKey { service, port: number, is_as_is } = key;
        let (mut protocol, mut tls, mut endpoints) = (Protocol::Http1, None, Vec::new());
        let mut demand = EndpointDemand::default();
        if let Some(facts) = self.services.get(service)
            && let Some(port) = facts.port_of(&PortName::Number((*number).into()), "")
        {
            protocol = port.protocol;
            endpoints = facts.endpoints(port, self.slices.get(service), &self.location);
            demand = facts.demand;
            match policies.of(service, &port.name).filter(|_| !is_as_is) {
                None => {}
                Some(PortTls::Over(found)) => tls = Some(found.clone()),
                // Nothing goes there in the clear.
                Some(PortTls::Refused) => endpoints.clear(),
            }
        }
        let suffix = if *is_as_is { "/stream" } else { "" };
        let name = format!("{service}:{number}{suffix}").into();
        Arc::new(Backend { name, protocol, tls, demand, endpoints })
    }

    fn inputs(&self) -> Inputs<'_> {
        let Index { services, slices, secrets, location, .. } = self;
        Inputs { services, slices, secrets, location }
    }

    /// A Service or one of its slices changed.
    fn service_changed(&mut self, service: &str) {
        self.units.backends.touch(service);
        self.gateway_backends.remove(service);
    }

    /// Statuses of Gateway API that differ from those that are stored. `now` in RFC 3339.
    pub fn status_updates(&self, now: &str) -> Vec<StatusUpdate> {
        let routing = self.gateway_routing.as_ref();
        routing.map(|(_, routing)| self.gateway_api.status_updates(routing, now)).unwrap_or_default()
    }

    /// The Services that lead to Gateways, with their slices; then Services and slices that lead to none any more.
    pub fn publications(&self) -> (Vec<Publication>, Vec<Arc<str>>, Vec<Arc<str>>) {
        let Some((_, routing)) = &self.gateway_routing else { return Default::default() };
        let endpoints = |at: usize| {
            let backend = at.checked_sub(routing.backends.first).and_then(|at| routing.backends.all.get(at));
            backend
                .map(|key| self.gateway_backend(key, &routing.policies).endpoints.clone())
                .unwrap_or_default()
        };
        let wanted = self.gateway_api.publications(routing, &endpoints);
        let slices_of = |publication: &Publication| {
            let (key, names) = (publication.key(), publication.slice_keys());
            let known = self.slices.get(&key).into_iter().flat_map(BTreeMap::keys);
            known.filter(|slice| !names.contains(*slice)).cloned().collect::<Vec<_>>()
        };
        let slices = wanted.iter().flat_map(slices_of).collect();
        (wanted, self.gateway_api.leftover_services(routing), slices)
    }

    /// An Ingress that the gateway serves.
    fn claimed_one(&self, key: &str) -> Option<&IngressFacts> {
        let facts = self.ingresses.get(key)?;
        facts.class.as_ref().is_some_and(|class| self.classes.contains(class)).then_some(facts)
    }

    fn claimed(&self) -> impl Iterator<Item = (&Arc<str>, &IngressFacts)> {
        let is_ours =
            |facts: &IngressFacts| facts.class.as_ref().is_some_and(|class| self.classes.contains(class));
        self.ingresses.iter().filter(move |(_, facts)| is_ours(facts))
    }
}
