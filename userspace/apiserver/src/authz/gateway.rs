//! The Secrets of Gateways: each node may read those that a listener of the nodes' own classes names, in its namespace or where a
//! ReferenceGrant allows it, since each node may serve it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

/// The `spec.controllerName` of the classes that nodes serve.
const CONTROLLER: &str = "skep.io/gateway";
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// Namespace and name.
type Key = (String, String);

/// Gateways and ListenerSets, the Secrets that they name, and what grants allow.
#[derive(Debug, Default)]
pub(super) struct GatewayGraph {
    /// Classes that nodes serve.
    classes: BTreeSet<String>,
    /// By kind and key.
    owners: HashMap<(String, Key), Owner>,
    /// By Secret: who names it.
    by_secret: HashMap<Key, BTreeSet<(String, Key)>>,
    /// `spec` by key.
    grants: HashMap<Key, Value>,
}

#[derive(Debug)]
struct Owner {
    /// Of a Gateway its class, of a ListenerSet its Gateway.
    class: Option<String>,
    parent: Option<Key>,
    secrets: BTreeSet<Key>,
}

impl GatewayGraph {
    pub(super) fn apply(&mut self, kind: &str, object: &Value) {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        self.delete(kind, namespace, name);
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            "GatewayClass" if text(object, "/spec/controllerName") == CONTROLLER => {
                self.classes.insert(name.to_owned());
            }
            "ReferenceGrant" => drop(self.grants.insert(key, object["spec"].clone())),
            "Gateway" | "ListenerSet" => self.apply_owner(kind, key, object),
            _ => {}
        }
    }

    fn apply_owner(&mut self, kind: &str, key: Key, object: &Value) {
        let listeners = object["spec"]["listeners"].as_array().into_iter().flatten();
        let refs = listeners
            .flat_map(|listener| listener["tls"]["certificateRefs"].as_array().into_iter().flatten());
        let secrets: BTreeSet<Key> = refs
            .filter(|reference| reference["kind"].as_str().is_none_or(|kind| kind == "Secret"))
            .map(|reference| {
                let namespace = reference["namespace"].as_str().unwrap_or(&key.0);
                (namespace.to_owned(), text(reference, "/name").to_owned())
            })
            .collect();
        let parent = &object["spec"]["parentRef"];
        let parent = (kind == "ListenerSet").then(|| {
            let namespace = parent["namespace"].as_str().unwrap_or(&key.0);
            (namespace.to_owned(), text(parent, "/name").to_owned())
        });
        let class = object["spec"]["gatewayClassName"].as_str().map(str::to_owned);
        let owner = (kind.to_owned(), key);
        for secret in &secrets {
            self.by_secret.entry(secret.clone()).or_default().insert(owner.clone());
        }
        self.owners.insert(owner, Owner { class, parent, secrets });
    }

    pub(super) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            "GatewayClass" => drop(self.classes.remove(name)),
            "ReferenceGrant" => drop(self.grants.remove(&key)),
            _ => {
                let owner = (kind.to_owned(), key);
                let Some(gone) = self.owners.remove(&owner) else { return };
                for secret in gone.secrets {
                    if let Some(by) = self.by_secret.get_mut(&secret) {
                        by.remove(&owner);
                        if by.is_empty() {
                            self.by_secret.remove(&secret);
                        }
                    }
                }
            }
        }
    }

    /// Whether a listener that nodes serve names the Secret, and may.
    pub(super) fn names(&self, namespace: &str, secret: &str) -> bool {
        let by = self.by_secret.get(&(namespace.to_owned(), secret.to_owned()));
        by.into_iter().flatten().any(|(kind, key)| {
            self.is_served(kind, key)
                && (key.0 == namespace
                    || self
                        .grants
                        .iter()
                        .any(|((home, _), grant)| home == namespace && allows(grant, kind, &key.0, secret)))
        })
    }

    fn is_served(&self, kind: &str, key: &Key) -> bool {
        let Some(owner) = self.owners.get(&(kind.to_owned(), key.clone())) else { return false };
        let gateway = |parent: &Key| self.owners.get(&("Gateway".to_owned(), parent.clone()));
        let class = match &owner.parent {
            Some(parent) => gateway(parent).and_then(|gateway| gateway.class.as_ref()),
            None => owner.class.as_ref(),
        };
        class.is_some_and(|class| self.classes.contains(class))
    }
}

fn allows(grant: &Value, kind: &str, namespace: &str, secret: &str) -> bool {
    let any =
        |field: &str, test: &dyn Fn(&Value) -> bool| grant[field].as_array().into_iter().flatten().any(test);
    any("from", &|from| from["group"] == GROUP && from["kind"] == kind && from["namespace"] == namespace)
        && any("to", &|to| {
            let name = to["name"].as_str().unwrap_or_default();
            to["group"] == "" && to["kind"] == "Secret" && (name.is_empty() || name == secret)
        })
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
