//! EndpointSlices, Endpoints and NetworkPolicies.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::containers::{one_of, validate_port_number};
use crate::field::{Errors, Path};
use crate::names;
use crate::value::{immutable, items, items_mut, set_default};

pub(super) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// RFC 6335: a service name.
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && names::is_label(name)
        && !name.contains("--")
        && name.bytes().any(|c| c.is_ascii_lowercase())
}

pub(super) fn default_network_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let egress = items(spec, "egress").next().is_some();
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            for port in items_mut(rule, "ports") {
                set_default(port, "protocol", "TCP");
            }
        }
    }
}

pub(super) fn validate_network_policy(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    validate_selector(&spec["podSelector"], &path.child("podSelector"), errors);
    for (i, kind) in items(spec, "policyTypes").enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            errors.not_supported(&path.child("policyTypes").index(i), kind, &["Ingress", "Egress"]);
        }
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(spec, direction).enumerate() {
            let at = path.child(direction).index(i);
            for (j, port) in items(rule, "ports").enumerate() {
                validate_policy_port(port, &at.child("ports").index(j), errors);
            }
            for (j, peer) in items(rule, peers).enumerate() {
                validate_peer(peer, &at.child(peers).index(j), errors);
            }
        }
    }
}

pub(super) fn validate_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    if let Err(bad) = crate::selector::LabelSelector::from_object(selector) {
        errors.invalid(path, selector, &bad.0);
    }
}

fn validate_policy_port(port: &Value, path: &Path, errors: &mut Errors) {
    one_of(port, "protocol", path, &PROTOCOLS, errors);
    let (first, last) = (&port["port"], &port["endPort"]);
    match first {
        Value::Number(_) => validate_port_number(first, 1, &path.child("port"), false, errors),
        Value::String(name) if !is_port_name(name) => {
            errors.invalid(&path.child("port"), first, "must be a valid port name");
        }
        _ => {}
    }
    if last.is_null() {
        return;
    }
    let at = path.child("endPort");
    match (first.as_i64(), last.as_i64()) {
        (Some(first), Some(last)) if last < first => {
            errors.invalid(&at, &json!(last), "must be greater than or equal to `port`");
        }
        (Some(_), Some(_)) => validate_port_number(last, 1, &at, false, errors),
        _ if first.is_string() => {
            errors.invalid(&at, last, "may not be specified when `port` is non-numeric")
        }
        _ => errors.invalid(&at, last, "may not be specified when `port` is not specified"),
    }
}

fn validate_peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let selectors = ["podSelector", "namespaceSelector"];
    let selects = selectors.iter().any(|field| !peer[*field].is_null());
    for field in selectors {
        validate_selector(&peer[field], &path.child(field), errors);
    }
    let block = &peer["ipBlock"];
    if block.is_null() {
        if !selects {
            errors.required(path, "must specify a peer");
        }
        return;
    }
    if selects {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    let at = path.child("ipBlock");
    let bad = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let Some(cidr) = parse_cidr(&block["cidr"]) else {
        if block["cidr"].as_str().is_none_or(str::is_empty) {
            errors.required(&at.child("cidr"), "");
        } else {
            errors.invalid(&at.child("cidr"), &block["cidr"], bad);
        }
        return;
    };
    for (i, except) in items(block, "except").enumerate() {
        let at = at.child("except").index(i);
        match parse_cidr(except) {
            None => errors.invalid(&at, except, bad),
            Some(inner) if !strictly_inside(inner, cidr) => {
                errors.invalid(&at, except, "must be a strict subset of `cidr`");
            }
            Some(_) => {}
        }
    }
}

fn parse_cidr(value: &Value) -> Option<IpNetwork> {
    let text = value.as_str()?;
    text.contains('/').then(|| text.parse().ok())?
}

fn strictly_inside(inner: IpNetwork, outer: IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() > outer.prefix() && outer.contains(inner.network())
}

pub(super) fn default_endpoint_slice(object: &mut Value) {
    for port in items_mut(object, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

pub(super) fn validate_endpoint_slice(object: &Value, errors: &mut Errors) {
    let root = Path::new("");
    let families = ["IPv4", "IPv6", "FQDN"];
    if object["addressType"].is_null() {
        errors.required(&Path::new("addressType"), "");
    }
    one_of(object, "addressType", &root, &families, errors);
    let endpoints = Path::new("endpoints");
    if items(object, "endpoints").count() > 1000 {
        errors.0.push(crate::FieldError {
            field: "endpoints".into(),
            reason: "FieldValueTooMany",
            message: format!(
                "Too many: {}: must have at most 1000 items",
                items(object, "endpoints").count()
            ),
        });
    }
    for (i, endpoint) in items(object, "endpoints").enumerate() {
        let at = endpoints.index(i).child("addresses");
        if items(endpoint, "addresses").next().is_none() {
            errors.required(&at, "must contain at least 1 address");
        }
        for (j, address) in items(endpoint, "addresses").enumerate() {
            let parsed = address.as_str().unwrap_or_default().parse::<IpAddr>();
            let fits = match object["addressType"].as_str() {
                Some("IPv4") => parsed.is_ok_and(|ip| ip.is_ipv4()),
                Some("IPv6") => parsed.is_ok_and(|ip| ip.is_ipv6()),
                _ => true,
            };
            if !fits {
                errors.invalid(
                    &at.index(j),
                    address,
                    "must be a valid IP address of the slice's address type",
                );
            }
        }
    }
    for (i, port) in items(object, "ports").enumerate() {
        one_of(port, "protocol", &Path::new("ports").index(i), &PROTOCOLS, errors);
    }
}

pub(super) fn validate_endpoint_slice_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["addressType"], &old["addressType"], &Path::new("addressType"), errors);
}

pub(super) fn default_endpoints(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}
