//! The head of a response: status, fields, and what they say of its body and its connection. PURE.

use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use http::header::{CONNECTION, HeaderMap};
use http::{Method, StatusCode};

use super::fields::headers_of;
use super::{Framing, MAX_HEADERS, Malformed};
use crate::headers::tokens;

/// Bytes of a head. More are no head.
pub const MAX_HEAD_BYTES: usize = 128 << 10;

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection may have another request after this response (RFC 9112, 9.3).
    pub keeps_open: bool,
}

impl ResponseHead {
    /// Takes the head of the response to a request with this method from what came. `None`: it is not here as a whole.
    pub(super) fn parse(input: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Malformed> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let complete = config.parse_response_with_uninit_headers(&mut parsed, input, &mut fields)?;
        let httparse::Status::Complete(length) = complete else {
            return if input.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(Malformed::LargeHead) };
        };
        if length > MAX_HEAD_BYTES {
            return Err(Malformed::LargeHead);
        }
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Status)?;
        let is_http_10 = parsed.version == Some(0);
        let headers = headers_of(parsed.headers)?;
        input.advance(length);
        let framing = Framing::of(method, status, is_http_10, &headers)?;
        let is_kept = if is_http_10 { says(&headers, b"keep-alive") } else { !says(&headers, b"close") };
        let keeps_open = is_kept && framing != Framing::Close && status != StatusCode::SWITCHING_PROTOCOLS;
        Ok(Some(ResponseHead { status, framing, keeps_open, headers }))
    }
}

/// Whether `Connection` has this word.
fn says(headers: &HeaderMap, word: &[u8]) -> bool {
    headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(word))
}
