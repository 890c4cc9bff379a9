//! NetworkPolicies.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::port::{PROTOCOLS, validate_port, validate_port_number};
use crate::kinds::row::Row;
use crate::table::cell::{or_none, selector_text};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, one_of, set_default, set_zero_default};

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    schema: "api.networking.v1.NetworkPolicy",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, own_required: true, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Pod-Selector", |object, _| or_none(selector_text(&object["spec"]["podSelector"]))),
    AGE,
];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_default(spec, "podSelector", json!({}));
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let egress = items(spec, "egress").next().is_some();
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            for port in items_mut(rule, "ports") {
                set_zero_default(port, "protocol", "TCP");
            }
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
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

fn validate_policy_port(port: &Value, path: &Path, errors: &mut Errors) {
    one_of(port, "protocol", path, &PROTOCOLS, errors);
    let (first, last) = (&port["port"], &port["endPort"]);
    if !first.is_null() {
        validate_port(first, &path.child("port"), errors);
    }
    if last.is_null() {
        return;
    }
    let at = path.child("endPort");
    match (first.as_i64(), last.as_i64()) {
        (Some(first), Some(last)) if last < first => {
            errors.invalid(&at, &json!(last), "must be greater than or equal to `port`");
        }
        (Some(_), Some(_)) => validate_port_number(last, &at, errors),
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
