//! What routes of Ingresses lead to. A backend has its index as long as an Ingress leads to it, so that routes that did not change
//! need not be made again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::endpoint_tls::{EndpointTls, EndpointTlsError};
use super::endpoints::SliceFacts;
use super::facts::PortName;
use super::nearby::Location;
use super::problem::Problem;
use super::states::{SecretStates, ServiceStates};
use crate::config::{Backend, EndpointDemand, Protocol};

/// What backends are made from.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) services: &'a ServiceStates,
    /// By Service.
    pub(super) slices: &'a HashMap<Arc<str>, BTreeMap<Arc<str>, SliceFacts>>,
    pub(super) secrets: &'a SecretStates,
    pub(super) location: &'a Location,
}

/// What requests of a route go to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct BackendKey {
    pub(super) service: Arc<str>,
    pub(super) port: PortName,
    /// `None`: as the Service says.
    pub(super) protocol: Option<Protocol>,
    /// The Service's own address is the endpoint.
    pub(super) by_service: bool,
    /// `None`: in the clear.
    pub(super) tls: Option<EndpointTls>,
}

/// By index.
#[derive(Default)]
pub(super) struct Backends {
    slots: Vec<Slot>,
    index_of: HashMap<BackendKey, usize>,
    of_service: HashMap<Arc<str>, BTreeSet<usize>>,
    /// Indexes that nothing leads to.
    free: Vec<usize>,
}

struct Slot {
    /// `None`: it is free.
    key: Option<BackendKey>,
    /// Ingresses that lead to it.
    ingresses: BTreeSet<Arc<str>>,
    /// With the endpoints of now. `None`: the Service, one of its slices or the Secret changed.
    made: Option<(Arc<Backend>, Option<Fault>)>,
}

/// Why a backend has no endpoint.
#[derive(Clone)]
enum Fault {
    NoService,
    ExternalName,
    NoPort,
    Tls(EndpointTlsError),
}

impl BackendKey {
    pub(super) fn new(service: Arc<str>, port: PortName) -> BackendKey {
        BackendKey { service, port, protocol: None, by_service: false, tls: None }
    }

    fn name(&self) -> Arc<str> {
        let BackendKey { service, port, protocol, by_service, tls } = self;
        let protocol = match protocol {
            None => "",
            Some(Protocol::Http1) => "/http1",
            Some(Protocol::H2c) => "/h2c",
        };
        let tls = tls.as_ref().map(|tls| format!("/tls-{:016x}", tls.id())).unwrap_or_default();
        format!("{service}:{port}{protocol}{}{tls}", if *by_service { "/service" } else { "" }).into()
    }

    fn make(&self, inputs: Inputs<'_>) -> (Arc<Backend>, Option<Fault>) {
        let Inputs { services, slices, secrets, location } = inputs;
        let BackendKey { service, port, protocol: said, by_service, tls } = self;
        let nothing = |fault| (Protocol::Http1, Vec::new(), Some(fault));
        let demand = services.get(service).map(|facts| facts.demand).unwrap_or_default();
        let (protocol, mut endpoints, mut fault) = match services.get(service) {
            None => nothing(Fault::NoService),
            Some(facts) if facts.is_external_name => nothing(Fault::ExternalName),
            Some(facts) => match facts.port(port) {
                None => nothing(Fault::NoPort),
                Some(port) if *by_service => (said.unwrap_or(port.protocol), facts.own(port), None),
                Some(port) => {
                    let endpoints = facts.endpoints(port, slices.get(service), location);
                    (said.unwrap_or(port.protocol), endpoints, None)
                }
            },
        };
        let tls = match tls.as_ref().map(|tls| tls.make(service, secrets)).transpose() {
            Ok(tls) => tls.map(Arc::new),
            Err(error) => {
                // Nothing is sent in the clear instead.
                (endpoints, fault) = (Vec::new(), Some(Fault::Tls(error)));
                None
            }
        };
        (Arc::new(Backend { name: self.name(), protocol, tls, demand, endpoints }), fault)
    }
}

impl Backends {
    /// The index of a backend that an Ingress leads to, until [`Backends::release`].
    pub(super) fn take(&mut self, key: BackendKey, ingress: &Arc<str>) -> usize {
        let at = match self.index_of.get(&key) {
            Some(at) => *at,
            None => {
                let at = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(Slot { key: None, ingresses: BTreeSet::new(), made: None });
                    self.slots.len() - 1
                });
                self.of_service.entry(key.service.clone()).or_default().insert(at);
                self.slots[at].key = Some(key.clone());
                self.index_of.insert(key, at);
                at
            }
        };
        self.slots[at].ingresses.insert(ingress.clone());
        at
    }

    /// An Ingress leads there no more.
    pub(super) fn release(&mut self, at: usize, ingress: &Arc<str>) {
        let slot = &mut self.slots[at];
        slot.ingresses.remove(ingress);
        if !slot.ingresses.is_empty() {
            return;
        }
        slot.made = None;
        let Some(key) = slot.key.take() else { return };
        self.free.push(at);
        self.index_of.remove(&key);
        if let Some(of_service) = self.of_service.get_mut(&key.service) {
            of_service.remove(&at);
            if of_service.is_empty() {
                self.of_service.remove(&key.service);
            }
        }
    }

    /// A Service or one of its slices changed.
    pub(super) fn touch(&mut self, service: &str) {
        for at in self.of_service.get(service).into_iter().flatten() {
            self.slots[*at].made = None;
        }
    }

    /// A Secret changed.
    pub(super) fn touch_secret(&mut self, secret: &str) {
        for slot in &mut self.slots {
            let tls = slot.key.as_ref().and_then(|key| key.tls.as_ref());
            if tls.is_some_and(|tls| tls.secret.as_deref() == Some(secret)) {
                slot.made = None;
            }
        }
    }

    /// Which endpoints are near changed.
    pub(super) fn touch_all(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.made = None);
    }

    /// All of them, with the endpoints of now, and what is wrong with them.
    pub(super) fn all(&mut self, inputs: Inputs<'_>) -> (Vec<Arc<Backend>>, Vec<Problem>) {
        let nothing = Arc::new(Backend {
            name: "".into(),
            protocol: Protocol::Http1,
            tls: None,
            demand: EndpointDemand::default(),
            endpoints: Vec::new(),
        });
        let mut problems = Vec::new();
        let backends = self.slots.iter_mut().map(|slot| {
            let (Some(key), Some(ingress)) = (&slot.key, slot.ingresses.first()) else {
                return nothing.clone();
            };
            let (backend, fault) = slot.made.get_or_insert_with(|| key.make(inputs));
            problems.extend(fault.as_ref().map(|fault| match fault {
                Fault::NoService => Problem::no_service(ingress, &key.service),
                Fault::ExternalName => Problem::external_name(ingress, &key.service),
                Fault::NoPort => Problem::no_port(ingress, &key.service, &key.port),
                Fault::Tls(error) => Problem::bad_endpoint_tls(ingress, &key.service, error),
            }));
            backend.clone()
        });
        let backends = backends.collect();
        (backends, problems)
    }
}
