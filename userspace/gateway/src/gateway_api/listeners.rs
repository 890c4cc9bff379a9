//! Listeners of Gateways and ListenerSets: which are accepted, which conflict, what they present. PURE.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::conditions::Fault;
use super::grants::{Referrer, namespace_of};
use super::hosts::pattern;
use super::kinds::{FromNamespaces, GROUP, Gateway, ListenerSet, ListenerSpec, ObjectRef};
use super::objects::{CONTROLLER, Key, Objects};
use crate::acme::Request;
use crate::certificate::Certificate;
use crate::ingress::states::{SecretState, SecretStates};
use crate::routing::HostPattern;

/// Who has a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Gateway(Key),
    ListenerSet(Key),
}

impl Owner {
    pub(super) fn key(&self) -> &Key {
        let (Owner::Gateway(key) | Owner::ListenerSet(key)) = self;
        key
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Owner::Gateway(_) => "Gateway",
            Owner::ListenerSet(_) => "ListenerSet",
        }
    }
}

/// A listener as it is in force.
pub(super) struct Listener {
    pub(super) owner: Owner,
    pub(super) spec: ListenerSpec,
    pub(super) host: HostPattern,
    /// Kinds of routes that may attach.
    pub(super) kinds: Vec<&'static str>,
    pub(super) accepted: Result<(), Fault>,
    pub(super) conflict: Option<Fault>,
    /// Clients can get to it: packets of UDP are served at addresses of the Gateway's own only.
    pub(super) is_reachable: bool,
    pub(super) resolved: Result<(), Fault>,
    pub(super) certificates: Vec<Arc<Certificate>>,
    /// Its certificate is ordered: challenges have to be answered before there is one.
    pub(super) is_ordered: bool,
    pub(super) attached: u32,
}

impl Listener {
    /// Whether it gets connections.
    pub(super) fn is_open(&self) -> bool {
        self.accepted.is_ok() && self.conflict.is_none()
    }

    /// Whether it serves what it should.
    pub(super) fn is_programmed(&self) -> bool {
        self.is_open() && self.is_reachable && self.resolved.is_ok()
    }

    /// Whether it has all that a connection needs. One whose last certificate still serves does, too.
    pub(super) fn serves(&self) -> bool {
        let has_certificate = !terminates(&self.spec) || !self.certificates.is_empty() || self.is_ordered;
        self.is_open() && self.is_reachable && has_certificate
    }

    pub(super) fn is_passthrough(&self) -> bool {
        self.spec.protocol == "TLS"
            && self.spec.tls.as_ref().is_some_and(|tls| tls.mode.as_deref() == Some("Passthrough"))
    }
}

/// A Gateway of ours with its listeners, its own first.
pub(super) struct GatewayListeners {
    pub(super) key: Key,
    pub(super) gateway: Arc<Gateway>,
    pub(super) listeners: Vec<Listener>,
    /// It has, or will have, an address of its own.
    pub(super) is_balanced: bool,
    /// ListenerSets that name the Gateway, and whether it takes them.
    pub(super) sets: Vec<(Key, Arc<ListenerSet>, Result<(), Fault>)>,
}

impl Objects {
    /// Whether the class is served here.
    pub(super) fn is_ours(&self, class: &str) -> bool {
        self.classes.get(class).is_some_and(|class| class.spec.controller_name == CONTROLLER)
    }

    /// All Gateways of our classes, the oldest first.
    pub(super) fn listeners(&self, secrets: &SecretStates) -> Vec<GatewayListeners> {
        let ours = self.gateways.iter().filter(|(_, gateway)| self.is_ours(&gateway.spec.gateway_class_name));
        let mut all: Vec<GatewayListeners> =
            ours.map(|(key, gateway)| self.listeners_of(key, gateway, secrets)).collect();
        all.sort_by(|a, b| (age(&a.gateway.metadata), &a.key).cmp(&(age(&b.gateway.metadata), &b.key)));
        all
    }

    fn listeners_of(&self, key: &Key, gateway: &Arc<Gateway>, secrets: &SecretStates) -> GatewayListeners {
        let owner = Owner::Gateway(key.clone());
        let own = gateway.spec.listeners.iter();
        let mut listeners: Vec<Listener> =
            own.map(|spec| self.listener(owner.clone(), spec, secrets)).collect();
        let own_count = listeners.len();
        let sets = self.listener_sets.iter().filter(|(set_key, set)| {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace.as_deref().unwrap_or(namespace_of(set_key));
            format!("{namespace}/{}", parent.name) == **key
                && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway")
                && parent.group.as_deref().is_none_or(|group| group == GROUP)
        });
        let mut sets: Vec<(Key, Arc<ListenerSet>, Result<(), Fault>)> = sets
            .map(|(set_key, set)| {
                let allowed = gateway.spec.allowed_listeners.as_ref().and_then(|all| all.namespaces.as_ref());
                let is_allowed = self.selects(allowed, "None", namespace_of(key), namespace_of(set_key));
                let verdict = match is_allowed {
                    true => Ok(()),
                    false => {
                        Err(Fault::new("NotAllowed", "the Gateway takes no ListenerSets of this namespace"))
                    }
                };
                (set_key.clone(), set.clone(), verdict)
            })
            .collect();
        sets.sort_by(|a, b| (age(&a.1.metadata), &a.0).cmp(&(age(&b.1.metadata), &b.0)));
        for (set_key, set, _) in sets.iter().filter(|(_, _, verdict)| verdict.is_ok()) {
            let owner = Owner::ListenerSet(set_key.clone());
            let of_set = set.spec.listeners.iter();
            listeners.extend(of_set.map(|spec| self.listener(owner.clone(), spec, secrets)));
        }
        find_conflicts(&mut listeners, own_count);
        let is_balanced = self.is_balanced(key);
        for listener in &mut listeners {
            listener.is_reachable = is_balanced || listener.spec.protocol != "UDP";
            // Without the check, everybody would be let in.
            if terminates(&listener.spec) && asks_for_client_certificates(gateway, listener.spec.port) {
                let message = "certificates of clients are not verified";
                listener.accepted = Err(Fault::new("UnsupportedValue", message));
            }
        }
        GatewayListeners { key: key.clone(), gateway: gateway.clone(), listeners, is_balanced, sets }
    }

    /// What a listener is by itself, without its Gateway and its neighbours.
    pub(super) fn listener(&self, owner: Owner, spec: &ListenerSpec, secrets: &SecretStates) -> Listener {
        let served: &[&'static str] = match spec.protocol.as_str() {
            "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
            "TLS" => &["TLSRoute"],
            "TCP" => &["TCPRoute"],
            "UDP" => &["UDPRoute"],
            _ => &[],
        };
        let accepted = match served.is_empty() {
            false => Ok(()),
            true => Err(Fault::new(
                "UnsupportedProtocol",
                format!("the protocol {} is not served", spec.protocol),
            )),
        };
        let (kinds, kinds_verdict) = kinds_of(spec, served);
        let (certificates, certificates_verdict) = self.certificates(&owner, spec, secrets);
        let host = match spec.protocol.as_str() {
            "TCP" | "UDP" => HostPattern::Any,
            _ => pattern(spec.hostname.as_deref().unwrap_or_default()),
        };
        Listener {
            spec: spec.clone(),
            host,
            kinds,
            accepted,
            conflict: None,
            is_reachable: true,
            resolved: kinds_verdict.and(certificates_verdict),
            certificates,
            is_ordered: self.is_ordered(&owner),
            attached: 0,
            owner,
        }
    }

    fn is_ordered(&self, owner: &Owner) -> bool {
        let meta = match owner {
            Owner::Gateway(key) => self.gateways.get(key).map(|gateway| &gateway.metadata),
            Owner::ListenerSet(key) => self.listener_sets.get(key).map(|set| &set.metadata),
        };
        meta.is_some_and(|meta| Request::parse(meta).is_some())
    }

    fn certificates(
        &self,
        owner: &Owner,
        spec: &ListenerSpec,
        secrets: &SecretStates,
    ) -> (Vec<Arc<Certificate>>, Result<(), Fault>) {
        let (mut found, mut verdict) = (Vec::new(), Ok(()));
        let invalid = |message: String| Err(Fault::new("InvalidCertificateRef", message));
        if !terminates(spec) {
            return (found, verdict);
        }
        let refs = spec.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
        if refs.is_empty() {
            return (found, invalid("a listener of this protocol needs a certificate".to_owned()));
        }
        for reference in refs {
            let key = match self.secret_key(owner, reference) {
                Ok(key) => key,
                Err(fault) => {
                    verdict = Err(fault);
                    continue;
                }
            };
            match secrets.get(&key) {
                Some(SecretState::Good(certificate)) => found.push(certificate.clone()),
                Some(SecretState::Bad(error, last)) => {
                    found.extend(last.clone());
                    verdict = invalid(format!("Secret {key}: {error}"));
                }
                Some(SecretState::Missing) => verdict = invalid(format!("Secret {key} does not exist")),
                // It is looked for.
                None => {}
            }
        }
        (found, verdict)
    }

    fn secret_key(&self, owner: &Owner, reference: &ObjectRef) -> Result<Key, Fault> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if !group.is_empty() || kind != "Secret" {
            return Err(Fault::new("InvalidCertificateRef", format!("{kind} is not a kind of certificates")));
        }
        let own = namespace_of(owner.key());
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let from = Referrer { kind: owner.kind(), namespace: own };
        match self.may_refer(from, "", "Secret", namespace, &reference.name) {
            true => Ok(format!("{namespace}/{}", reference.name).into()),
            false => Err(Fault::new(
                "RefNotPermitted",
                format!("no ReferenceGrant allows Secret {namespace}/{}", reference.name),
            )),
        }
    }

    /// The Secrets that listeners name and may name.
    pub(crate) fn secrets(&self) -> Vec<Key> {
        let of_gateways = self.gateways.iter().map(|(key, gateway)| {
            (Owner::Gateway(key.clone()), gateway.spec.gateway_class_name.as_str(), &gateway.spec.listeners)
        });
        let of_sets = self.listener_sets.iter().filter_map(|(key, set)| {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace.as_deref().unwrap_or(namespace_of(key));
            let gateway = self.gateways.get(format!("{namespace}/{}", parent.name).as_str())?;
            let class = gateway.spec.gateway_class_name.as_str();
            Some((Owner::ListenerSet(key.clone()), class, &set.spec.listeners))
        });
        let mut found = Vec::new();
        for (owner, _, listeners) in of_gateways.chain(of_sets).filter(|(_, class, _)| self.is_ours(class)) {
            let refs =
                listeners.iter().flat_map(|spec| spec.tls.iter().flat_map(|tls| &tls.certificate_refs));
            found.extend(refs.filter_map(|reference| self.secret_key(&owner, reference).ok()));
        }
        found
    }

    /// Whether objects of a namespace may attach to one of `home`.
    pub(super) fn selects(
        &self,
        namespaces: Option<&FromNamespaces>,
        by_default: &str,
        home: &str,
        namespace: &str,
    ) -> bool {
        let from = namespaces.and_then(|all| all.from.as_deref()).unwrap_or(by_default);
        match from {
            "All" => true,
            "Same" => home == namespace,
            "Selector" => {
                let selector = namespaces.and_then(|all| all.selector.as_ref());
                let labels = self.namespaces.get(namespace);
                selector.is_some_and(|selector| labels.is_some_and(|labels| matches(selector, labels)))
            }
            _ => false,
        }
    }
}

/// Whether TLS ends here.
pub(super) fn terminates(spec: &ListenerSpec) -> bool {
    match spec.protocol.as_str() {
        "HTTPS" => true,
        "TLS" => spec.tls.as_ref().is_none_or(|tls| tls.mode.as_deref() != Some("Passthrough")),
        _ => false,
    }
}

fn asks_for_client_certificates(gateway: &Gateway, port: u16) -> bool {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    frontend.is_some_and(|frontend| {
        let of_port = frontend.per_port.iter().find(|of_port| of_port.port == port);
        of_port.map_or(&frontend.default, |of_port| &of_port.tls).validation.is_some()
    })
}

fn matches(selector: &LabelSelector, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let mut equal = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    equal.all(|(name, value)| labels.get(name) == Some(value))
        && expressions.all(|expression| {
            let found = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            let is_in = found.is_some_and(|found| values.contains(found));
            match expression.operator.as_str() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

fn kinds_of(spec: &ListenerSpec, served: &[&'static str]) -> (Vec<&'static str>, Result<(), Fault>) {
    let asked = spec.allowed_routes.as_ref().map(|routes| routes.kinds.as_slice()).unwrap_or_default();
    if asked.is_empty() {
        return (served.to_vec(), Ok(()));
    }
    let (mut kinds, mut verdict) = (Vec::new(), Ok(()));
    for wanted in asked {
        let is_group = wanted.group.as_deref().is_none_or(|group| group == GROUP);
        match served.iter().find(|kind| is_group && **kind == wanted.kind) {
            Some(kind) => kinds.push(*kind),
            None => {
                let message = format!("{} does not attach to listeners of {}", wanted.kind, spec.protocol);
                verdict = Err(Fault::new("InvalidRouteKinds", message));
            }
        }
    }
    (kinds, verdict)
}

/// Seconds since 1970 of the creation.
pub(super) fn age(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// The protocols that share a port and its connections.
fn family(protocol: &str) -> &str {
    match protocol {
        "HTTPS" | "TLS" => "TLS",
        other => other,
    }
}

/// Of the Gateway's own listeners none wins; of others the earlier one does.
fn find_conflicts(listeners: &mut [Listener], own_count: usize) {
    for later in 0..listeners.len() {
        for earlier in 0..later {
            let (a, b) = (&listeners[earlier], &listeners[later]);
            let loses = earlier >= own_count && a.conflict.is_some();
            if a.spec.port != b.spec.port || (a.spec.protocol == "UDP") != (b.spec.protocol == "UDP") || loses
            {
                continue;
            }
            let fault = if family(&a.spec.protocol) != family(&b.spec.protocol) {
                Fault::new("ProtocolConflict", format!("port {} has another protocol", b.spec.port))
            } else if a.host == b.host {
                Fault::new(
                    "HostnameConflict",
                    format!("port {} has another listener for the hostname", b.spec.port),
                )
            } else {
                continue;
            };
            if later < own_count {
                listeners[earlier].conflict = Some(fault.clone());
            }
            listeners[later].conflict = Some(fault);
        }
    }
}
