//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ip::validate_non_special_ip;
use crate::kinds::kind::Strategy;
use crate::kinds::port::PROTOCOLS;
use crate::kinds::row::Row;
use crate::names::{NameForm, name_problem, qualified_name_problem};
use crate::table::cell::{first_three, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, items_mut, one_of, set_default, text};

pub(super) const ROW: Row = Row {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "api.discovery.v1.EndpointSlice",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, validate_update, ..Strategy::NONE },
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

fn default(object: &mut Value) {
    for port in items_mut(object, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let root = Path::new("");
    let families = ["FQDN", "IPv4", "IPv6"];
    if object["addressType"].is_null() {
        errors.required(&Path::new("addressType"), "");
    }
    one_of(object, "addressType", &root, &families, errors);
    let (at, count) = (Path::new("endpoints"), items(object, "endpoints").count());
    if count > MAX_ENDPOINTS {
        errors.too_many(&at, count, MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in items(object, "endpoints").enumerate() {
        validate_endpoint(endpoint, text(&object["addressType"]), &at.index(i), errors);
    }
    validate_ports(object, errors);
}

fn validate_endpoint(endpoint: &Value, family: &str, at: &Path, errors: &mut Errors) {
    let (addresses, count) = (at.child("addresses"), items(endpoint, "addresses").count());
    match count {
        0 => errors.required(&addresses, "must contain at least 1 address"),
        1..=MAX_ADDRESSES => {}
        _ => errors.too_many(&addresses, count, MAX_ADDRESSES),
    }
    for (i, address) in items(endpoint, "addresses").enumerate() {
        let at = addresses.index(i);
        let ip = text(address).parse::<IpAddr>().ok();
        match (family, ip) {
            ("IPv4", Some(ip @ IpAddr::V4(_))) => validate_non_special_ip(ip, &at, errors),
            ("IPv6", Some(ip @ IpAddr::V6(_))) if ip.to_canonical() == ip => {
                validate_non_special_ip(ip, &at, errors);
            }
            ("IPv4" | "IPv6", _) => {
                errors.invalid(&at, address, &format!("must be a valid {family} address"));
            }
            ("FQDN", _) => {
                let name = text(address).trim_end_matches('.');
                match name_problem(name, NameForm::Subdomain) {
                    Some(problem) => errors.invalid(&at, address, problem),
                    None if !name.contains('.') => {
                        errors.invalid(
                            &at,
                            address,
                            "should be a domain with at least two segments separated by dots",
                        );
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }
    for (field, form) in [("nodeName", NameForm::Subdomain), ("hostname", NameForm::Label)] {
        if let Some(problem) = endpoint[field].as_str().and_then(|name| name_problem(name, form)) {
            errors.invalid(&at.child(field), &endpoint[field], problem);
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
        let problem = name_problem(name, NameForm::Label).filter(|_| !name.is_empty());
        if let Some(problem) = problem {
            errors.invalid(&at.child("name"), &port["name"], problem);
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        one_of(port, "protocol", &at, &PROTOCOLS, errors);
        if let Some(problem) = port["appProtocol"].as_str().and_then(qualified_name_problem) {
            errors.invalid(&at.child("appProtocol"), &port["appProtocol"], problem);
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["addressType"], &old["addressType"], &Path::new("addressType"), errors);
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
            ("IPv6", "::ffff:127.0.0.1", json!([]), "must be a valid IPv6 address"),
            ("IPv4", "::1", json!([]), "must be a valid IPv4 address"),
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
