//! The Secrets and ConfigMaps of Ingresses: each node may read those that an Ingress of the nodes' own class names, in its own
//! namespace, since each node may serve it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::references::{Key, Reference, ReferenceKind, Referrers};

/// The `spec.controller` of the classes that nodes serve.
const CONTROLLER: &str = "skep.io/ingress";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// Annotations that name an object: users for basic authentication, authorities for clients and for endpoints, and headers.
const ANNOTATIONS: [(&str, ReferenceKind); 5] = [
    ("auth-secret", ReferenceKind::Secret),
    ("auth-tls-secret", ReferenceKind::Secret),
    ("proxy-ssl-secret", ReferenceKind::Secret),
    ("custom-headers", ReferenceKind::ConfigMap),
    ("auth-proxy-set-headers", ReferenceKind::ConfigMap),
];

/// The Ingresses, and what they name.
#[derive(Debug, Default)]
pub(super) struct IngressGraph {
    /// Classes that nodes serve.
    classes: BTreeSet<String>,
    ingresses: HashMap<Key, Named>,
    named_by: Referrers<Key>,
}

#[derive(Debug)]
struct Named {
    class: String,
    references: BTreeSet<Reference>,
}

impl IngressGraph {
    pub(super) fn apply_class(&mut self, class: &Value) {
        let name = text(class, "/metadata/name");
        match text(class, "/spec/controller") == CONTROLLER {
            true => drop(self.classes.insert(name.to_owned())),
            false => drop(self.classes.remove(name)),
        }
    }

    pub(super) fn delete_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    pub(super) fn apply_ingress(&mut self, ingress: &Value) {
        let (namespace, name) = (text(ingress, "/metadata/namespace"), text(ingress, "/metadata/name"));
        self.delete_ingress(namespace, name);
        let annotation = || ingress["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
        let class = ingress["spec"]["ingressClassName"].as_str().or_else(annotation).unwrap_or_default();
        let tls = ingress["spec"]["tls"].as_array().into_iter().flatten();
        let certificates =
            tls.filter_map(|tls| tls["secretName"].as_str()).map(|name| (ReferenceKind::Secret, name));
        let all = certificates.chain(annotated(ingress, namespace)).filter(|(_, name)| !name.is_empty());
        let references: BTreeSet<Reference> =
            all.map(|(kind, name)| (kind, namespace.to_owned(), name.to_owned())).collect();
        if references.is_empty() {
            return;
        }
        let key = (namespace.to_owned(), name.to_owned());
        self.named_by.add(&references, &key);
        self.ingresses.insert(key, Named { class: class.to_owned(), references });
    }

    pub(super) fn delete_ingress(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(named) = self.ingresses.remove(&key) {
            self.named_by.remove(&named.references, &key);
        }
    }

    /// Whether an Ingress that nodes serve names the object.
    pub(super) fn names(&self, reference: &Reference) -> bool {
        let mut named = self.named_by.of(reference).filter_map(|key| self.ingresses.get(key));
        named.any(|ingress| self.classes.contains(&ingress.class))
    }
}

/// The names in annotations, of objects in the Ingress' own namespace.
fn annotated<'a>(ingress: &'a Value, namespace: &'a str) -> impl Iterator<Item = (ReferenceKind, &'a str)> {
    let annotations = &ingress["metadata"]["annotations"];
    ANNOTATIONS.iter().filter_map(move |(annotation, kind)| {
        let named = annotations.get(format!("{PREFIX}{annotation}"))?.as_str()?.trim();
        let name = match named.split_once('/') {
            Some((other, name)) => Some(name).filter(|_| other == namespace),
            None => Some(named),
        };
        Some((*kind, name?))
    })
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
