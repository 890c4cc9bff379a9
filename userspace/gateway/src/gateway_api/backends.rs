//! References to backends. PURE.

use std::collections::{BTreeSet, HashMap};

use super::conditions::Fault;
use super::grants::{Referrer, namespace_of};
use super::kinds::BackendRef;
use super::objects::{Key, Objects};
use crate::ingress::facts::PortName;
use crate::ingress::states::ServiceStates;

/// Services' ports that routes lead to, each once.
#[derive(Default)]
pub(crate) struct Backends {
    /// In the order of their indexes, which begin with `first`.
    pub(crate) all: Vec<PortKey>,
    pub(crate) first: usize,
    index_of: HashMap<PortKey, usize>,
}

/// A Service's port that routes lead to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortKey {
    pub(crate) service: Key,
    pub(crate) port: u16,
    /// Bytes go there as they are, whatever policies say.
    pub(crate) is_as_is: bool,
}

impl Backends {
    pub(super) fn new(first: usize) -> Backends {
        Backends { first, ..Backends::default() }
    }
}

/// Resolves the references of a route.
pub(super) struct Resolver<'a> {
    pub(super) objects: &'a Objects,
    pub(super) services: &'a ServiceStates,
    pub(super) backends: &'a mut Backends,
    pub(super) kind: &'static str,
    pub(super) route: &'a Key,
    /// Of the transport, as in `spec.ports` of Services.
    pub(super) protocol: &'static str,
    /// What is resolved gets bytes as they are.
    pub(super) is_as_is: bool,
    /// The first reference that does not lead anywhere.
    pub(super) verdict: Result<(), Fault>,
    /// Services that references lead to.
    pub(super) reached: BTreeSet<Key>,
    /// Services whose facts were read, or are missing.
    pub(super) read: BTreeSet<Key>,
}

impl Resolver<'_> {
    /// The index of a backend; `None`: the reference leads nowhere, and the route's condition says why.
    pub(super) fn resolve(&mut self, reference: &BackendRef) -> Option<usize> {
        match self.find(reference) {
            Ok((service, port)) => {
                self.reached.insert(service.clone());
                let next = self.backends.first + self.backends.all.len();
                let key = PortKey { service, port, is_as_is: self.is_as_is };
                let at = *self.backends.index_of.entry(key.clone()).or_insert(next);
                if at == next {
                    self.backends.all.push(key);
                }
                Some(at)
            }
            Err(fault) => {
                if self.verdict.is_ok() {
                    self.verdict = Err(fault);
                }
                None
            }
        }
    }

    fn find(&mut self, reference: &BackendRef) -> Result<(Key, u16), Fault> {
        let (group, kind) = (reference.group.as_deref(), reference.kind.as_deref().unwrap_or("Service"));
        if group.is_some_and(|group| !group.is_empty()) || kind != "Service" {
            return Err(Fault::new("InvalidKind", format!("{kind} is not a kind of backends")));
        }
        let own = namespace_of(self.route);
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let service: Key = format!("{namespace}/{}", reference.name).into();
        let from = Referrer { kind: self.kind, namespace: own };
        if !self.objects.may_refer(from, "", "Service", namespace, &reference.name) {
            return Err(Fault::new("RefNotPermitted", format!("no ReferenceGrant allows Service {service}")));
        }
        self.read.insert(service.clone());
        let facts = self
            .services
            .get(&service)
            .ok_or_else(|| Fault::new("BackendNotFound", format!("Service {service} does not exist")))?;
        let port = reference.port.unwrap_or_default();
        if facts.is_external_name {
            return Err(Fault::new("UnsupportedProtocol", format!("Service {service} is an ExternalName")));
        }
        match facts.port_of(&PortName::Number(port.into()), self.protocol) {
            Some(_) => Ok((service, port)),
            None => Err(Fault::new("BackendNotFound", format!("Service {service} has no port {port}"))),
        }
    }
}
