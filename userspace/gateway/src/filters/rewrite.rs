//! Other hosts and paths: for the backend, or for the client in a redirect.

use http::StatusCode;

/// What the backend gets instead of what the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub host: Option<Box<str>>,
    pub path: Option<PathRewrite>,
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    Full(Box<str>),
    /// The prefix that the rule matched, element by element, becomes another one.
    Prefix {
        matched: Box<str>,
        with: Box<str>,
    },
}

/// An answer that sends the client elsewhere. What is `None` is as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// In lower case.
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub path: Option<PathRewrite>,
    pub port: Option<u16>,
    pub status: StatusCode,
}

impl PathRewrite {
    /// The new path. A path that does not begin with the prefix stays.
    pub(crate) fn apply(&self, path: &str) -> String {
        let PathRewrite::Prefix { matched, with } = self else {
            let PathRewrite::Full(full) = self else { return path.to_owned() };
            return absolute(full);
        };
        let matched = matched.strip_suffix('/').unwrap_or(matched);
        match path.strip_prefix(matched) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let base = if rest.is_empty() { with } else { with.strip_suffix('/').unwrap_or(with) };
                absolute(&format!("{base}{rest}"))
            }
            _ => path.to_owned(),
        }
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

impl Redirect {
    /// The `Location` for a request (Gateway API, HTTPRequestRedirectFilter). `host` is without port; `port` is the listener's, as clients
    /// know it.
    pub(crate) fn location(
        &self,
        is_tls: bool,
        host: &str,
        port: u16,
        path: &str,
        query: Option<&str>,
    ) -> String {
        let own = if is_tls { "https" } else { "http" };
        let scheme = self.scheme.as_deref().unwrap_or(own);
        let usual = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) if usual.is_some() => usual,
            (None, _) => Some(port),
        };
        let host = self.host.as_deref().unwrap_or(host);
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = port.filter(|port| Some(*port) != usual) {
            location.push_str(&format!(":{port}"));
        }
        match &self.path {
            Some(rewrite) => location.push_str(&rewrite.apply(path)),
            None => location.push_str(path),
        }
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_element_by_element() {
        for (matched, with, path, wanted) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo/", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "/xyz/", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "/", "/foo", "/"),
            ("/foo", "/", "/foo/", "/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/", "/xyz", "/", "/xyz/"),
            ("/", "/xyz", "/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/food", "/food"),
        ] {
            let rewrite = PathRewrite::Prefix { matched: matched.into(), with: with.into() };
            assert_eq!(rewrite.apply(path), wanted, "{matched} {with} {path}");
        }
        assert_eq!(PathRewrite::Full("one".into()).apply("/foo"), "/one");
    }

    #[test]
    fn a_redirect_names_the_port_only_if_it_is_not_the_schemes_own() {
        for (scheme, port, is_tls, listener, wanted) in [
            (None, None, false, 80, "http://a.com/p?q"),
            (None, None, false, 8080, "http://a.com:8080/p?q"),
            (None, None, true, 443, "https://a.com/p?q"),
            (Some("https"), None, false, 8080, "https://a.com/p?q"),
            (Some("http"), None, true, 443, "http://a.com/p?q"),
            (Some("https"), Some(8443), false, 80, "https://a.com:8443/p?q"),
            (Some("http"), Some(80), true, 443, "http://a.com/p?q"),
            (None, Some(8080), false, 80, "http://a.com:8080/p?q"),
            (None, Some(443), false, 80, "http://a.com:443/p?q"),
            (Some("https"), Some(443), false, 80, "https://a.com/p?q"),
        ] {
            let redirect = Redirect {
                scheme: scheme.map(Into::into),
                host: None,
                path: None,
                port,
                status: StatusCode::FOUND,
            };
            let location = redirect.location(is_tls, "a.com", listener, "/p", Some("q"));
            assert_eq!(location, wanted, "{scheme:?} {port:?} {is_tls} {listener}");
        }
    }
}
