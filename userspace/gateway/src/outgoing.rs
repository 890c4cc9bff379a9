//! The head of a request as endpoints get it. The same one serves every attempt and every copy. PURE.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::forwarded::Forwarded;

#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Host and port, unless the headers have another. Empty if the client named none.
    pub(crate) host: HeaderValue,
    pub(crate) path: PathAndQuery,
    /// Without those that belong to a connection.
    pub(crate) headers: HeaderMap,
    /// Fields beside the headers, which have none of these names. `None`: the headers have them, or there is no client.
    pub(crate) forwarded: Option<Arc<Forwarded>>,
    /// It needs HTTP/2.
    pub(crate) is_grpc: bool,
}

impl Outgoing {
    /// The headers with all fields, to be changed.
    pub(crate) fn whole_headers(&mut self) -> &mut HeaderMap {
        if let Some(forwarded) = self.forwarded.take() {
            forwarded.add_to(&mut self.headers);
        }
        &mut self.headers
    }

    /// In the form of HTTP/2, which has the host in the target. `None`: the host cannot be one.
    pub(crate) fn for_http_2<B>(&self, is_tls: bool, body: B) -> Option<Request<B>> {
        let host = if self.host.is_empty() { b"localhost" } else { self.host.as_bytes() };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(Authority::try_from(host).ok()?);
        parts.path_and_query = Some(self.path.clone());
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.headers_mut() = self.headers.clone();
        if let Some(forwarded) = &self.forwarded {
            forwarded.add_to(request.headers_mut());
        }
        Some(request)
    }
}
