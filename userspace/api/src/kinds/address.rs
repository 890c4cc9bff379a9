//! IP addresses and ranges as fields hold them; ServiceCIDRs and IPAddresses.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::network::validate_selector;
use crate::field::{Errors, Path};
use crate::names;
use crate::value::items;

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const IMMUTABLE: &str = "field is immutable";

/// An address, strictly read: no leading zeros, no IPv4 inside of IPv6.
pub(super) fn parse_ip(value: &Value, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let text = value.as_str().unwrap_or_default();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if is_mapped(ip) => {
            errors.invalid(path, value, "must not be an IPv4-mapped IPv6 address");
            None
        }
        Ok(ip) => Some(ip),
        Err(_) => {
            errors.invalid(
                path,
                value,
                if has_leading_zeros(text) { "must not have leading 0s" } else { BAD_IP },
            );
            None
        }
    }
}

/// A range, strictly read: as [`parse_ip`], and no bits behind the prefix.
pub(super) fn parse_cidr(text: &str, path: &Path, errors: &mut Errors) -> Option<IpNetwork> {
    let parsed = text.contains('/').then(|| text.parse::<IpNetwork>().ok()).flatten();
    let Some(cidr) = parsed else {
        let (ip, prefix) = text.split_once('/').unwrap_or((text, ""));
        let zeros = has_leading_zeros(ip) && prefix.parse::<u8>().is_ok();
        let detail = if zeros { "must not have leading 0s in IP or prefix length" } else { BAD_CIDR };
        errors.invalid(path, &json!(text), detail);
        return None;
    };
    let problem = match cidr.ip() {
        IpAddr::V6(ip) if is_mapped(ip) => "must not have an IPv4-mapped IPv6 address",
        ip if ip != cidr.network() => "must not have bits set beyond the prefix length",
        _ => return Some(cidr),
    };
    errors.invalid(path, &json!(text), problem);
    None
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// Whether a text is an IPv4 address but for zeros in front of its numbers.
fn has_leading_zeros(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let numbers =
        parts.iter().all(|part| part.bytes().all(|c| c.is_ascii_digit()) && part.parse::<u8>().is_ok());
    parts.len() == 4 && numbers && parts.iter().any(|part| part.len() > 1 && part.starts_with('0'))
}

pub(super) fn validate_service_cidr(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("cidrs");
    let count = items(&object["spec"], "cidrs").count();
    if count == 0 {
        return errors.required(&path, "at least one CIDR required");
    }
    if count > 2 {
        return errors.invalid(&path, &object["spec"], "may only hold up to 2 values");
    }
    let mut parsed = Vec::new();
    for (i, cidr) in items(&object["spec"], "cidrs").enumerate() {
        let (at, text) = (path.index(i), cidr.as_str().unwrap_or_default());
        let Some(cidr) = parse_cidr(text, &at, errors) else { continue };
        if cidr.to_string() != text {
            errors.invalid(&at, &json!(text), &format!("must be in canonical form (\"{cidr}\")"));
        }
        parsed.push(cidr);
    }
    if let [one, other] = parsed.as_slice()
        && one.is_ipv4() == other.is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, &object["spec"]["cidrs"], detail);
    }
}

/// A second range may come, nothing else changes.
pub(super) fn validate_service_cidr_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("cidrs");
    let (now, before): (Vec<_>, Vec<_>) =
        (items(&new["spec"], "cidrs").collect(), items(&old["spec"], "cidrs").collect());
    if now.len() != before.len() && !(now.len() == 2 && before.len() == 1) {
        return errors.invalid(&path, &new["spec"]["cidrs"], IMMUTABLE);
    }
    for (i, (now, before)) in now.iter().zip(&before).enumerate() {
        if now != before {
            errors.invalid(&path.index(i), now, IMMUTABLE);
        }
    }
}

/// Ranges of both families, as many as there are; who may have their addresses.
pub(super) fn validate_load_balancer_pool(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "cidrs").next().is_none() {
        errors.required(&path.child("cidrs"), "at least one CIDR required");
    }
    for (i, cidr) in items(spec, "cidrs").enumerate() {
        parse_cidr(cidr.as_str().unwrap_or_default(), &path.child("cidrs").index(i), errors);
    }
    validate_selector(&spec["serviceSelector"], &path.child("serviceSelector"), errors);
}

pub(super) fn validate_ip_address(object: &Value, errors: &mut Errors) {
    let (parent, path) = (&object["spec"]["parentRef"], Path::new("spec").child("parentRef"));
    if !parent.is_object() {
        return errors.required(&path, "");
    }
    let group = parent["group"].as_str().unwrap_or_default();
    if let Some(problem) = Some(group)
        .filter(|group| !group.is_empty())
        .and_then(|g| names::name_problem(g, names::NameForm::Subdomain))
    {
        errors.invalid(&path.child("group"), &parent["group"], problem);
    }
    for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
        match parent[field].as_str() {
            None | Some("") if required => errors.required(&path.child(field), ""),
            None | Some("") => {}
            Some(name) => {
                if let Some(problem) = names::name_problem(name, names::NameForm::PathSegment) {
                    errors.invalid(&path.child(field), &parent[field], problem);
                }
            }
        }
    }
}

pub(super) fn validate_ip_address_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    if new != old {
        errors.invalid(&Path::new("spec").child("parentRef"), new, IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_read_strictly() {
        let ip = |text: &str| {
            said(|errors| {
                assert!(parse_ip(&json!(text), &Path::new("ip"), errors).is_some() == errors.is_empty())
            })
        };
        assert!(ip("10.0.0.1").is_empty() && ip("2001:DB8::1").is_empty());
        assert_eq!(ip("010.0.0.1"), ["ip: Invalid value: \"010.0.0.1\": must not have leading 0s"]);
        assert!(ip("::ffff:1.2.3.4")[0].ends_with("must not be an IPv4-mapped IPv6 address"));
        assert!(ip("10.0.0")[0].ends_with(BAD_IP));
        let cidr = |text: &str| {
            said(|errors| assert!(parse_cidr(text, &Path::new("c"), errors).is_some() == errors.is_empty()))
        };
        assert!(cidr("10.0.0.0/8").is_empty());
        assert!(cidr("10.0.0.1/8")[0].ends_with("must not have bits set beyond the prefix length"));
        assert!(cidr("10.0.0.0")[0].ends_with(BAD_CIDR));
        assert!(cidr("010.0.0.0/8")[0].ends_with("must not have leading 0s in IP or prefix length"));
    }

    #[test]
    fn a_service_cidr_has_one_range_of_a_family_and_may_only_gain_the_other() {
        let of = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let valid = |cidrs: Value| said(|errors| validate_service_cidr(&of(cidrs), errors));
        assert!(valid(json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
        assert_eq!(valid(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert!(
            valid(json!(["10.0.0.0/24", "10.0.1.0/24"]))[0]
                .contains("no more than one IP for each IP family")
        );
        assert_eq!(
            valid(json!(["FD00::/112"])),
            ["spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")"]
        );
        let update =
            |new: Value, old: Value| said(|errors| validate_service_cidr_update(&of(new), &of(old), errors));
        assert!(update(json!(["10.0.0.0/24", "fd00::/112"]), json!(["10.0.0.0/24"])).is_empty());
        assert!(update(json!(["10.0.1.0/24"]), json!(["10.0.0.0/24"]))[0].starts_with("spec.cidrs[0]: "));
        assert!(!update(json!(["10.0.0.0/24"]), json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
    }

    #[test]
    fn an_ip_address_says_whose_it_is() {
        let parent = |parent: Value| {
            said(|errors| validate_ip_address(&json!({"spec": {"parentRef": parent}}), errors))
        };
        assert!(parent(json!({"resource": "services", "name": "a", "namespace": "b"})).is_empty());
        assert_eq!(parent(Value::Null), ["spec.parentRef: Required value"]);
        assert_eq!(parent(json!({"resource": "services"})), ["spec.parentRef.name: Required value"]);
    }
}
