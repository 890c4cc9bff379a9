//! Statuses as they should be stored, made from what was decided and what is stored. PURE; the time is passed in.
//!
//! Parts of other controllers stay: parents of routes, and everything of Gateways that are not of a class of ours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::client_validation::is_insecure;
use super::conditions::{Condition, Fault, stored};
use super::kinds::{GROUP, ParentRef};
use super::listeners::{GatewayListeners, Listener, Owner};
use super::objects::{CONTROLLER, Key, Objects};
use super::routing::{RouteResult, Routing};

/// Every feature of the public conformance suite that is served, in alphabetical order.
const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// A status that differs from what is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusUpdate {
    pub kind: &'static str,
    /// NAMESPACE/NAME, or NAME.
    pub key: Key,
    /// The object that the status was made from.
    pub resource_version: String,
    pub status: Value,
}

impl Objects {
    /// What should be written. `now` in RFC 3339.
    pub(crate) fn status_updates(&self, routing: &Routing, now: &str) -> Vec<StatusUpdate> {
        let mut all = Vec::new();
        for (key, class) in self.classes.iter().filter(|(key, _)| self.is_ours(key)) {
            let conditions = match class.spec.parameters_ref {
                None => vec![Condition::yes("Accepted", "Accepted")],
                Some(_) => vec![Condition::no("Accepted", "InvalidParameters", "parameters are not served")],
            };
            let generation = class.metadata.generation.unwrap_or_default();
            let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
            let status = json!({
                "conditions": stored(&conditions, &class.status["conditions"], generation, now),
                "supportedFeatures": features,
            });
            differs(&mut all, "GatewayClass", key, &class.metadata, &class.status, status);
        }
        for gateway in &routing.gateways {
            self.gateway_updates(gateway, now, &mut all);
        }
        for route in routing.routes.values() {
            self.route_update(route, now, &mut all);
        }
        self.forget_routes(routing, &mut all);
        self.policy_updates(routing, now, &mut all);
        all
    }

    fn gateway_updates(&self, gateway: &GatewayListeners, now: &str, all: &mut Vec<StatusUpdate>) {
        // What was compiled may have an older status.
        let object = self.gateways.get(&gateway.key).unwrap_or(&gateway.gateway);
        let generation = object.metadata.generation.unwrap_or_default();
        let addresses = self.addresses(gateway);
        let own: Vec<&Listener> = of_owner(gateway, &Owner::Gateway(gateway.key.clone()));
        let old = &object.status;
        let sets = gateway.sets.iter().filter(|(key, _, verdict)| {
            verdict.is_ok() && of_owner(gateway, &Owner::ListenerSet(key.clone())).iter().any(|l| l.serves())
        });
        let conditions = gateway_conditions(gateway, &own, &addresses);
        let accepted = conditions[0].holds;
        let shown: Vec<Value> = match accepted {
            true => addresses.iter().map(|ip| json!({"type": "IPAddress", "value": ip})).collect(),
            false => Vec::new(),
        };
        let status = json!({
            "addresses": shown,
            "conditions": stored(&conditions, &old["conditions"], generation, now),
            "listeners": listeners(&own, &old["listeners"], generation, now),
            "attachedListenerSets": sets.count(),
        });
        differs(all, "Gateway", &gateway.key, &object.metadata, old, status);
        for (key, set, verdict) in &gateway.sets {
            let set = self.listener_sets.get(key).unwrap_or(set);
            let own = of_owner(gateway, &Owner::ListenerSet(key.clone()));
            let generation = set.metadata.generation.unwrap_or_default();
            let conditions = set_conditions(verdict, &own, accepted);
            let old = &set.status;
            let mut status = json!({"conditions": stored(&conditions, &old["conditions"], generation, now)});
            if !own.is_empty() {
                status["listeners"] = listeners(&own, &old["listeners"], generation, now);
            }
            differs(all, "ListenerSet", key, &set.metadata, old, status);
        }
    }

    fn route_update(&self, route: &RouteResult, now: &str, all: &mut Vec<StatusUpdate>) {
        let Some((meta, old)) = self.route_object(route.kind, &route.key) else { return };
        let generation = meta.generation.unwrap_or_default();
        let mut parents = foreign(old, "parents");
        for verdict in &route.parents {
            let parent = parent_value(&verdict.parent);
            let mut known = old["parents"].as_array().into_iter().flatten();
            let known =
                known.find(|known| known["controllerName"] == CONTROLLER && known["parentRef"] == parent);
            let before = known.map_or(&Value::Null, |known| &known["conditions"]);
            let conditions = verdict.conditions(&route.accepted, &route.resolved);
            parents.push(json!({
                "parentRef": parent, "controllerName": CONTROLLER,
                "conditions": stored(&conditions, before, generation, now),
            }));
        }
        differs(all, route.kind, &route.key, meta, old, json!({"parents": parents}));
    }

    /// Routes that have no parent of ours any more.
    fn forget_routes(&self, routing: &Routing, all: &mut Vec<StatusUpdate>) {
        let known: BTreeSet<(&str, &Key)> =
            routing.routes.values().map(|route| (route.kind, &route.key)).collect();
        let keys = (self.http_routes.keys().map(|key| ("HTTPRoute", key)))
            .chain(self.grpc_routes.keys().map(|key| ("GRPCRoute", key)))
            .chain(self.tls_routes.keys().map(|key| ("TLSRoute", key)))
            .chain(self.tcp_routes.keys().map(|key| ("TCPRoute", key)))
            .chain(self.udp_routes.keys().map(|key| ("UDPRoute", key)));
        for (kind, key) in keys.filter(|known_key| !known.contains(known_key)) {
            let Some((meta, old)) = self.route_object(kind, key) else { continue };
            let mut parents = old["parents"].as_array().into_iter().flatten();
            if parents.any(|parent| parent["controllerName"] == CONTROLLER) {
                let status = json!({"parents": foreign(old, "parents")});
                differs(all, kind, key, meta, old, status);
            }
        }
    }

    fn route_object(&self, kind: &str, key: &Key) -> Option<(&ObjectMeta, &Value)> {
        match kind {
            "HTTPRoute" => self.http_routes.get(key).map(|o| (&o.metadata, &o.status)),
            "GRPCRoute" => self.grpc_routes.get(key).map(|o| (&o.metadata, &o.status)),
            "TLSRoute" => self.tls_routes.get(key).map(|o| (&o.metadata, &o.status)),
            "TCPRoute" => self.tcp_routes.get(key).map(|o| (&o.metadata, &o.status)),
            _ => self.udp_routes.get(key).map(|o| (&o.metadata, &o.status)),
        }
    }
}

fn of_owner<'a>(gateway: &'a GatewayListeners, owner: &Owner) -> Vec<&'a Listener> {
    gateway.listeners.iter().filter(|listener| listener.owner == *owner).collect()
}

fn gateway_conditions(
    gateway: &GatewayListeners,
    own: &[&Listener],
    addresses: &BTreeSet<IpAddr>,
) -> Vec<Condition> {
    let spec = &gateway.gateway.spec;
    let is_ip = |kind: Option<&str>| matches!(kind, None | Some("IPAddress"));
    let parameters = spec.infrastructure.as_ref().and_then(|all| all.parameters_ref.as_ref());
    let valid = gateway.listeners.iter().filter(|listener| listener.is_open()).count();
    let accepted = if !spec.addresses.iter().all(|address| is_ip(address.r#type.as_deref())) {
        Condition::no("Accepted", "UnsupportedAddress", "only addresses of the type IPAddress are served")
    } else if let Some(parameters) = parameters {
        Condition::no(
            "Accepted",
            "InvalidParameters",
            format!("{} {} is not served", parameters.kind, parameters.name),
        )
    } else if valid == 0 && !own.is_empty() {
        Condition::no("Accepted", "ListenersNotValid", "no listener is valid")
    } else if own.iter().any(|listener| !listener.is_programmed()) {
        Condition::yes("Accepted", "ListenersNotValid")
    } else {
        Condition::yes("Accepted", "Accepted")
    };
    let asked: Vec<&str> = spec
        .addresses
        .iter()
        .map(|address| address.value.as_str())
        .filter(|value| !value.is_empty())
        .collect();
    let has_asked = asked.iter().all(|value| value.parse().is_ok_and(|ip: IpAddr| addresses.contains(&ip)));
    let programmed = if !accepted.holds {
        Condition::no("Programmed", "Invalid", "the Gateway is not accepted")
    } else if !has_asked {
        Condition::no("Programmed", "AddressNotUsable", "an address that is asked for cannot be had")
    } else if addresses.is_empty() {
        Condition::no("Programmed", "AddressNotAssigned", "there is no address yet")
    } else {
        Condition::yes("Programmed", "Programmed")
    };
    let mut all = vec![accepted, programmed, Condition::of("ResolvedRefs", &resolved(gateway))];
    if is_insecure(&gateway.gateway) {
        let message = "clients without a certificate that verifies are let in".to_owned();
        let insecure = Condition::yes("InsecureFrontendValidationMode", "ConfigurationChanged");
        all.push(Condition { message, ..insecure });
    }
    all
}

/// What is wrong with what a Gateway names, or else that something is with what its own listeners name.
fn resolved(gateway: &GatewayListeners) -> Result<(), Fault> {
    let owner = Owner::Gateway(gateway.key.clone());
    let own = of_owner(gateway, &owner);
    let unresolved = own.iter().find(|listener| listener.resolved.is_err());
    gateway.identity_verdict.clone().and(match unresolved {
        None => Ok(()),
        Some(listener) => {
            let message = format!("listener {} names what it cannot have", listener.spec.name);
            Err(Fault::new("ListenersNotResolved", message))
        }
    })
}

fn set_conditions(
    verdict: &Result<(), Fault>,
    own: &[&Listener],
    is_parent_accepted: bool,
) -> Vec<Condition> {
    let valid = own.iter().filter(|listener| listener.serves()).count();
    let accepted = match verdict {
        Err(fault) => Condition::no("Accepted", fault.reason, fault.message.clone()),
        Ok(()) if !is_parent_accepted => {
            Condition::no("Accepted", "ParentNotAccepted", "the Gateway is not accepted")
        }
        Ok(()) if valid == 0 => Condition::no("Accepted", "ListenersNotValid", "no listener is valid"),
        Ok(()) if own.iter().any(|listener| !listener.is_programmed()) => {
            Condition::yes("Accepted", "ListenersNotValid")
        }
        Ok(()) => Condition::yes("Accepted", "Accepted"),
    };
    let programmed = match accepted.holds {
        true => Condition::yes("Programmed", "Programmed"),
        false => Condition::no("Programmed", accepted.reason, accepted.message.clone()),
    };
    vec![accepted, programmed]
}

fn listeners(all: &[&Listener], old: &Value, generation: i64, now: &str) -> Value {
    let one = |listener: &&Listener| {
        let name = &listener.spec.name;
        let mut known = old.as_array().into_iter().flatten();
        let known = known.find(|known| known["name"] == name.as_str());
        let before = known.map_or(&Value::Null, |known| &known["conditions"]);
        let kinds: Vec<Value> =
            listener.kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind})).collect();
        json!({
            "name": name, "supportedKinds": kinds, "attachedRoutes": listener.attached,
            "conditions": stored(&listener_conditions(listener), before, generation, now),
        })
    };
    all.iter().map(one).collect()
}

fn listener_conditions(listener: &Listener) -> Vec<Condition> {
    let conflicted = match &listener.conflict {
        Some(fault) => Condition { holds: true, ..Condition::no("Conflicted", fault.reason, &fault.message) },
        None => Condition::no("Conflicted", "NoConflicts", ""),
    };
    let accepted = match &listener.conflict {
        Some(fault) => Err(fault.clone()),
        None => listener.accepted.clone(),
    };
    let programmed = match &listener.conflict {
        _ if listener.is_programmed() => Condition::yes("Programmed", "Programmed"),
        Some(fault) => Condition::no("Programmed", fault.reason, &fault.message),
        None if listener.is_reachable => Condition::no("Programmed", "Invalid", "the listener is not valid"),
        None => Condition::no("Programmed", "Pending", "UDP needs a LoadBalancerPool"),
    };
    vec![
        Condition::of("Accepted", &accepted),
        programmed,
        Condition::of("ResolvedRefs", &listener.resolved),
        conflicted,
    ]
}

/// The parents or ancestors that other controllers wrote.
pub(super) fn foreign(status: &Value, field: &str) -> Vec<Value> {
    let all = status[field].as_array().into_iter().flatten();
    all.filter(|one| one["controllerName"] != CONTROLLER).cloned().collect()
}

/// As the route has it.
fn parent_value(parent: &ParentRef) -> Value {
    let ParentRef { group, kind, namespace, name, section_name, port } = parent;
    let mut value = Map::from_iter([("name".to_owned(), json!(name))]);
    for (field, text) in
        [("group", group), ("kind", kind), ("namespace", namespace), ("sectionName", section_name)]
    {
        if let Some(text) = text {
            value.insert(field.to_owned(), json!(text));
        }
    }
    if let Some(port) = port {
        value.insert("port".to_owned(), json!(port));
    }
    Value::Object(value)
}

pub(super) fn differs(
    all: &mut Vec<StatusUpdate>,
    kind: &'static str,
    key: &Key,
    meta: &ObjectMeta,
    old: &Value,
    status: Value,
) {
    if *old != status {
        let resource_version = meta.resource_version.clone().unwrap_or_default();
        all.push(StatusUpdate { kind, key: key.clone(), resource_version, status });
    }
}
