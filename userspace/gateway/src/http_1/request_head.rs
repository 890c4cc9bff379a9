//! The head of a request, as it is sent. PURE.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use http::Method;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};

use super::fields::write_field;
use crate::outgoing::Outgoing;

/// What the head says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(u64),
    /// It is sent in chunks.
    Unknown,
}

/// Writes the head of a request. What its fields say of a length is replaced by `length`.
pub(crate) fn write_head(head: &Outgoing, length: Length, out: &mut BytesMut) {
    out.reserve(bytes_of(head));
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.path.as_str().as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if !head.headers.contains_key(HOST) {
        write_field(&HOST, &head.host, out);
    }
    let mut said_length = false;
    for (name, value) in &head.headers {
        match *name {
            CONTENT_LENGTH => said_length = true,
            TRANSFER_ENCODING => {}
            _ => write_field(name, value, out),
        }
    }
    out.put_slice(forwarded_of(head));
    // A request without a body says so (RFC 9110, 8.6).
    let says_empty = said_length || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    match length {
        Length::Known(0) if !says_empty => out.put_slice(b"\r\n"),
        // Memory grows: it does not fail.
        Length::Known(length) => drop(write!(out, "content-length: {length}\r\n\r\n")),
        Length::Unknown => out.put_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
}

fn forwarded_of(head: &Outgoing) -> &[u8] {
    head.forwarded.as_ref().map(|forwarded| forwarded.lines()).unwrap_or_default()
}

/// At least what the head takes.
fn bytes_of(head: &Outgoing) -> usize {
    const OF_LINES: usize = 80;
    const OF_FIELD: usize = 4;
    let Outgoing { method, host, path, headers, .. } = head;
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OF_FIELD);
    let lines = [method.as_str().len(), path.as_str().len(), host.len(), forwarded_of(head).len()];
    OF_LINES + lines.iter().sum::<usize>() + fields.sum::<usize>()
}
