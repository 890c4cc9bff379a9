//! The certificates that Gateways and ListenerSets ask for by annotation. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::grants::namespace_of;
use super::listeners::{GatewayListeners, Listener, age, terminates};
use super::objects::Key;
use super::routing::Routing;
use crate::acme::{Asked, ChallengeKind, Claims, Owner, Request, Requests};

/// The ports at which authorities look.
const HTTP_PORT: u16 = 80;
const TLS_PORT: u16 = 443;

/// An object with listeners.
struct Asking<'a> {
    kind: &'static str,
    key: &'a Key,
    meta: &'a ObjectMeta,
}

impl Routing {
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.gateways.iter().flat_map(asking).any(|object| Request::parse(object.meta).is_some())
    }

    /// The names of listeners.
    pub(crate) fn claim(&self, claims: &mut Claims) {
        for gateway in &self.gateways {
            for object in asking(gateway) {
                for listener in listeners_of(gateway, &object) {
                    if let Some(name) = &listener.spec.hostname {
                        claims.add(&name.to_ascii_lowercase(), age(object.meta), object.key);
                    }
                }
            }
        }
    }

    pub(crate) fn ask(&self, claims: &Claims, requests: &mut Requests) {
        for gateway in &self.gateways {
            let challenges = challenges(gateway);
            for object in asking(gateway) {
                let Some(request) = Request::parse(object.meta) else { continue };
                let owner = Owner {
                    api_version: "gateway.networking.k8s.io/v1",
                    kind: object.kind,
                    key: object.key.clone(),
                    uid: object.meta.uid.clone().unwrap_or_default(),
                };
                for (secret, names) in secrets(gateway, &object) {
                    let asked =
                        Asked { owner: &owner, request: &request, secret, names, challenges: &challenges };
                    requests.add(asked, claims);
                }
            }
        }
    }
}

/// The Gateway, and the ListenerSets that it takes.
fn asking(gateway: &GatewayListeners) -> impl Iterator<Item = Asking<'_>> {
    let own = Asking { kind: "Gateway", key: &gateway.key, meta: &gateway.gateway.metadata };
    let sets = gateway.sets.iter().filter(|(.., verdict)| verdict.is_ok());
    let sets = sets.map(|(key, set, _)| Asking { kind: "ListenerSet", key, meta: &set.metadata });
    std::iter::once(own).chain(sets)
}

fn listeners_of<'a>(
    gateway: &'a GatewayListeners,
    object: &Asking<'a>,
) -> impl Iterator<Item = &'a Listener> {
    let (kind, key) = (object.kind, object.key);
    gateway.listeners.iter().filter(move |listener| {
        listener.owner.kind() == kind && listener.owner.key() == key && listener.is_open()
    })
}

/// The Secrets that an object's listeners name, and their hostnames.
fn secrets(gateway: &GatewayListeners, object: &Asking<'_>) -> BTreeMap<Arc<str>, Vec<String>> {
    let mut found: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for listener in listeners_of(gateway, object).filter(|listener| terminates(&listener.spec)) {
        let refs = listener.spec.tls.iter().flat_map(|tls| &tls.certificate_refs);
        for reference in
            refs.filter(|reference| reference.kind.as_deref().is_none_or(|kind| kind == "Secret"))
        {
            let namespace = reference.namespace.as_deref().unwrap_or(namespace_of(object.key));
            let names = found.entry(format!("{namespace}/{}", reference.name).into()).or_default();
            names.extend(listener.spec.hostname.clone().filter(|name| !name.is_empty()));
        }
    }
    found
}

/// The challenges that can be answered at a Gateway, the preferred one first.
fn challenges(gateway: &GatewayListeners) -> Vec<ChallengeKind> {
    let has = |port: u16, protocols: &[&str]| {
        let mut open = gateway.listeners.iter().filter(|listener| listener.is_open());
        open.any(|listener| {
            listener.spec.port == port && protocols.contains(&listener.spec.protocol.as_str())
        })
    };
    let http = has(HTTP_PORT, &["HTTP"]).then_some(ChallengeKind::Http);
    let tls = has(TLS_PORT, &["HTTPS", "TLS"]).then_some(ChallengeKind::TlsAlpn);
    http.into_iter().chain(tls).collect()
}
