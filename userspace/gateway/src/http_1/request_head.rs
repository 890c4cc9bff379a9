//! The head of a request, as it is sent. PURE.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use http::Method;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::request::Parts;

/// What the head says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(u64),
    /// It is sent in chunks.
    Unknown,
}

/// Writes the head of a request. What its fields say of a length is replaced by `length`.
pub(crate) fn write_head(head: &Parts, length: Length, out: &mut BytesMut) {
    out.reserve(bytes_of(head));
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    match head.uri.path_and_query() {
        Some(path) => out.put_slice(path.as_str().as_bytes()),
        None => out.put_u8(b'/'),
    }
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING {
            continue;
        }
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    match length {
        Length::Known(0) if !says_empty(&head.method, &head.headers) => out.put_slice(b"\r\n"),
        // Memory grows: it does not fail.
        Length::Known(length) => drop(write!(out, "content-length: {length}\r\n\r\n")),
        Length::Unknown => out.put_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
}

/// Whether a request without a body says so (RFC 9110, 8.6).
fn says_empty(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH) || headers.contains_key(CONTENT_LENGTH)
}

/// At least what the head takes.
fn bytes_of(head: &Parts) -> usize {
    const OF_LINE: usize = 64;
    const OF_FIELD: usize = 4;
    let path = head.uri.path_and_query().map_or(1, |path| path.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OF_FIELD);
    OF_LINE + head.method.as_str().len() + path + fields.sum::<usize>()
}
