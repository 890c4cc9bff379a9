//! The head of a response: status, fields, and what they say of its body and its connection. PURE.

use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::control::Control;
use super::fields::{add, name_of};
use super::{Framing, MAX_HEADERS, Malformed};

/// Bytes of a head. More are no head.
pub const MAX_HEAD_BYTES: usize = 128 << 10;
/// Fields that the gateway adds to a response: there is room for them.
const ADDED_FIELDS: usize = 1;

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// Without those that say only whether the connection stays open.
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
        let mut control = Control::default();
        let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ADDED_FIELDS);
        for field in parsed.headers.iter() {
            let name = name_of(field)?;
            if !control.note(&name, field.value) {
                add(name, field, &mut headers)?;
            }
        }
        let framing = Framing::of(method, status, is_http_10, &control)?;
        let is_kept = if is_http_10 { control.keeps_alive } else { !control.closes };
        let keeps_open = is_kept && framing != Framing::Close && status != StatusCode::SWITCHING_PROTOCOLS;
        input.advance(length);
        Ok(Some(ResponseHead { status, framing, keeps_open, headers }))
    }
}
