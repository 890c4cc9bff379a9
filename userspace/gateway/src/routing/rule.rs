//! What a rule asks of a request.

use std::cmp::Reverse;

use http::{HeaderName, Method};
use percent_encoding::percent_decode_str;

use super::host::HostPattern;
use super::table::RequestHead;

/// A rule and what it leads to.
#[derive(Clone, Debug)]
pub struct Rule<T> {
    pub host: HostPattern,
    pub path: PathMatch,
    pub conditions: Conditions,
    pub target: T,
}

/// Paths that a rule is for, in the form of [`super::path::normalise`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathMatch {
    Exact(Box<str>),
    /// Paths whose first elements are these. A slash at the end has no effect.
    Prefix(Box<str>),
    /// A regular expression. It comes after exact paths and before prefixes, the longest expression first; the cost of a look-up grows
    /// with the expressions of a host.
    Pattern(Box<str>),
}

/// What else must hold of a request. All of it must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub method: Option<Method>,
    /// A header's first value.
    pub headers: Vec<(HeaderName, String)>,
    /// A query parameter's first value.
    pub query: Vec<(String, String)>,
    /// Of the path, as a call of gRPC has its method there.
    pub last_element: Option<Box<str>>,
}

impl Conditions {
    pub(super) fn hold(&self, request: &RequestHead<'_>) -> bool {
        let RequestHead { method, path, query, headers, .. } = *request;
        let has_header = |(name, value): &(HeaderName, String)| {
            headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes())
        };
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.last_element.as_deref().is_none_or(|wanted| path.rsplit('/').next() == Some(wanted))
            && self.headers.iter().all(has_header)
            && self.query.iter().all(|(name, value)| {
                query.and_then(|query| parameter(query, name)).is_some_and(|found| found == *value)
            })
    }

    /// Rules for the same path are tried in this order, then by age (Gateway API, HTTPRouteRule's `matches`).
    pub(super) fn order(&self) -> impl Ord + use<> {
        let has_method = self.method.is_some() || self.last_element.is_some();
        (Reverse(has_method), Reverse(self.headers.len()), Reverse(self.query.len()))
    }
}

/// The first value of a parameter, decoded as forms are.
fn parameter(query: &str, name: &str) -> Option<String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}
