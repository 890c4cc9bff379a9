//! Cross-origin requests (Fetch standard, CORS protocol), as Gateway API's HTTPCORSFilter describes them.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};

/// Which pages of other origins may read responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<Origin>,
    /// `*` allows every method.
    pub methods: Vec<Box<str>>,
    /// `*` allows every header.
    pub headers: Vec<Box<str>>,
    pub expose: Vec<Box<str>>,
    pub credentials: bool,
    /// Seconds for which the answer to a preflight holds.
    pub max_age: Option<u32>,
}

/// Origins that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Any,
    Exact(Box<str>),
    /// What is before and after a `*` in place of the host's first labels.
    Wildcard(Box<str>, Box<str>),
}

impl Origin {
    /// From `*`, `SCHEME://HOST[:PORT]` or `SCHEME://*.SUFFIX[:PORT]`.
    pub fn parse(text: &str) -> Origin {
        match text.split_once('*') {
            None => Origin::Exact(text.into()),
            Some(("", "")) => Origin::Any,
            Some((before, after)) => Origin::Wildcard(before.into(), after.into()),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exact(only) => **only == *origin,
            Origin::Wildcard(before, after) => {
                let rest = origin.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                // The labels, and nothing of a scheme, port or path.
                rest.is_some_and(|labels| !labels.is_empty() && !labels.contains(['/', ':', '@']))
            }
        }
    }
}

impl Cors {
    /// Whether a request asks only whether another one would be allowed.
    pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a preflight: none if the origin is not allowed.
    pub(crate) fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut out = HeaderMap::new();
        let Some(origin) = self.allowed(request) else { return out };
        self.add(&origin, &mut out);
        let echo = |name: HeaderName| request.get(name).cloned();
        let methods = match self.methods.iter().any(|method| &**method == "*") {
            true => echo(ACCESS_CONTROL_REQUEST_METHOD),
            false => joined(&self.methods),
        };
        let headers = match self.headers.iter().any(|header| &**header == "*") {
            true => echo(ACCESS_CONTROL_REQUEST_HEADERS),
            false => joined(&self.headers),
        };
        let max_age = self.max_age.map(HeaderValue::from);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, headers),
            (ACCESS_CONTROL_MAX_AGE, max_age),
        ] {
            if let Some(value) = value {
                out.insert(name, value);
            }
        }
        out
    }

    /// The origin of a request, if it is allowed.
    pub(crate) fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|allowed| allowed.allows(text)).then(|| origin.clone())
    }

    /// Lets pages of an allowed origin read a response. What the backend itself says of it is replaced.
    pub(crate) fn add(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            response.remove(name);
        }
        let is_any = self.origins.contains(&Origin::Any) && !self.credentials;
        if is_any {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.append(VARY, HeaderValue::from_static("Origin"));
        }
        if self.credentials {
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = joined(&self.expose) {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }
}

fn joined(names: &[Box<str>]) -> Option<HeaderValue> {
    (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", ")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_labels_of_the_host_only() {
        for (pattern, origin, allowed) in [
            ("*", "https://a.com:1", true),
            ("https://a.com", "https://a.com", true),
            ("https://a.com", "http://a.com", false),
            ("https://*.bar.com", "https://a.b.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://evil.com/.bar.com", false),
            ("https://*.bar.com", "https://a.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://a.bar.com:8443", true),
        ] {
            assert_eq!(Origin::parse(pattern).allows(origin), allowed, "{pattern} {origin}");
        }
    }

    #[test]
    fn an_origin_that_is_not_allowed_gets_no_header() {
        let cors = Cors {
            origins: vec![Origin::parse("https://a.com")],
            methods: vec!["*".into()],
            headers: vec!["x-a".into(), "x-b".into()],
            credentials: true,
            max_age: Some(5),
            ..Cors::default()
        };
        let request = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
            headers
        };
        assert!(cors.preflight(&request("https://b.com")).is_empty());
        let answer = cors.preflight(&request("https://a.com"));
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "https://a.com"),
            (ACCESS_CONTROL_ALLOW_METHODS, "PUT"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "x-a, x-b"),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (ACCESS_CONTROL_MAX_AGE, "5"),
        ] {
            assert_eq!(answer.get(&name).unwrap(), value, "{name}");
        }
    }
}
