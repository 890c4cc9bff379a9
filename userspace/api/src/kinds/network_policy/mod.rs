//! NetworkPolicies.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::ip::{cidr_warning, parse_cidr};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::port::{validate_port, validate_port_number};
use crate::kinds::row::Row;
use crate::table::cell::{or_none, selector_text};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, one_of, set_default, text};

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    schema: "api.networking.v1.NetworkPolicy",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        validate_create: |object, errors| validate(object, &[], errors),
        own_required: true,
        validate_update: |new, old, errors| validate(new, &cidrs(old), errors),
        warnings,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Pod-Selector", |object, _| or_none(selector_text(&object["spec"]["podSelector"]))),
    AGE,
];

/// The lists of rules, and the lists of their peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

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
                set_default(port, "protocol", "TCP");
            }
        }
    }
}

/// The ranges of a policy. An update may keep what is stored in a form that is no longer valid.
fn cidrs(object: &Value) -> Vec<&str> {
    blocks(object).into_iter().flat_map(|(block, _)| ranges(block)).collect()
}

fn ranges(block: &Value) -> impl Iterator<Item = &str> {
    std::iter::once(&block["cidr"]).chain(items(block, "except")).filter_map(Value::as_str)
}

/// The blocks of all peers, with their paths.
fn blocks(object: &Value) -> Vec<(&Value, Path)> {
    let mut found = Vec::new();
    for (direction, peers) in DIRECTIONS {
        let at = Path::new("spec").child(direction);
        for (i, rule) in items(&object["spec"], direction).enumerate() {
            for (j, peer) in items(rule, peers).enumerate().filter(|(_, peer)| peer["ipBlock"].is_object()) {
                let at = at.index(i).child(peers).index(j).child("ipBlock");
                found.push((&peer["ipBlock"], at));
            }
        }
    }
    found
}

fn validate(object: &Value, kept: &[&str], errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    validate_selector(&spec["podSelector"], &path.child("podSelector"), errors);
    for (i, kind) in items(spec, "policyTypes").enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            errors.not_supported(&path.child("policyTypes").index(i), kind, &["Ingress", "Egress"]);
        }
    }
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(spec, direction).enumerate() {
            let at = path.child(direction).index(i);
            for (j, port) in items(rule, "ports").enumerate() {
                validate_policy_port(port, &at.child("ports").index(j), errors);
            }
            for (j, peer) in items(rule, peers).enumerate() {
                validate_peer(peer, kept, &at.child(peers).index(j), errors);
            }
        }
    }
}

fn validate_policy_port(port: &Value, path: &Path, errors: &mut Errors) {
    one_of(port, "protocol", path, &["TCP", "UDP", "SCTP"], errors);
    let (first, last) = (&port["port"], &port["endPort"]);
    let at = path.child("endPort");
    let has_last = !last.is_null();
    match first {
        Value::String(_) => {
            if has_last {
                errors.invalid(&at, last, "may not be specified when `port` is non-numeric");
            }
            validate_port(first, &path.child("port"), errors);
        }
        Value::Null if has_last => {
            errors.invalid(&at, last, "may not be specified when `port` is not specified");
        }
        Value::Null => {}
        first => {
            validate_port(first, &path.child("port"), errors);
            if has_last {
                if last.as_i64() < first.as_i64() {
                    // As upstream: the error is of the last port, and shows the first.
                    errors.invalid(&at, first, "must be greater than or equal to `port`");
                }
                validate_port_number(last, &at, errors);
            }
        }
    }
}

fn validate_peer(peer: &Value, kept: &[&str], path: &Path, errors: &mut Errors) {
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
    validate_block(block, kept, &path.child("ipBlock"), errors);
}

fn validate_block(block: &Value, kept: &[&str], path: &Path, errors: &mut Errors) {
    let cidr = text(&block["cidr"]);
    if cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    let Some(cidr) = validate_range(cidr, kept, &path.child("cidr"), errors) else { return };
    for (i, except) in items(block, "except").enumerate() {
        let at = path.child("except").index(i);
        if let Some(inner) = validate_range(text(except), kept, &at, errors)
            && !strictly_inside(inner, cidr)
        {
            errors.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

/// Checks a range strictly unless it is stored already. Out: what it means, if it can be read at all.
fn validate_range(text: &str, kept: &[&str], path: &Path, errors: &mut Errors) -> Option<IpNetwork> {
    let strict = if kept.contains(&text) { None } else { parse_cidr(text, path, errors) };
    strict.or_else(|| text.contains('/').then(|| text.parse().ok())?)
}

fn strictly_inside(inner: IpNetwork, outer: IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() > outer.prefix() && outer.contains(inner.network())
}

/// Warns of ranges that are valid and not in their canonical form.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (block, at) in blocks(object) {
        warnings.extend(cidr_warning(text(&block["cidr"]), &at.child("cidr")));
        for (i, except) in items(block, "except").enumerate() {
            warnings.extend(cidr_warning(text(except), &at.child("except").index(i)));
        }
    }
    warnings
}
