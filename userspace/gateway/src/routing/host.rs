//! Hosts: as requests name them, and as rules match them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::successors;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Bytes of a DNS name in text form (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// Why a Host header or an authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is not a DNS name or an address")]
    Name,
    #[error("the port is not a number up to 65535")]
    Port,
}

/// The host of an authority (RFC 9110, 7.2) in its one form: lower case, without port and without the root's dot.
pub fn host_of(authority: &str) -> Result<Cow<'_, str>, HostError> {
    let (host, port) = split(authority)?;
    if !port.is_empty() && (port.len() > 5 || port.parse::<u16>().is_err()) {
        return Err(HostError::Port);
    }
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Name)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > MAX_NAME_BYTES {
        return Err(HostError::Name);
    }
    match has_capitals(name)? {
        true => Ok(Cow::Owned(name.to_ascii_lowercase())),
        false => Ok(Cow::Borrowed(name)),
    }
}

/// Looks at a name once: whether it is one, and whether it has another form in lower case.
fn has_capitals(name: &str) -> Result<bool, HostError> {
    let (mut has_capitals, mut is_label_empty) = (false, true);
    for byte in name.bytes() {
        match byte {
            b'.' if is_label_empty => return Err(HostError::Name),
            b'.' | b'-' | b'_' | b'a'..=b'z' | b'0'..=b'9' => {}
            b'A'..=b'Z' => has_capitals = true,
            _ => return Err(HostError::Name),
        }
        is_label_empty = byte == b'.';
    }
    if is_label_empty { Err(HostError::Name) } else { Ok(has_capitals) }
}

/// The host, an address of IPv6 without its last bracket, and the digits of the port.
fn split(authority: &str) -> Result<(&str, &str), HostError> {
    let (host, rest) = match authority.starts_with('[') {
        true => authority.split_once(']').ok_or(HostError::Name)?,
        false => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok((host, port)),
        Some(_) => Err(HostError::Port),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(HostError::Name),
    }
}

/// Hosts that a rule is for. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(Arc<str>),
    /// Names with exactly one label before this suffix, as an Ingress' `*.suffix`.
    OneLabel(Arc<str>),
    /// Names with at least one label before this suffix, as a Gateway's `*.suffix`.
    Suffix(Arc<str>),
    Any,
}

impl HostPattern {
    /// An Ingress' host: empty is any host.
    pub fn of_ingress(host: &str) -> HostPattern {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix("*.") {
            Some(suffix) => HostPattern::OneLabel(suffix.into()),
            None if host.is_empty() => HostPattern::Any,
            None => HostPattern::Exact(host.into()),
        }
    }
}

/// Values by host pattern.
#[derive(Clone, Debug)]
pub struct HostTable<T> {
    exact: HashMap<Arc<str>, T>,
    one_label: HashMap<Arc<str>, T>,
    suffix: HashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        HostTable { exact: HashMap::new(), one_label: HashMap::new(), suffix: HashMap::new(), any: None }
    }
}

impl<T> HostTable<T> {
    /// One value for every host.
    pub fn of_any(value: T) -> HostTable<T> {
        HostTable { any: Some(value), ..HostTable::default() }
    }

    /// The pattern's value, made by `new` if there is none.
    pub fn entry(&mut self, pattern: HostPattern, new: impl FnOnce() -> T) -> &mut T {
        match pattern {
            HostPattern::Exact(name) => self.exact.entry(name).or_insert_with(new),
            HostPattern::OneLabel(suffix) => self.one_label.entry(suffix).or_insert_with(new),
            HostPattern::Suffix(suffix) => self.suffix.entry(suffix).or_insert_with(new),
            HostPattern::Any => self.any.get_or_insert_with(new),
        }
    }

    /// Replaces the pattern's value.
    pub fn set(&mut self, pattern: HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name, value)),
            HostPattern::OneLabel(suffix) => drop(self.one_label.insert(suffix, value)),
            HostPattern::Suffix(suffix) => drop(self.suffix.insert(suffix, value)),
            HostPattern::Any => self.any = Some(value),
        }
    }

    /// The values of the patterns that match a host, the most specific first. Costs one look-up a label, whatever the number of
    /// patterns.
    pub fn find<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t T> + use<'t, 'h, T> {
        let above = |name: &'h str| name.split_once('.').map(|(_, suffix)| suffix);
        // Most tables have whole names only.
        let has_wildcards = !(self.one_label.is_empty() && self.suffix.is_empty());
        let parent = Some(host).filter(|_| has_wildcards).and_then(above);
        let one_label = parent.and_then(|suffix| self.one_label.get(suffix));
        let suffixes = successors(parent.filter(|_| !self.suffix.is_empty()), move |name| above(name));
        self.exact
            .get(host)
            .into_iter()
            .chain(one_label)
            .chain(suffixes.filter_map(|suffix| self.suffix.get(suffix)))
            .chain(&self.any)
    }

    /// Adds the values of another table. Of two for a pattern the other's stays.
    pub fn absorb(&mut self, other: HostTable<T>) {
        let HostTable { exact, one_label, suffix, any } = other;
        self.exact.extend(exact);
        self.one_label.extend(one_label);
        self.suffix.extend(suffix);
        self.any = any.or(self.any.take());
    }

    pub fn remove(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.remove(name)),
            HostPattern::OneLabel(suffix) => drop(self.one_label.remove(suffix)),
            HostPattern::Suffix(suffix) => drop(self.suffix.remove(suffix)),
            HostPattern::Any => self.any = None,
        }
    }

    pub fn patterns(&self) -> impl Iterator<Item = HostPattern> {
        let exact = self.exact.keys().cloned().map(HostPattern::Exact);
        let one_label = self.one_label.keys().cloned().map(HostPattern::OneLabel);
        let suffix = self.suffix.keys().cloned().map(HostPattern::Suffix);
        exact.chain(one_label).chain(suffix).chain(self.any.iter().map(|_| HostPattern::Any))
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        let suffixes = self.one_label.values().chain(self.suffix.values());
        self.exact.values().chain(suffixes).chain(&self.any)
    }

    /// The same patterns with what is made of their values.
    pub fn map<U>(self, mut make: impl FnMut(T) -> U) -> HostTable<U> {
        let HostTable { exact, one_label, suffix, any } = self;
        let mut all = |values: HashMap<Arc<str>, T>| -> HashMap<Arc<str>, U> {
            values.into_iter().map(|(name, value)| (name, make(value))).collect()
        };
        let (exact, one_label, suffix) = (all(exact), all(one_label), all(suffix));
        HostTable { exact, one_label, suffix, any: any.map(make) }
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.one_label.is_empty() && self.suffix.is_empty() && self.any.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for (authority, host) in [
            ("example.com", Ok("example.com")),
            ("Example.COM:8080", Ok("example.com")),
            ("example.com.", Ok("example.com")),
            ("example.com.:80", Ok("example.com")),
            ("example.com:", Ok("example.com")),
            ("my_host", Ok("my_host")),
            ("192.0.2.1:80", Ok("192.0.2.1")),
            ("[2001:DB8::1]:80", Ok("[2001:db8::1]")),
            ("[2001:db8:0::1]", Ok("[2001:db8::1]")),
            ("", Err(HostError::Name)),
            (".", Err(HostError::Name)),
            (".example.com", Err(HostError::Name)),
            ("a..b", Err(HostError::Name)),
            ("a/b", Err(HostError::Name)),
            ("user@example.com", Err(HostError::Name)),
            ("a b", Err(HostError::Name)),
            ("*.example.com", Err(HostError::Name)),
            ("[::1", Err(HostError::Name)),
            ("[::1]x", Err(HostError::Name)),
            ("[example.com]", Err(HostError::Name)),
            ("2001:db8::1", Err(HostError::Port)),
            ("example.com:65536", Err(HostError::Port)),
            ("example.com:+80", Err(HostError::Port)),
            ("example.com:80:80", Err(HostError::Port)),
        ] {
            assert_eq!(host_of(authority).as_deref(), host.as_deref(), "{authority}");
        }
    }

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let mut table = HostTable::default();
        for (pattern, value) in [
            (HostPattern::Any, 0),
            (HostPattern::Suffix("com".into()), 1),
            (HostPattern::Suffix("b.com".into()), 2),
            (HostPattern::of_ingress("*.b.com"), 3),
            (HostPattern::of_ingress("A.b.com"), 4),
        ] {
            table.entry(pattern, || value);
        }
        let of = |host| table.find(host).copied().collect::<Vec<_>>();
        assert_eq!(of("a.b.com"), [4, 3, 2, 1, 0]);
        assert_eq!(of("x.b.com"), [3, 2, 1, 0]);
        assert_eq!(of("x.a.b.com"), [2, 1, 0]);
        assert_eq!(of("b.com"), [1, 0]);
        assert_eq!(of("com"), [0]);
    }
}
