//! EndpointSlices.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::port::PROTOCOLS;
use crate::kinds::row::Row;
use crate::table::cell::{first_three, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, items_mut, one_of, set_default};

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

fn default(object: &mut Value) {
    for port in items_mut(object, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

fn validate(object: &Value, errors: &mut Errors) {
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
