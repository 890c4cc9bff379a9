//! The Secrets and ConfigMaps of Gateway API: each node may read those that an object of the nodes' own classes names, in its
//! namespace or where a ReferenceGrant allows it, since each node may serve it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::references::{Key, Reference, ReferenceKind, Referrers};

/// The `spec.controllerName` of the classes that nodes serve.
const CONTROLLER: &str = "skep.io/gateway";
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// Kinds of the group on which what nodes may read depends.
pub(crate) const KINDS: [&str; 5] =
    ["GatewayClass", "Gateway", "ListenerSet", "BackendTLSPolicy", "ReferenceGrant"];

/// Gateways, ListenerSets and BackendTLSPolicies, what they name, and what grants allow.
#[derive(Debug, Default)]
pub(super) struct GatewayGraph {
    /// Classes that nodes serve.
    classes: BTreeSet<String>,
    /// By kind and key.
    owners: HashMap<(String, Key), Owner>,
    named_by: Referrers<(String, Key)>,
    /// `spec` by key.
    grants: HashMap<Key, Value>,
}

#[derive(Debug)]
struct Owner {
    is_of: OwnerClass,
    named: BTreeSet<Reference>,
}

/// On which class it depends whether nodes serve an object.
#[derive(Debug)]
enum OwnerClass {
    /// That of a Gateway.
    Named(String),
    /// That of another Gateway.
    Gateway(Key),
    /// Any that nodes serve: a policy is for all Gateways.
    Any,
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
            "Gateway" | "ListenerSet" | "BackendTLSPolicy" => self.apply_owner(kind, key, object),
            _ => {}
        }
    }

    fn apply_owner(&mut self, kind: &str, key: Key, object: &Value) {
        let named = match kind {
            "BackendTLSPolicy" => of_policy(object, &key.0),
            _ => of_listeners(object, &key.0),
        };
        let is_of = match kind {
            "Gateway" => OwnerClass::Named(text(object, "/spec/gatewayClassName").to_owned()),
            "ListenerSet" => {
                let parent = &object["spec"]["parentRef"];
                let namespace = parent["namespace"].as_str().unwrap_or(&key.0);
                OwnerClass::Gateway((namespace.to_owned(), text(parent, "/name").to_owned()))
            }
            _ => OwnerClass::Any,
        };
        let owner = (kind.to_owned(), key);
        self.named_by.add(&named, &owner);
        self.owners.insert(owner, Owner { is_of, named });
    }

    pub(super) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            "GatewayClass" => drop(self.classes.remove(name)),
            "ReferenceGrant" => drop(self.grants.remove(&key)),
            _ => {
                let owner = (kind.to_owned(), key);
                if let Some(gone) = self.owners.remove(&owner) {
                    self.named_by.remove(&gone.named, &owner);
                }
            }
        }
    }

    /// Whether an object that nodes serve names the Secret or the ConfigMap, and may.
    pub(super) fn names(&self, reference: &Reference) -> bool {
        let (_, namespace, _) = reference;
        self.named_by.of(reference).any(|(kind, key)| {
            let may = || {
                let grants = self.grants.iter().filter(|((home, _), _)| home == namespace);
                grants.into_iter().any(|(_, grant)| allows(grant, kind, &key.0, reference))
            };
            self.is_served(kind, key) && (key.0 == *namespace || may())
        })
    }

    fn is_served(&self, kind: &str, key: &Key) -> bool {
        let owner = |kind: &str, key: &Key| self.owners.get(&(kind.to_owned(), key.clone()));
        let is_of = owner(kind, key).map(|owner| &owner.is_of);
        let is_of = match is_of {
            Some(OwnerClass::Gateway(gateway)) => owner("Gateway", gateway).map(|owner| &owner.is_of),
            other => other,
        };
        match is_of {
            Some(OwnerClass::Named(class)) => self.classes.contains(class),
            Some(OwnerClass::Any) => !self.classes.is_empty(),
            Some(OwnerClass::Gateway(_)) | None => false,
        }
    }
}

/// What a Gateway or a ListenerSet names: certificates of listeners, authorities for clients, and what endpoints are presented.
fn of_listeners(object: &Value, namespace: &str) -> BTreeSet<Reference> {
    let (spec, mut named) = (&object["spec"], BTreeSet::new());
    let certificates = list(spec, "/listeners").flat_map(|one| list(one, "/tls/certificateRefs"));
    let identity = spec.pointer("/tls/backend/clientCertificateRef");
    for reference in certificates.chain(identity) {
        named.extend(
            target(reference, "Secret", namespace).filter(|(kind, ..)| *kind == ReferenceKind::Secret),
        );
    }
    let frontend = spec.pointer("/tls/frontend");
    let all_ports = frontend.and_then(|frontend| frontend.get("default"));
    let of_ports = frontend.into_iter().flat_map(|frontend| list(frontend, "/perPort"));
    for tls in all_ports.into_iter().chain(of_ports.filter_map(|of_port| of_port.get("tls"))) {
        let refs = list(tls, "/validation/caCertificateRefs");
        named.extend(refs.filter_map(|reference| target(reference, "", namespace)));
    }
    named
}

/// What a BackendTLSPolicy names: authorities in its own namespace.
fn of_policy(object: &Value, namespace: &str) -> BTreeSet<Reference> {
    let refs = list(object, "/spec/validation/caCertificateRefs");
    let refs = refs.filter_map(|reference| target(reference, "", namespace));
    refs.filter(|(_, of, _)| of == namespace).collect()
}

/// `None`: it is of a kind that nodes do not read.
fn target(reference: &Value, default_kind: &str, namespace: &str) -> Option<Reference> {
    let kind = match (text(reference, "/group"), reference["kind"].as_str().unwrap_or(default_kind)) {
        ("", "Secret") => ReferenceKind::Secret,
        ("", "ConfigMap") => ReferenceKind::ConfigMap,
        _ => return None,
    };
    let namespace = reference["namespace"].as_str().unwrap_or(namespace);
    Some((kind, namespace.to_owned(), text(reference, "/name").to_owned()))
}

fn allows(grant: &Value, kind: &str, from: &str, (named, _, name): &Reference) -> bool {
    let any =
        |field: &str, test: &dyn Fn(&Value) -> bool| grant[field].as_array().into_iter().flatten().any(test);
    let wanted = if *named == ReferenceKind::Secret { "Secret" } else { "ConfigMap" };
    any("from", &|one| one["group"] == GROUP && one["kind"] == kind && one["namespace"] == from)
        && any("to", &|to| {
            let only = to["name"].as_str().unwrap_or_default();
            to["group"] == "" && to["kind"] == wanted && (only.is_empty() || only == name)
        })
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
