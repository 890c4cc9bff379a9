//! The values that annotations have, from their texts.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::{Regex, RegexBuilder};

use super::settings::RetryConditions;
use crate::backend_tls::TlsVersions;
use crate::policy::{CacheRule, Range, Template};

/// Bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::ingress) struct Invalid(pub(in crate::ingress) String);

fn invalid<T>(expected: &str, text: &str) -> Result<T, Invalid> {
    Err(Invalid(format!("{text:?} is not {expected}")))
}

pub(super) fn boolean(text: &str) -> Result<bool, Invalid> {
    match &*text.to_ascii_lowercase() {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" => Ok(false),
        _ => invalid("true or false", text),
    }
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, Invalid> {
    text.trim().parse().or_else(|_| invalid("a number in its range", text))
}

/// Seconds, with nginx' units `ms`, `s`, `m`, `h` and `d`.
pub(super) fn seconds(text: &str) -> Result<Duration, Invalid> {
    let text = text.trim();
    let at = text.find(|byte: char| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(at);
    let Ok(count) = count.parse::<u32>() else { return invalid("a time in seconds", text) };
    let count = u64::from(count);
    match unit {
        "ms" => Ok(Duration::from_millis(count)),
        "" | "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(count * 60)),
        "h" => Ok(Duration::from_secs(count * 3_600)),
        "d" => Ok(Duration::from_secs(count * 86_400)),
        _ => invalid("a time in seconds", text),
    }
}

/// Bytes, with nginx' units `k`, `m` and `g`.
pub(super) fn size(text: &str) -> Result<u64, Invalid> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (
            digits,
            match lower.as_bytes().last() {
                Some(b'k') => 1 << 10,
                Some(b'm') => 1 << 20,
                _ => 1 << 30,
            },
        ),
        None => (&*lower, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    bytes.map_or_else(|| invalid("a size in bytes", text), Ok)
}

/// What is between commas.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn names(text: &str) -> Vec<Box<str>> {
    list(text).map(Into::into).collect()
}

pub(super) fn ranges(text: &str) -> Result<Vec<Range>, Invalid> {
    let parse = |text| Range::parse(text).map_or_else(|| invalid("an address or a range", text), Ok);
    list(text).map(parse).collect()
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::try_from(text.trim()).or_else(|_| invalid("a header's name", text))
}

pub(super) fn header_names(text: &str) -> Result<Vec<HeaderName>, Invalid> {
    list(text).map(header_name).collect()
}

pub(super) fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text).or_else(|_| invalid("a header's value", text))
}

pub(super) fn method(text: &str) -> Result<Method, Invalid> {
    Method::try_from(text.trim()).or_else(|_| invalid("a method", text))
}

pub(super) fn statuses(text: &str) -> Result<Vec<StatusCode>, Invalid> {
    let parse = |text: &str| match text.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) if (300..600).contains(&status.as_u16()) => Ok(status),
        _ => invalid("a status from 300 to 599", text),
    };
    list(text).map(parse).collect()
}

pub(super) fn redirect_status(text: &str) -> Result<StatusCode, Invalid> {
    let status = text.trim().parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| status.is_redirection());
    status.map_or_else(|| invalid("a status of redirects", text), Ok)
}

pub(super) fn template(text: &str) -> Result<Template, Invalid> {
    Template::parse(text.trim()).map_err(|error| Invalid(error.to_string()))
}

/// A redirect's target: an address of http or https.
pub(super) fn address(text: &str) -> Result<Template, Invalid> {
    let text = text.trim();
    let is_address = ["http://", "https://", "$scheme://", "/"].iter().any(|start| text.starts_with(start));
    let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_address && is_clean { template(text) } else { invalid("an address of http or https", text) }
}

/// A path of the same host.
pub(super) fn own_path(text: &str) -> Result<Template, Invalid> {
    match text.trim() {
        path if path.starts_with('/') => address(&format!("$scheme://$http_host{path}")),
        text => address(text),
    }
}

/// A pattern that matches in time that is linear in the text.
pub(in crate::ingress) fn pattern(text: &str) -> Result<Regex, Invalid> {
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(MAX_PATTERN_BYTES).build().map_err(|error| Invalid(format!("{text:?}: {error}")))
}

/// One of these words.
pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Invalid> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| *value).map_or_else(
        || {
            invalid(
                &format!("one of {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")),
                text,
            )
        },
        Ok,
    )
}

/// What is replaced, and by what.
type Replacement = (Box<str>, Box<str>);

/// `off`, or two texts.
pub(super) fn replacement(text: &str) -> Result<Option<Replacement>, Invalid> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("off"), None, _) => Ok(None),
        (Some(from), Some(to), None) if !from.starts_with('~') && !to.contains('$') => {
            Ok(Some((from.into(), to.into())))
        }
        _ => invalid("off, or two texts without patterns and variables", text),
    }
}

/// The address of a Service: `http://NAME[.NAMESPACE[.svc[.DOMAIN]]][:PORT][PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingress) struct ServiceAddress {
    pub(in crate::ingress) host: Box<str>,
    pub(in crate::ingress) name: Box<str>,
    pub(in crate::ingress) namespace: Option<Box<str>>,
    pub(in crate::ingress) port: i32,
    pub(in crate::ingress) path: Box<str>,
}

impl ServiceAddress {
    pub(super) fn parse(text: &str) -> Result<ServiceAddress, Invalid> {
        let expected = "the address of a Service, as http://NAME.NAMESPACE.svc.cluster.local:PORT/PATH";
        let Some(rest) = text.trim().strip_prefix("http://") else { return invalid(expected, text) };
        let at = rest.find(['/', '?', '$']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let labels: Vec<&str> = host.split('.').collect();
        let is_service = matches!(&labels[..], [_] | [_, _] | [_, _, "svc", ..]);
        let is_label = |label: &&str| {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty()
                && label.bytes().all(is_plain)
                && !label.bytes().all(|byte| byte.is_ascii_digit())
        };
        let (Ok(port), true, Some(name)) =
            (port.parse(), is_service && labels.iter().all(is_label), labels.first())
        else {
            return invalid(expected, text);
        };
        let namespace = labels.get(1).map(|namespace| Box::from(*namespace));
        Ok(ServiceAddress {
            host: authority.into(),
            name: (*name).into(),
            namespace,
            port,
            path: path.into(),
        })
    }
}

/// The address of a Service, and path and query with their variables.
pub(super) fn service_and_path(text: &str) -> Result<(ServiceAddress, Template), Invalid> {
    let address = ServiceAddress::parse(text)?;
    let path = match &*address.path {
        path if path.starts_with('?') => format!("/{path}"),
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    let path = template(&path)?;
    Ok((address, path))
}

/// A copy has the path of its request.
pub(super) fn mirror(text: &str) -> Result<ServiceAddress, Invalid> {
    let address = ServiceAddress::parse(text)?;
    match &*address.path {
        "" | "$request_uri" => Ok(address),
        _ => invalid("the address of a Service with the path $request_uri", text),
    }
}

/// A name of a cookie (RFC 6265, 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<Box<str>, Invalid> {
    match HeaderName::try_from(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => invalid("a cookie's name", text),
    }
}

/// A value of a cookie's attribute.
pub(super) fn cookie_text(text: &str) -> Result<Box<str>, Invalid> {
    match text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        true => Ok(text.into()),
        false => invalid("a value of a cookie's attribute", text),
    }
}

/// A text without variables and patterns; `off` and `default` are none.
pub(super) fn plain(text: &str) -> Result<Option<Box<str>>, Invalid> {
    match text.trim() {
        "off" | "default" => Ok(None),
        plain
            if !plain.starts_with('~')
                && plain.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'$') =>
        {
            Ok(Some(plain.into()))
        }
        _ => invalid("a text without patterns and variables", text),
    }
}

/// nginx' words for when a request is sent to another endpoint.
pub(super) fn retry_conditions(text: &str) -> Result<RetryConditions, Invalid> {
    let mut found = RetryConditions::default();
    for word in text.split_whitespace() {
        match word {
            "off" => found.is_off = true,
            // They are failures of an endpoint anyway.
            "error" | "timeout" | "invalid_header" => {}
            "non_idempotent" => found.also_unsafe = true,
            _ => match word.strip_prefix("http_").map(statuses) {
                Some(Ok(more)) => found.statuses.extend(more),
                _ => return invalid("a condition of proxy_next_upstream", word),
            },
        }
    }
    Ok(found)
}

/// `CN=` and a pattern.
pub(super) fn subject(text: &str) -> Result<Regex, Invalid> {
    match text.trim() {
        text if text.starts_with("CN=") => pattern(text),
        text => invalid("CN= and a pattern", text),
    }
}

/// Versions of TLS with spaces between them.
pub(super) fn tls_versions(text: &str) -> Result<TlsVersions, Invalid> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.iter().any(|word| !matches!(*word, "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3")) {
        return invalid("versions of TLS", text);
    }
    match (words.contains(&"TLSv1.2"), words.contains(&"TLSv1.3")) {
        (true, true) => Ok(TlsVersions::Both),
        (true, false) => Ok(TlsVersions::Only12),
        (false, true) => Ok(TlsVersions::Only13),
        (false, false) => invalid("a version of TLS that is safe: TLSv1.2, TLSv1.3", text),
    }
}

/// nginx' `proxy_cache_valid`, with commas between: statuses or `any`, then a time. A time alone is for 200, 301 and 302.
pub(super) fn cache_rules(text: &str) -> Result<Vec<CacheRule>, Invalid> {
    list(text).map(cache_rule).collect()
}

fn cache_rule(text: &str) -> Result<CacheRule, Invalid> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let time = seconds(words.pop().unwrap_or_default())?;
    let status = |word: &&str| match word.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => Ok(status),
        None => invalid("a status", word),
    };
    let statuses = match &*words {
        [] => vec![StatusCode::OK, StatusCode::MOVED_PERMANENTLY, StatusCode::FOUND],
        ["any"] => Vec::new(),
        words => words.iter().map(status).collect::<Result<_, _>>()?,
    };
    Ok(CacheRule { statuses, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        for (text, bytes) in [("0", 0), ("1000", 1_000), ("8k", 8_192), ("8m", 8 << 20), ("1G", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, ms) in [("5", 5_000), ("5s", 5_000), ("100ms", 100), ("2m", 120_000), ("1d", 86_400_000)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "x", "-1", "1t", "1 m", "99999999999999999999g"] {
            assert!(size(text).is_err() && seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_of_a_cache_are_of_statuses() {
        let rule = |codes: &[u16], seconds| CacheRule {
            statuses: codes.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect(),
            time: Duration::from_secs(seconds),
        };
        assert_eq!(cache_rules("200 202 30m, any 1m"), Ok(vec![rule(&[200, 202], 1_800), rule(&[], 60)]));
        assert_eq!(cache_rules("5m"), Ok(vec![rule(&[200, 301, 302], 300)]));
        assert!(cache_rules("200 x 5m").is_err() && cache_rules("200").is_ok() && cache_rules("x").is_err());
    }

    #[test]
    fn versions_that_are_not_safe_are_left_out() {
        assert_eq!(tls_versions("TLSv1 TLSv1.1 TLSv1.2"), Ok(TlsVersions::Only12));
        assert_eq!(tls_versions("TLSv1.2 TLSv1.3"), Ok(TlsVersions::Both));
        assert!(tls_versions("TLSv1.1").is_err() && tls_versions("SSLv3 TLSv1.2").is_err());
    }

    #[test]
    fn only_services_of_the_cluster_are_addresses() {
        let parse = |text| ServiceAddress::parse(text).ok();
        let found = parse("http://auth.ns.svc.cluster.local:8080/check?x=$host").unwrap();
        assert_eq!(
            (&*found.name, found.namespace.as_deref(), found.port, &*found.path),
            ("auth", Some("ns"), 8080, "/check?x=$host")
        );
        assert_eq!(
            parse("http://auth$request_uri").map(|found| (found.port, found.path)),
            Some((80, "$request_uri".into()))
        );
        for text in [
            "https://auth/",
            "http://a.example.com/",
            "http://10.0.0.1/",
            "http://",
            "auth",
            "http://a:x/",
            "http://a@b/",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
