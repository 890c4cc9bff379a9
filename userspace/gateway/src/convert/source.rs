//! An Ingress as it is converted, what is said of it, and the ports that it names.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// What of an Ingress is not in the objects, or is so in another way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// NAMESPACE/NAME.
    pub ingress: String,
    pub text: String,
    /// It serves less than before, or otherwise.
    pub is_loss: bool,
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Note { ingress, text, is_loss } = self;
        write!(out, "{ingress}: {}{text}", if *is_loss { "" } else { "note: " })
    }
}

/// An Ingress, and what it says.
pub(super) struct Source<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Those of ingress-nginx, without the prefix.
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
}

impl<'a> Source<'a> {
    pub(super) fn new(ingress: &'a Ingress) -> Source<'a> {
        let meta = &ingress.metadata;
        let own = meta.annotations.iter().flatten().filter_map(|(name, value)| {
            Some((name.strip_prefix(crate::ingress::annotations::PREFIX)?, value.trim()))
        });
        Source {
            ingress,
            namespace: meta.namespace.as_deref().unwrap_or("default"),
            name: meta.name.as_deref().unwrap_or_default(),
            annotations: own.collect(),
        }
    }

    pub(super) fn is(&self, annotation: &str) -> bool {
        matches!(self.annotations.get(annotation), Some(&("true" | "on" | "yes" | "1")))
    }

    /// The name of its class.
    pub(super) fn class(&self) -> Option<&'a str> {
        let annotation = || self.ingress.metadata.annotations.as_ref()?.get("kubernetes.io/ingress.class");
        let spec = self.ingress.spec.as_ref();
        spec.and_then(|spec| spec.ingress_class_name.as_ref()).or_else(annotation).map(String::as_str)
    }

    pub(super) fn lost(&self, text: impl Into<String>) -> Note {
        Note { ingress: format!("{}/{}", self.namespace, self.name), text: text.into(), is_loss: true }
    }

    pub(super) fn note(&self, text: impl Into<String>) -> Note {
        Note { is_loss: false, ..self.lost(text) }
    }

    /// Metadata of an object in its namespace.
    pub(super) fn meta(&self, name: &str) -> Value {
        json!({"namespace": self.namespace, "name": name})
    }
}

/// Numbers of Services' ports, by the keys of Services and the names of ports.
pub(super) struct Ports(BTreeMap<(String, String), i32>);

impl Ports {
    pub(super) fn of(services: &[Service]) -> Ports {
        let mut ports = BTreeMap::new();
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
            let key = format!("{namespace}/{}", service.metadata.name.as_deref().unwrap_or_default());
            for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                ports.insert((key.clone(), port.name.clone().unwrap_or_default()), port.port);
            }
        }
        Ports(ports)
    }

    pub(super) fn number(&self, namespace: &str, service: &str, port: &str) -> Option<i32> {
        self.0.get(&(format!("{namespace}/{service}"), port.to_owned())).copied()
    }
}

/// A part of an object's name: `*` and dots are none.
pub(super) fn slug(host: &str) -> String {
    host.replace('*', "wildcard").replace('.', "-")
}
