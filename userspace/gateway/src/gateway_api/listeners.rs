//! Listeners of Gateways and ListenerSets: which are accepted, which conflict, what they present. PURE.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::authority_refs::Inputs;
use super::client_validation::ClientValidation;
use super::conditions::Fault;
use super::grants::{Referrer, namespace_of};
use super::hosts::pattern;
use super::kinds::{FromNamespaces, GROUP, Gateway, ListenerSet, ListenerSpec, ObjectRef};
use super::objects::{CONTROLLER, Key, Objects};
use crate::acme::Request;
use crate::certificate::Certificate;
use crate::client_check::ClientCheck;
use crate::client_check::ClientChecks;
use crate::ingress::states::SecretStates;
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
    /// `Some`: clients are asked for a certificate.
    pub(super) clients: Option<Arc<ClientCheck>>,
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

    /// Whether it sees what clients say, and not only bytes that it passes on.
    pub(super) fn reads(&self) -> bool {
        matches!(self.spec.protocol.as_str(), "HTTP" | "HTTPS" | "TLS") && !self.is_passthrough()
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
    /// What endpoints with TLS are presented.
    pub(super) identity: Option<Arc<Certificate>>,
    /// Whether it is what the Gateway names.
    pub(super) identity_verdict: Result<(), Fault>,
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
    pub(super) fn listeners(&self, inputs: Inputs<'_>, checks: &ClientChecks) -> Vec<GatewayListeners> {
        let ours = self.gateways.iter().filter(|(_, gateway)| self.is_ours(&gateway.spec.gateway_class_name));
        let mut all: Vec<GatewayListeners> =
            ours.map(|(key, gateway)| self.listeners_of(key, gateway, inputs, checks)).collect();
        all.sort_by(|a, b| (age(&a.gateway.metadata), &a.key).cmp(&(age(&b.gateway.metadata), &b.key)));
        all
    }

    fn listeners_of(
        &self,
        key: &Key,
        gateway: &Arc<Gateway>,
        inputs: Inputs<'_>,
        checks: &ClientChecks,
    ) -> GatewayListeners {
        let sets = self.sets_of(key, gateway);
        let of_sets = sets.iter().filter(|(_, _, verdict)| verdict.is_ok());
        let of_sets = of_sets.map(|(key, set, _)| (Owner::ListenerSet(key.clone()), &set.spec.listeners));
        let own = (Owner::Gateway(key.clone()), &gateway.spec.listeners);
        let mut listeners = Vec::new();
        for (owner, specs) in [own].into_iter().chain(of_sets) {
            let of_owner = specs.iter().map(|spec| self.listener(owner.clone(), spec));
            listeners.extend(of_owner);
        }
        find_conflicts(&mut listeners, gateway.spec.listeners.len());
        let is_balanced = self.is_balanced(key);
        for listener in &mut listeners {
            listener.is_reachable = is_balanced || listener.spec.protocol != "UDP";
        }
        let mut made = GatewayListeners {
            key: key.clone(),
            gateway: gateway.clone(),
            listeners,
            identity: None,
            identity_verdict: Ok(()),
            is_balanced,
            sets,
        };
        self.look_up(&mut made, inputs, checks);
        made
    }

    /// Takes what a Gateway and its listeners name as it is now. No route depends on it.
    pub(super) fn look_up(&self, gateway: &mut GatewayListeners, inputs: Inputs<'_>, checks: &ClientChecks) {
        let GatewayListeners { key, gateway, listeners, identity, identity_verdict, .. } = gateway;
        for listener in listeners {
            let (certificates, verdict) = self.certificates(&listener.owner, &listener.spec, inputs.secrets);
            listener.certificates = certificates;
            let (_, kinds_verdict) = kinds_of(&listener.spec);
            listener.resolved = kinds_verdict.and(verdict);
            listener.accepted = is_served(&listener.spec);
            listener.clients = None;
            if !terminates(&listener.spec) {
                continue;
            }
            let port = listener.spec.port;
            if let Some(asked) = self.client_validation(key, gateway, port, inputs, checks) {
                let ClientValidation { check, accepted, resolved } = asked;
                listener.clients = check;
                listener.resolved = listener.resolved.clone().and(resolved);
                listener.accepted = listener.accepted.clone().and(accepted);
            }
        }
        (*identity, *identity_verdict) = self.identity(key, gateway, inputs.secrets);
    }

    /// ListenerSets that name the Gateway, the oldest first.
    fn sets_of(&self, key: &Key, gateway: &Gateway) -> Vec<(Key, Arc<ListenerSet>, Result<(), Fault>)> {
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
        sets
    }

    /// What a listener is by itself, without what it names and its neighbours.
    fn listener(&self, owner: Owner, spec: &ListenerSpec) -> Listener {
        let host = match spec.protocol.as_str() {
            "TCP" | "UDP" => HostPattern::Any,
            _ => pattern(spec.hostname.as_deref().unwrap_or_default()),
        };
        Listener {
            spec: spec.clone(),
            host,
            kinds: kinds_of(spec).0,
            accepted: Ok(()),
            conflict: None,
            is_reachable: true,
            resolved: Ok(()),
            certificates: Vec::new(),
            clients: None,
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
            let (certificate, fault) = look(secrets, &key);
            found.extend(certificate);
            if let Some(message) = fault {
                verdict = invalid(message);
            }
        }
        (found, verdict)
    }

    /// What a Gateway presents to endpoints. One whose last certificate still serves presents that.
    fn identity(
        &self,
        key: &Key,
        gateway: &Gateway,
        secrets: &SecretStates,
    ) -> (Option<Arc<Certificate>>, Result<(), Fault>) {
        let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
        let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else {
            return (None, Ok(()));
        };
        let invalid = |message: String| Fault::new("InvalidClientCertificateRef", message);
        match self.secret_key(&Owner::Gateway(key.clone()), reference) {
            Ok(key) => {
                let (certificate, fault) = look(secrets, &key);
                (certificate, fault.map_or(Ok(()), |message| Err(invalid(message))))
            }
            Err(Fault { reason: "InvalidCertificateRef", message }) => (None, Err(invalid(message))),
            Err(fault) => (None, Err(fault)),
        }
    }

    /// The Secret that a reference names and may name.
    pub(super) fn secret_key(&self, owner: &Owner, reference: &ObjectRef) -> Result<Key, Fault> {
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

/// The certificate of a Secret, and what is wrong with it. Neither: the Secret is looked for.
fn look(secrets: &SecretStates, key: &Key) -> (Option<Arc<Certificate>>, Option<String>) {
    let Some(state) = secrets.get(key) else { return (None, None) };
    let Some(state) = state.certificate() else {
        return (None, Some(format!("Secret {key} does not exist")));
    };
    (state.in_force().cloned(), state.error().map(|error| format!("Secret {key}: {error}")))
}

/// The kinds of routes for a protocol.
fn served_kinds(protocol: &str) -> &'static [&'static str] {
    match protocol {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        "TLS" => &["TLSRoute"],
        "TCP" => &["TCPRoute"],
        "UDP" => &["UDPRoute"],
        _ => &[],
    }
}

fn is_served(spec: &ListenerSpec) -> Result<(), Fault> {
    match served_kinds(&spec.protocol).is_empty() {
        false => Ok(()),
        true => {
            let message = format!("the protocol {} is not served", spec.protocol);
            Err(Fault::new("UnsupportedProtocol", message))
        }
    }
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

fn kinds_of(spec: &ListenerSpec) -> (Vec<&'static str>, Result<(), Fault>) {
    let served = served_kinds(&spec.protocol);
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
