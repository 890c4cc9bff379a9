//! The Secrets of Ingresses: each node may read those that an Ingress of the nodes' own class names, since each node may serve it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

/// The `spec.controller` of the classes that nodes serve.
const CONTROLLER: &str = "skep.io/ingress";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// The Secret of users for basic authentication.
const USERS_ANNOTATION: &str = "nginx.ingress.kubernetes.io/auth-secret";

/// Namespace and name.
type Key = (String, String);

/// The Ingresses, and the Secrets that they name.
#[derive(Debug, Default)]
pub(super) struct IngressGraph {
    /// Classes that nodes serve.
    classes: BTreeSet<String>,
    ingresses: HashMap<Key, Named>,
    /// By Secret: the Ingresses that name it.
    by_secret: HashMap<Key, BTreeSet<Key>>,
}

#[derive(Debug)]
struct Named {
    class: String,
    secrets: BTreeSet<Key>,
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
        let names = tls.filter_map(|tls| tls["secretName"].as_str()).filter(|name| !name.is_empty());
        let names = names.chain(users(ingress, namespace));
        let secrets: BTreeSet<Key> = names.map(|secret| (namespace.to_owned(), secret.to_owned())).collect();
        if secrets.is_empty() {
            return;
        }
        let key = (namespace.to_owned(), name.to_owned());
        for secret in &secrets {
            self.by_secret.entry(secret.clone()).or_default().insert(key.clone());
        }
        self.ingresses.insert(key, Named { class: class.to_owned(), secrets });
    }

    pub(super) fn delete_ingress(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(named) = self.ingresses.remove(&key) else { return };
        for secret in named.secrets {
            if let Some(by) = self.by_secret.get_mut(&secret) {
                by.remove(&key);
                if by.is_empty() {
                    self.by_secret.remove(&secret);
                }
            }
        }
    }

    /// Whether an Ingress that nodes serve names the Secret.
    pub(super) fn names(&self, namespace: &str, secret: &str) -> bool {
        let by = self.by_secret.get(&(namespace.to_owned(), secret.to_owned()));
        let mut named = by.into_iter().flatten().filter_map(|key| self.ingresses.get(key));
        named.any(|ingress| self.classes.contains(&ingress.class))
    }
}

/// The name of the Secret of users, if it is in the Ingress' own namespace.
fn users<'a>(ingress: &'a Value, namespace: &str) -> Option<&'a str> {
    let name = ingress["metadata"]["annotations"][USERS_ANNOTATION].as_str().map(str::trim)?;
    match name.split_once('/') {
        Some((other, name)) => Some(name).filter(|_| other == namespace),
        None => Some(name),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
