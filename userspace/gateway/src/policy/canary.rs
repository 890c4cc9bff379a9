//! A part of a route's requests, for another backend.

use http::{HeaderMap, HeaderName};
use regex::Regex;

use super::template::cookie;

/// By header, then by cookie, then by weight: the first that says something decides.
#[derive(Clone, Debug, Default)]
pub struct Canary {
    pub backend: usize,
    pub header: Option<(HeaderName, CanaryHeader)>,
    /// `always` and `never` decide.
    pub cookie: Option<Box<str>>,
    pub weight: u32,
    pub total: u32,
    /// A session that began at an endpoint of the canary, or of what it is a part of, goes on there.
    pub keeps_sessions: bool,
}

/// Values of the header that lead to the canary.
#[derive(Clone, Debug)]
pub enum CanaryHeader {
    /// `always`; `never` leads past it.
    Switch,
    Value(Box<str>),
    Pattern(Regex),
}

impl Canary {
    /// `draw`: a number below the one given.
    pub(crate) fn takes(&self, headers: &HeaderMap, draw: impl Fn(u32) -> u32) -> bool {
        let by_header = self.header.as_ref().and_then(|(name, wanted)| {
            let value = headers.get(name)?.to_str().ok()?;
            match wanted {
                CanaryHeader::Switch => switch(value),
                CanaryHeader::Value(wanted) => (**wanted == *value).then_some(true),
                CanaryHeader::Pattern(pattern) => pattern.is_match(value).then_some(true),
            }
        });
        let by_cookie = || self.cookie.as_ref().and_then(|name| switch(cookie(headers, name)?));
        let by_weight = || self.weight > 0 && draw(self.total.max(1)) < self.weight;
        by_header.or_else(by_cookie).unwrap_or_else(by_weight)
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "always" => Some(true),
        "never" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_header_decides_before_the_cookie_and_the_cookie_before_the_weight() {
        let name = HeaderName::from_static("x-canary");
        let with = |header: CanaryHeader| Canary {
            header: Some((name.clone(), header)),
            cookie: Some("c".into()),
            weight: 50,
            total: 100,
            ..Canary::default()
        };
        let value = || CanaryHeader::Value("yes".into());
        let pattern = || CanaryHeader::Pattern(Regex::new("^v[0-9]$").unwrap());
        for (canary, header, cookie, drawn, takes) in [
            (with(CanaryHeader::Switch), "always", "c=never", 99, true),
            (with(CanaryHeader::Switch), "never", "c=always", 0, false),
            (with(CanaryHeader::Switch), "x", "a=b; c=always", 99, true),
            (with(CanaryHeader::Switch), "", "c=never", 0, false),
            (with(CanaryHeader::Switch), "", "", 49, true),
            (with(CanaryHeader::Switch), "", "", 50, false),
            (with(value()), "yes", "", 99, true),
            (with(value()), "always", "", 99, false),
            (with(pattern()), "v1", "", 99, true),
            (with(pattern()), "v12", "", 99, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, text) in [(name.clone(), header), (http::header::COOKIE, cookie)] {
                if !text.is_empty() {
                    headers.insert(name, HeaderValue::from_str(text).unwrap());
                }
            }
            assert_eq!(canary.takes(&headers, |_| drawn), takes, "{header} {cookie} {drawn}");
        }
        assert!(!Canary::default().takes(&HeaderMap::new(), |_| 0));
    }
}
