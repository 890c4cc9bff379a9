//! Where the body of a response ends (RFC 9112, 6.3). PURE.

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, StatusCode};

use super::Malformed;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Framing {
    /// Of the response to a request with this method. A length beside a coding, a second length, and a coding other than chunked are
    /// refused, also where there is no body.
    pub fn of(
        method: &Method,
        status: StatusCode,
        is_http_10: bool,
        headers: &HeaderMap,
    ) -> Result<Framing, Malformed> {
        let coding = one(headers, TRANSFER_ENCODING).map_err(|_| Malformed::Coding)?;
        let length = one(headers, CONTENT_LENGTH)?.map(parse_length).transpose()?;
        let framing = match (coding, length) {
            (Some(_), Some(_)) => return Err(Malformed::Length),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && !is_http_10 => {
                Framing::Chunked
            }
            (Some(_), None) => return Err(Malformed::Coding),
            (None, Some(0)) => Framing::Empty,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Close,
        };
        let has_no_body = *method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(if has_no_body { Framing::Empty } else { framing })
    }
}

/// The value of a field that may come once.
fn one(headers: &HeaderMap, name: http::HeaderName) -> Result<Option<&[u8]>, Malformed> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes().trim_ascii())),
        (_, Some(_)) => Err(Malformed::Length),
    }
}

fn parse_length(text: &[u8]) -> Result<u64, Malformed> {
    // A number's own parser takes a sign.
    match text.iter().all(u8::is_ascii_digit) {
        true => str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed::Length),
        false => Err(Malformed::Length),
    }
}
