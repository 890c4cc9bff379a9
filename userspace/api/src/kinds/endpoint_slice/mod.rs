//! EndpointSlices.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ip::{address_warning, parse_canonical_ip, parse_ip, validate_non_special_ip};
use crate::kinds::kind::Strategy;
use crate::kinds::port::PROTOCOLS;
use crate::kinds::row::Row;
use crate::names::{NameForm, name_problems, validate_name, validate_optional_name};
use crate::table::cell::{first_three, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, items_mut, one_of, require_text, set_default, text};

pub(super) const ROW: Row = Row {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "api.discovery.v1.EndpointSlice",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        default,
        prepare_create: drop_topology,
        prepare_update,
        own_required: true,
        validate_create: validate,
        validate_update,
        warnings,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("AddressType", |object, _| text_cell(&object["addressType"])),
    Column::text("Ports", slice_ports),
    Column::text("Endpoints", slice_endpoints),
    AGE,
];

const MAX_ENDPOINTS: usize = 1_000;
/// Of one endpoint.
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
/// Of one endpoint: zones, and nodes.
const MAX_HINTS: usize = 8;

fn default(object: &mut Value) {
    for port in items_mut(object, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

/// `deprecatedTopology` was a field of v1beta1; v1 does not write it.
fn drop_topology(object: &mut Value) {
    for endpoint in items_mut(object, "endpoints") {
        if let Some(fields) = endpoint.as_object_mut() {
            fields.remove("deprecatedTopology");
        }
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    if new["endpoints"] != old["endpoints"] {
        drop_topology(new);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_all(object, None, errors);
}

/// `old` is the slice before an update: endpoints that it has already are not checked again.
fn validate_all(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    if require_text(object, "addressType", &Path::new(""), errors) {
        one_of(object, "addressType", &Path::new(""), &["FQDN", "IPv4", "IPv6"], errors);
    }
    validate_ports(object, errors);
    if old.is_some_and(|old| old["endpoints"] == object["endpoints"]) {
        return;
    }
    let (at, count) = (Path::new("endpoints"), items(object, "endpoints").count());
    if count > MAX_ENDPOINTS {
        errors.too_many(&at, count, MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in items(object, "endpoints").enumerate() {
        validate_endpoint(endpoint, text(&object["addressType"]), &at.index(i), errors);
    }
}

fn validate_endpoint(endpoint: &Value, family: &str, at: &Path, errors: &mut Errors) {
    let (addresses, count) = (at.child("addresses"), items(endpoint, "addresses").count());
    match count {
        0 => errors.required(&addresses, "must contain at least 1 address"),
        1..=MAX_ADDRESSES => {}
        _ => errors.too_many(&addresses, count, MAX_ADDRESSES),
    }
    for (i, address) in items(endpoint, "addresses").enumerate() {
        let item = addresses.index(i);
        match family {
            "IPv4" | "IPv6" => validate_address(address, family == "IPv6", (&addresses, &item), errors),
            "FQDN" => validate_domain(text(address), &item, errors),
            _ => {}
        }
    }
    if let Some(name) = endpoint["nodeName"].as_str() {
        validate_name(name, NameForm::Subdomain, &at.child("nodeName"), errors);
    }
    if let Some(name) = endpoint["hostname"].as_str() {
        validate_name(name, NameForm::Label, &at.child("hostname"), errors);
    }
    validate_hints(&endpoint["hints"], &at.child("hints"), errors);
}

/// Checks an address of a family. As upstream, one of the other family is an error of the whole list.
fn validate_address(address: &Value, is_v6: bool, (list, item): (&Path, &Path), errors: &mut Errors) {
    let ip = if is_v6 { parse_canonical_ip(address, item, errors) } else { parse_ip(address, item, errors) };
    let Some(ip) = ip else { return };
    if ip.is_ipv6() != is_v6 {
        let detail = if is_v6 { "must be an IPv6 address" } else { "must be an IPv4 address" };
        errors.invalid(list, address, detail);
    }
    validate_non_special_ip(ip, item, errors);
}

/// Checks a fully qualified domain name; the dot at its end may be left out.
fn validate_domain(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let problems = name_problems(name, NameForm::Subdomain);
    if !problems.is_empty() {
        return errors.invalid(path, &name.into(), &problems.join(","));
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return errors.invalid(path, &name.into(), detail);
    }
    for label in name.split('.') {
        let problems = name_problems(label, NameForm::Label);
        if !problems.is_empty() {
            return errors.invalid(path, &label.into(), &problems.join(","));
        }
    }
}

fn validate_hints(hints: &Value, path: &Path, errors: &mut Errors) {
    for (list, form) in [("forZones", NameForm::LabelValue), ("forNodes", NameForm::Subdomain)] {
        let (at, count) = (path.child(list), items(hints, list).count());
        if count > MAX_HINTS {
            return errors.too_many(&at, count, MAX_HINTS);
        }
        let mut names = BTreeSet::new();
        for (i, hint) in items(hints, list).enumerate() {
            let (at, name) = (at.index(i).child("name"), text(&hint["name"]));
            if !names.insert(name) {
                errors.duplicate(&at, &name.into());
            }
            validate_name(name, form, &at, errors);
        }
    }
}

fn validate_ports(object: &Value, errors: &mut Errors) {
    let (at, count) = (Path::new("ports"), items(object, "ports").count());
    if count > MAX_PORTS {
        errors.too_many(&at, count, MAX_PORTS);
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in items(object, "ports").enumerate() {
        let (at, name) = (at.index(i), text(&port["name"]));
        validate_optional_name(port, "name", NameForm::Label, &at, errors);
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        one_of(port, "protocol", &at, &PROTOCOLS, errors);
        if let Some(name) = port["appProtocol"].as_str() {
            validate_name(name, NameForm::LabelKey, &at.child("appProtocol"), errors);
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_all(new, Some(old), errors);
    immutable(&new["addressType"], &old["addressType"], &Path::new("addressType"), errors);
}

/// Controllers write addresses in their canonical form.
const CONTROLLERS: [&str; 2] =
    ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() && object["addressType"] == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let manager = text(&object["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]);
    if CONTROLLERS.contains(&manager) {
        return warnings;
    }
    for (i, endpoint) in items(object, "endpoints").enumerate() {
        let at = Path::new("endpoints").index(i).child("addresses");
        for (j, address) in items(endpoint, "addresses").enumerate() {
            warnings.extend(address_warning(text(address), &at.index(j)));
        }
    }
    warnings
}

fn slice_ports(object: &Value, _: Timestamp) -> Value {
    let ports: Vec<String> =
        items(object, "ports").filter_map(|p| p["port"].as_i64()).map(|p| p.to_string()).collect();
    if ports.is_empty() { "<unset>".into() } else { ports.join(",").into() }
}

fn slice_endpoints(object: &Value, _: Timestamp) -> Value {
    let all: Vec<&str> =
        items(object, "endpoints").flat_map(|e| items(e, "addresses")).filter_map(Value::as_str).collect();
    if all.is_empty() { "<unset>".into() } else { first_three(&all).into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn slices_have_addresses_of_one_machine_and_ports_of_one_name() {
        let of = |family: &str, address: &str, ports: Value| {
            let endpoints = json!([{"addresses": [address]}]);
            json!({"addressType": family, "endpoints": endpoints, "ports": ports})
        };
        for (family, address, ports, wanted) in [
            ("IPv4", "10.0.0.1", json!([]), ""),
            ("IPv6", "2001:db8::1", json!([]), ""),
            ("FQDN", "a.example.com", json!([]), ""),
            ("IPv4", "127.0.0.1", json!([]), "loopback range"),
            ("IPv4", "169.254.169.254", json!([]), "link-local range"),
            ("IPv4", "224.0.0.1", json!([]), "multicast range"),
            ("IPv4", "0.0.0.0", json!([]), "may not be unspecified"),
            ("IPv6", "::1", json!([]), "loopback range"),
            ("IPv6", "::ffff:127.0.0.1", json!([]), "IPv4-mapped IPv6 address"),
            ("IPv4", "::1", json!([]), "must be an IPv4 address"),
            ("FQDN", "localhost", json!([]), "at least two segments"),
            (
                "IPv4",
                "10.0.0.1",
                json!([{"name": "a"}, {"name": "a"}]),
                "ports[1].name: Duplicate value: \"a\"",
            ),
            ("IPv4", "10.0.0.1", json!([{"name": ""}, {"name": ""}]), "ports[1].name: Duplicate value: \"\""),
            ("IPv4", "10.0.0.1", json!([{"name": "A"}]), "ports[0].name: Invalid value"),
        ] {
            let found = error_texts(validate, &of(family, address, ports));
            assert!(
                found.contains(wanted) && found.is_empty() == wanted.is_empty(),
                "{family} {address}: {found}"
            );
        }
    }
}
