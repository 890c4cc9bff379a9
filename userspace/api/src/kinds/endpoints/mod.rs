//! Endpoints: the addresses of a Service, in the form that came before EndpointSlices.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ip::{parse_ip, validate_non_special_ip};
use crate::kinds::kind::Strategy;
use crate::kinds::port::{PROTOCOLS, validate_port_number};
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_name, validate_optional_name};
use crate::table::cell::{first_three, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, one_of, set_default};

pub(super) const ROW: Row = Row {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema: "api.core.v1.Endpoints",
    columns: COLUMNS,
    strategy: Strategy {
        default,
        validate,
        own_required: true,
        warnings: |_, _| vec![DEPRECATED.to_owned()],
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const DEPRECATED: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

const COLUMNS: &[Column] = &[NAME, Column::text("Endpoints", endpoints), AGE];

fn default(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    for (i, subset) in items(object, "subsets").enumerate() {
        let at = Path::new("subsets").index(i);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(subset, list).next().is_none()) {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            for (j, address) in items(subset, list).enumerate() {
                validate_address(address, &at.child(list).index(j), errors);
            }
        }
        let is_named = items(subset, "ports").count() > 1;
        for (j, port) in items(subset, "ports").enumerate() {
            validate_port(port, is_named, &at.child("ports").index(j), errors);
        }
    }
}

fn validate_address(address: &Value, at: &Path, errors: &mut Errors) {
    if let Some(ip) = parse_ip(&address["ip"], &at.child("ip"), errors) {
        validate_non_special_ip(ip, &at.child("ip"), errors);
    }
    for (field, form) in [("hostname", NameForm::Label), ("nodeName", NameForm::Subdomain)] {
        validate_optional_name(address, field, form, at, errors);
    }
}

fn validate_port(port: &Value, is_named: bool, at: &Path, errors: &mut Errors) {
    match port["name"].as_str().filter(|name| !name.is_empty()) {
        None if is_named => errors.required(&at.child("name"), ""),
        None => {}
        Some(name) => validate_name(name, NameForm::Label, &at.child("name"), errors),
    }
    validate_port_number(&port["port"], &at.child("port"), errors);
    one_of(port, "protocol", at, &PROTOCOLS, errors);
    if let Some(name) = port["appProtocol"].as_str() {
        validate_name(name, NameForm::LabelKey, &at.child("appProtocol"), errors);
    }
}

fn endpoints(object: &Value, _: Timestamp) -> Value {
    let mut all = Vec::new();
    for subset in items(object, "subsets") {
        for address in items(subset, "addresses").filter_map(|a| a["ip"].as_str()) {
            all.extend(items(subset, "ports").map(|port| format!("{address}:{}", port["port"])));
        }
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    or_none(first_three(&all))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn endpoints_have_addresses_of_one_machine() {
        let of = |ip: &str| json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]});
        for (ip, wanted) in [
            ("10.0.0.1", ""),
            ("2001:db8::1", ""),
            ("127.0.0.1", "loopback range"),
            ("::1", "loopback range"),
            ("169.254.169.254", "link-local range"),
            ("fe80::1", "link-local range"),
            ("224.0.0.1", "multicast range"),
            ("0.0.0.0", "may not be unspecified"),
            ("::ffff:127.0.0.1", "IPv4-mapped"),
            ("nonsense", "must be a valid IP address"),
        ] {
            let found = error_texts(validate, &of(ip));
            assert!(found.contains(wanted) && found.is_empty() == wanted.is_empty(), "{ip}: {found}");
        }
        let ports = |ports: Value| json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": ports}]});
        for (object, wanted) in [
            (json!({"subsets": [{"ports": [{"port": 80}]}]}), "subsets[0]: Required value"),
            (ports(json!([{"port": 80}, {"port": 81}])), "subsets[0].ports[0].name: Required value"),
            (ports(json!([{"port": 0}])), "subsets[0].ports[0].port: Invalid value: 0"),
            (ports(json!([{"port": 80, "name": "A"}])), "subsets[0].ports[0].name: Invalid value"),
        ] {
            let found = error_texts(validate, &object);
            assert!(found.contains(wanted), "{object}: {found}");
        }
    }
}
