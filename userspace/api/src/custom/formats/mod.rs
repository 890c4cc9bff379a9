//! The string formats that upstream validates in schemas. An unknown format accepts every text.

mod duration;
mod email;
mod number;
mod uri;

use std::net::{IpAddr, Ipv4Addr};

use crate::names::{self, NameForm};
use crate::regexp::matches;

const KNOWN: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

fn normalize(format: &str) -> String {
    format.replace('-', "")
}

/// Whether the format is known for the type; otherwise a definition gets a warning.
pub(super) fn is_known(shape: &str, format: &str) -> bool {
    match shape {
        "" | "string" => KNOWN.contains(&normalize(format).as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => true,
    }
}

/// Whether a text matches the format.
pub(super) fn accepts(format: &str, text: &str) -> bool {
    match normalize(format).as_str() {
        "creditcard" => number::is_card(text),
        "date" => is_date(text),
        "datetime" => is_date_time(text),
        "duration" => duration::accepts(text),
        // An address that is mapped to IPv6 has dots, too.
        "ipv4" => text.contains('.') && address(text).is_some(),
        "ipv6" => text.contains(':') && address(text).is_some(),
        "cidr" => is_cidr(text),
        "email" => email::accepts(text),
        "hostname" => is_hostname(text),
        "uri" => uri::accepts(text),
        "mac" => is_mac(text),
        "k8sshortname" => names::name_problem(text, NameForm::Label).is_none(),
        "k8slongname" => names::name_problem(text, NameForm::Subdomain).is_none(),
        "isbn" => number::is_isbn10(text) || number::is_isbn13(text),
        "isbn10" => number::is_isbn10(text),
        "isbn13" => number::is_isbn13(text),
        other => {
            PATTERNS.iter().find(|(name, _)| *name == other).is_none_or(|(_, pattern)| matches(pattern, text))
        }
    }
}

const PATTERNS: [(&str, &str); 9] = [
    ("bsonobjectid", "^[0-9a-fA-F]{24}$"),
    ("byte", "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"),
    ("hexcolor", "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
    (
        "rgbcolor",
        r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$",
    ),
    ("ssn", r"^\d{3}[- ]\d{2}[- ]\d{4}$"),
    ("uuid", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid3", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid4", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("uuid5", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
];

/// Letters and symbols of every script; the last label has letters only.
const HOSTNAME: &str = r"^([a-zA-Z0-9\p{S}\p{L}](-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?|([a-zA-Z0-9\p{S}\p{L}]([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?\.)+[a-zA-Z\p{L}]{2,63})$";

/// 6, 8 or 20 bytes in pairs of digits with one separator, or in groups of four with dots.
const MAC: &str = r"^(?:[[:xdigit:]]{2}(?:(?::[[:xdigit:]]{2}){5}|(?::[[:xdigit:]]{2}){7}|(?::[[:xdigit:]]{2}){19}|(?:-[[:xdigit:]]{2}){5}|(?:-[[:xdigit:]]{2}){7}|(?:-[[:xdigit:]]{2}){19})|[[:xdigit:]]{4}(?:(?:\.[[:xdigit:]]{4}){2}|(?:\.[[:xdigit:]]{4}){3}|(?:\.[[:xdigit:]]{4}){9}))$";

fn is_date(text: &str) -> bool {
    matches(r"^\d{4}-\d{2}-\d{2}$", text) && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let in_range = |at: usize, last: &str| time.get(at..at + 2).is_some_and(|part| part <= last);
    is_date(date)
        && matches(r"^[0-9]{2}:[0-9]{2}:[0-9]{2}(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$", time)
        && in_range(0, "23")
        && in_range(3, "59")
        && in_range(6, "59")
}

/// An address; the numbers of IPv4 may have leading zeros.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let mut numbers = text.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| part.parse::<u8>().ok()).flatten()
    });
    let bytes = [numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then(|| Ipv4Addr::from(bytes).into())
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Some(address) = self::address(address) else { return false };
    let max = if address.is_ipv4() { 32 } else { 128 };
    bits.bytes().all(|c| c.is_ascii_digit()) && bits.parse::<u32>().is_ok_and(|bits| bits <= max)
}

fn is_hostname(text: &str) -> bool {
    const MAX_BYTES: usize = 255;
    const MAX_LABEL_BYTES: usize = 63;
    matches(HOSTNAME, text)
        && text.len() <= MAX_BYTES
        && text.split('.').all(|label| label.len() <= MAX_LABEL_BYTES)
}

fn is_mac(text: &str) -> bool {
    matches(MAC, text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Format, text, and whether upstream accepts it.
    const TABLE: &str = include_str!("testdata/formats.json");

    #[test]
    fn formats_accept_and_refuse_what_upstream_does() {
        let table: Vec<(String, String, bool)> = serde_json::from_str(TABLE).unwrap();
        let wrong: Vec<_> =
            table.iter().filter(|(format, text, wanted)| accepts(format, text) != *wanted).collect();
        assert!(wrong.is_empty(), "{} wrong: {}", wrong.len(), Value::from(format!("{wrong:#?}")));
        assert!(accepts("no-such-format", "anything"));
        assert!(is_known("string", "date-time") && !is_known("string", "no-such-format"));
    }
}
