//! URLs, parsed as Go's `net/url` does.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::args::{go_quoted, library, text};
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::types::Type;
use crate::cel::values::{Key, Opaque, Value, failed};

pub(in crate::cel) const URL: &str = "kubernetes.URL";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cel) struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    rest: String,
}

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, String};
    let of = Type::Library(URL);
    table.global("url", "string_to_url", [String], of.clone(), |args| match Url::parse(text(args, 0)?) {
        Ok(url) => Ok(Value::library(url)),
        Err(error) => failed(format!("URL parse error during conversion from string: {error}")),
    });
    table.global("isURL", "is_url_string", [String], Bool, |args| {
        Ok(Value::Bool(Url::parse(text(args, 0)?).is_ok()))
    });
    let parts: [(&str, &str, Implementation); 5] = [
        ("getScheme", "url_get_scheme", |args| Ok(Value::text(&one(args)?.scheme))),
        ("getHost", "url_get_host", |args| Ok(Value::text(&one(args)?.host))),
        ("getHostname", "url_get_hostname", |args| Ok(Value::text(one(args)?.host_parts().0))),
        ("getPort", "url_get_port", |args| Ok(Value::text(one(args)?.host_parts().1))),
        ("getEscapedPath", "url_get_escaped_path", |args| Ok(Value::text(one(args)?.escaped_path()))),
    ];
    for (function, id, call) in parts {
        table.member(function, id, [of.clone()], String, call);
    }
    table.member("getQuery", "url_get_query", [of], Type::map(String, Type::list(String)), |args| {
        let mut entries: BTreeMap<Key, Vec<Value<'_>>> = BTreeMap::new();
        for pair in one(args)?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(name), Ok(value)) =
                (unescape(&name.replace('+', " ")), unescape(&value.replace('+', " ")))
            {
                entries.entry(Key::String(Arc::from(name))).or_default().push(Value::text(value));
            }
        }
        Ok(Value::map(entries.into_iter().map(|(name, values)| (name, Value::list(values))).collect()))
    });
}

fn one<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, CelError> {
    library(args, 0)
}

impl Opaque for Url {
    fn type_name(&self) -> &'static str {
        URL
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Url {
    /// Parses an absolute URL or an absolute path.
    pub(super) fn parse(raw: &str) -> Result<Url, CelError> {
        let refused = |why: &str| failed(format!("parse {}: {why}", go_quoted(raw)));
        if raw.bytes().any(|c| c < 0x20 || c == 0x7f) {
            return refused("net/url: invalid control character in URL");
        }
        if raw.is_empty() {
            return refused("empty url");
        }
        let plain = |path: &str| Url {
            scheme: String::new(),
            host: String::new(),
            path: path.to_owned(),
            query: String::new(),
            rest: String::new(),
        };
        if raw == "*" {
            return Ok(plain(raw));
        }
        let (scheme, rest) = match scheme(raw) {
            Ok(parts) => parts,
            Err(why) => return refused(why),
        };
        let whole = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (path, query) = whole.split_once('?').unwrap_or((whole, ""));
        let mut url = Url { scheme: scheme.to_ascii_lowercase(), query: query.to_owned(), ..plain(path) };
        if !path.starts_with('/') {
            if scheme.is_empty() {
                return refused("invalid URI for request");
            }
            // A path without a root is opaque.
            (url.rest, url.path) = (path.to_owned(), String::new());
            return Ok(url);
        }
        if !scheme.is_empty()
            && let Some(authority) = path.strip_prefix("//")
        {
            let (authority, path) = match authority.find('/') {
                Some(at) => authority.split_at(at),
                None => (authority, ""),
            };
            let host = match authority.rsplit_once('@') {
                Some((user, _)) if !user.chars().all(is_user_info) => {
                    return refused("net/url: invalid userinfo");
                }
                Some((_, host)) => host,
                None => authority,
            };
            url.host = match host_of(host) {
                Ok(host) => host,
                Err(error) => return refused(&error.to_string()),
            };
            url.path = path.to_owned();
        }
        match unescape(&url.path) {
            Ok(_) => Ok(url),
            Err(error) => refused(&error.to_string()),
        }
    }

    /// The host without its port and brackets, and the port.
    fn host_parts(&self) -> (&str, &str) {
        let after_bracket = self.host.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match self.host[after_bracket..].rfind(':') {
            Some(at) => (&self.host[..after_bracket + at], &self.host[after_bracket + at + 1..]),
            None => (&*self.host, ""),
        };
        (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
    }

    fn escaped_path(&self) -> String {
        let is_valid = |c: char| c.is_ascii_alphanumeric() || "!$&'()*+,;=:@[]%-_.~/".contains(c);
        if self.path.chars().all(is_valid) {
            return self.path.clone();
        }
        let plain = unescape(&self.path).unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "$&+,/:;=@-_.~".contains(c);
        let mut out = String::new();
        for c in plain.chars() {
            if is_plain(c) {
                out.push(c);
            } else {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
            }
        }
        out
    }
}

fn scheme(raw: &str) -> Result<(&str, &str), &'static str> {
    for (at, c) in raw.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&raw[..at], &raw[at + 1..])),
            _ => break,
        }
    }
    Ok(("", raw))
}

fn is_user_info(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)
}

fn host_of(host: &str) -> Result<String, CelError> {
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.rfind(']') {
            Some(end) => &rest[end + 1..],
            None => return failed("missing ']' in host"),
        },
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let is_port = port.is_empty() || port.starts_with(':') && port[1..].bytes().all(|c| c.is_ascii_digit());
    if !is_port {
        return failed(format!("invalid port {} after host", go_quoted(port)));
    }
    let is_host =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    if let Some(wrong) = host.chars().find(|c| !is_host(*c)) {
        return failed(format!("invalid character {} in host name", go_quoted(&wrong.to_string())));
    }
    unescape(host)
}

/// Replaces `%xx`.
fn unescape(text: &str) -> Result<String, CelError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte != b'%' {
            out.push(*byte);
            at += 1;
            continue;
        }
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => out.push(code),
            None => {
                let end = (at + 3).min(bytes.len());
                let escape = String::from_utf8_lossy(&bytes[at..end]);
                return failed(format!("invalid URL escape {}", go_quoted(&escape)));
            }
        }
        at += 3;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}
