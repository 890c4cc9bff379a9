//! What a request asks for: host, path and query in their one form. PURE. In: the head of a request. Out: a [`Target`], or why the
//! request is refused.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;
use http::{Method, Version};

use super::host::{HostError, host_of};
use super::path::{PathError, RequestPath, normalise};
use super::table::RequestHead;

/// Why a request is refused before it has a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the method is not served")]
    Method,
    #[error("the request has no host")]
    NoHost,
    #[error("the request has more than one host")]
    ManyHosts,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Where a request goes, by its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Host and port as the client wrote them. Empty if a request of HTTP/1.0 names none.
    pub authority: &'a str,
    /// In the form of [`host_of`].
    pub host: Cow<'a, str>,
    pub path: RequestPath<'a>,
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads the target of a request (RFC 9112, 3.2; RFC 9113, 8.3.1). Two different hosts are refused.
    pub fn read(head: &'a Parts) -> Result<Target<'a>, TargetError> {
        if head.method == Method::CONNECT {
            return Err(TargetError::Method);
        }
        let authority = authority(head)?;
        let host = match authority.is_empty() && head.version == Version::HTTP_10 {
            true => Cow::Borrowed(""),
            false => host_of(authority)?,
        };
        Ok(Target { authority, host, path: normalise(head.uri.path())?, query: head.uri.query() })
    }

    /// For [`super::RouteTable::find`].
    pub fn head(&'a self, head: &'a Parts) -> RequestHead<'a> {
        RequestHead {
            method: &head.method,
            host: &self.host,
            path: &self.path.matched,
            query: self.query,
            headers: &head.headers,
        }
    }
}

fn authority(head: &Parts) -> Result<&str, TargetError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(TargetError::ManyHosts);
    }
    let host = host.map(|host| host.to_str().map_err(|_| HostError::Name)).transpose()?;
    match (head.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(TargetError::ManyHosts)
        }
        (Some(authority), _) => Ok(authority.as_str()),
        (None, Some(host)) => Ok(host),
        (None, None) if head.version == Version::HTTP_10 => Ok(""),
        (None, None) => Err(TargetError::NoHost),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn two_hosts_and_none_are_refused() {
        use TargetError::{Host, ManyHosts, Method as BadMethod, NoHost, Path};
        let http_11 = Version::HTTP_11;
        for (version, method, uri, hosts, wanted) in [
            (http_11, "GET", "/a?b", vec!["Example.com:80"], Ok("example.com")),
            (http_11, "GET", "http://example.com/a", vec!["example.com"], Ok("example.com")),
            (http_11, "GET", "http://example.com/a", vec!["example.org"], Err(ManyHosts)),
            (http_11, "GET", "/", vec!["a.com", "a.com"], Err(ManyHosts)),
            (http_11, "GET", "/", vec![], Err(NoHost)),
            (http_11, "GET", "/", vec![""], Err(Host(HostError::Name))),
            (Version::HTTP_10, "GET", "/", vec![], Ok("")),
            (Version::HTTP_2, "GET", "https://example.com/", vec![], Ok("example.com")),
            (Version::HTTP_2, "GET", "https://example.com/", vec!["example.org"], Err(ManyHosts)),
            (http_11, "GET", "http://user@example.com/", vec![], Err(Host(HostError::Name))),
            (http_11, "CONNECT", "example.com:443", vec!["example.com:443"], Err(BadMethod)),
            (http_11, "OPTIONS", "*", vec!["example.com"], Err(Path(PathError::NotAbsolute))),
        ] {
            let mut request = Request::builder().version(version).method(method).uri(uri);
            for host in &hosts {
                request = request.header(HOST, *host);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            let host = Target::read(&head).map(|target| target.host.into_owned());
            assert_eq!(host, wanted.map(str::to_owned), "{method} {uri} {hosts:?}");
        }
    }
}
