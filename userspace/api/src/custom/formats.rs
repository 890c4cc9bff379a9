//! The string formats that upstream validates in schemas. An unknown format accepts every text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

use crate::names::{self, NameForm};
use crate::regexp::Regexp;

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
        "creditcard" => {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            matches(CARD, &digits)
        }
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "k8sshortname" => names::name_problem(text, NameForm::Label).is_none(),
        "k8slongname" => names::name_problem(text, NameForm::Subdomain).is_none(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        other => {
            PATTERNS.iter().find(|(name, _)| *name == other).is_none_or(|(_, pattern)| matches(pattern, text))
        }
    }
}

const CARD: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\\d{3})\\d{11})$";

const PATTERNS: [(&str, &str); 10] = [
    ("bsonobjectid", "^[0-9a-fA-F]{24}$"),
    ("hexcolor", "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
    (
        "rgbcolor",
        r"^rgb\(\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*,\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*,\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*\)$",
    ),
    ("ssn", r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
    ("mac", "^([0-9A-Fa-f]{2}[:-]){5,7}[0-9A-Fa-f]{2}$|^([0-9A-Fa-f]{4}\\.){2,3}[0-9A-Fa-f]{4}$"),
    (
        "hostname",
        r"^([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]{0,61}[a-zA-Z0-9])(\.([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]))*$",
    ),
    ("uuid", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid3", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid4", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("uuid5", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
];

fn matches(pattern: &str, text: &str) -> bool {
    Regexp::new(pattern).is_ok_and(|regexp| regexp.is_match(text))
}

/// Go's durations (`1h30m`), or a number and a unit in words (`22 ns`, `3 days`).
fn is_duration(text: &str) -> bool {
    const GO: &str = r"^[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$";
    const WORDS: &str = r"^\d+\s*[A-Za-zµ]+$";
    let units = [
        "ns",
        "nano",
        "nanosecond",
        "us",
        "µs",
        "micro",
        "microsecond",
        "ms",
        "milli",
        "millisecond",
        "s",
        "sec",
        "second",
        "m",
        "min",
        "minute",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
    let unit =
        text.trim_start_matches(|c: char| c.is_ascii_digit() || c.is_ascii_whitespace()).to_lowercase();
    let known = units.contains(&unit.as_str()) || units.contains(&unit.trim_end_matches('s'));
    matches(GO, text) || matches(WORDS, text) && known
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let max = if address.is_ipv4() { 32 } else { 128 };
    bits.bytes().all(|c| c.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(start), Some(inner)) => &inner[(start + 1).min(inner.len())..],
        _ => text,
    };
    address.rsplit_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && !host.is_empty() && !address.contains(char::is_whitespace)
    })
}

/// Like Go's url.ParseRequestURI: absolute, or a path from the root.
fn is_uri(text: &str) -> bool {
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    let scheme = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    text.starts_with('/') || scheme
}

fn digits(text: &str) -> Vec<u32> {
    let plain = text.chars().filter(|c| !matches!(c, '-' | ' '));
    plain.map(|c| if matches!(c, 'X' | 'x') { 10 } else { c.to_digit(10).unwrap_or(99) }).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits(text);
    digits.len() == 10
        && digits[..9].iter().all(|digit| *digit < 10)
        && digits[9] <= 10
        && digits.iter().zip((1..=10).rev()).map(|(digit, weight)| digit * weight).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits(text);
    let weights = [1, 3].into_iter().cycle();
    digits.len() == 13
        && digits.iter().all(|digit| *digit < 10)
        && digits.iter().zip(weights).map(|(digit, weight)| digit * weight).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse_what_upstream_does() {
        for (format, good, bad) in [
            ("date", "2026-01-02", "2026-13-02"),
            ("date-time", "2014-12-15T19:30:20.000Z", "yesterday"),
            ("duration", "1h30m", "soon"),
            ("duration", "22 ns", "22 parsecs"),
            ("byte", "aGk=", "%"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("ipv6", "::1", "1.2.3.4"),
            ("email", "a@example.com", "a"),
            ("uri", "https://example.com/x", "no scheme"),
            ("uuid", "8e3bd5d2-4d8f-4b6c-9f0a-0f5b7c2d1e3f", "8e3b"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("k8s-short-name", "a-b", "A_b"),
        ] {
            assert!(accepts(format, good), "{format} {good}");
            assert!(!accepts(format, bad), "{format} {bad}");
        }
        assert!(accepts("no-such-format", "anything"));
        assert!(is_known("string", "date-time") && !is_known("string", "no-such-format"));
    }
}
