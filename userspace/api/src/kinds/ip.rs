//! IP addresses and ranges as fields hold them.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::field::{Errors, Path};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Parses an address strictly: no leading zeros, no IPv4-mapped IPv6.
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

/// Refuses addresses that mean another machine on each machine, and those of no machine.
pub(super) fn validate_non_special_ip(ip: IpAddr, path: &Path, errors: &mut Errors) {
    let ip = ip.to_canonical();
    let value = json!(ip.to_string());
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let found = [
        (ip.is_unspecified(), format!("may not be unspecified ({ip})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    for (_, detail) in found.iter().filter(|(is, _)| *is) {
        errors.invalid(path, &value, detail);
    }
}

/// As [`parse_ip`], for new fields: the address has to be in its canonical form too.
pub(super) fn parse_canonical_ip(value: &Value, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let ip = parse_ip(value, path, errors)?;
    if value.as_str() == Some(ip.to_string().as_str()) {
        return Some(ip);
    }
    errors.invalid(path, value, &format!("must be in canonical form (\"{ip}\")"));
    None
}

/// Parses a range strictly: as [`parse_ip`], and no bits set beyond the prefix.
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

/// Warns of an address that is valid and not in its canonical form (RFC 5952).
pub(super) fn address_warning(text: &str, path: &Path) -> Option<String> {
    let ip = text.parse::<IpAddr>().ok()?;
    (ip.is_ipv6() && ip.to_string() != text).then(|| {
        format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})", ip.to_string())
    })
}

/// Warns of a range that is valid, or stored already, and not in its canonical form.
pub(super) fn cidr_warning(text: &str, path: &Path) -> Option<String> {
    let cidr = text.contains('/').then(|| text.parse::<IpNetwork>().ok())??;
    let network = format!("{}/{}", cidr.network(), cidr.prefix());
    if cidr.ip() != cidr.network() {
        let all = if cidr.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{all}", cidr.ip());
        return Some(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {network:?} or {single:?}?)"
        ));
    }
    (cidr.is_ipv6() && network != text).then(|| {
        format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({network:?})")
    })
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// Whether a text is an IPv4 address with leading zeros.
fn has_leading_zeros(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let numbers =
        parts.iter().all(|part| part.bytes().all(|c| c.is_ascii_digit()) && part.parse::<u8>().is_ok());
    parts.len() == 4 && numbers && parts.iter().any(|part| part.len() > 1 && part.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_read_strictly() {
        let ip = |text: &str| {
            errors_of(|errors| {
                assert!(parse_ip(&json!(text), &Path::new("ip"), errors).is_some() == errors.is_empty())
            })
        };
        assert!(ip("10.0.0.1").is_empty() && ip("2001:DB8::1").is_empty());
        assert_eq!(ip("010.0.0.1"), ["ip: Invalid value: \"010.0.0.1\": must not have leading 0s"]);
        assert!(ip("::ffff:1.2.3.4")[0].ends_with("must not be an IPv4-mapped IPv6 address"));
        assert!(ip("10.0.0")[0].ends_with(BAD_IP));
        let cidr = |text: &str| {
            errors_of(|errors| {
                assert!(parse_cidr(text, &Path::new("c"), errors).is_some() == errors.is_empty())
            })
        };
        assert!(cidr("10.0.0.0/8").is_empty());
        assert!(cidr("10.0.0.1/8")[0].ends_with("must not have bits set beyond the prefix length"));
        assert!(cidr("10.0.0.0")[0].ends_with(BAD_CIDR));
        assert!(cidr("010.0.0.0/8")[0].ends_with("must not have leading 0s in IP or prefix length"));
    }
}
