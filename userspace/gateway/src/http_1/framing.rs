//! Where the body of a response ends (RFC 9112, 6.3). PURE.

use http::{Method, StatusCode};

use super::Malformed;
use super::control::Control;

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
    pub(super) fn of(
        method: &Method,
        status: StatusCode,
        is_http_10: bool,
        control: &Control<'_>,
    ) -> Result<Framing, Malformed> {
        let framing = match (control.coding()?, control.length()?) {
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
