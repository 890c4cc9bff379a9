//! The fields of a head or of trailers. PURE.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Fields that the gateway adds to a response, in the room of those that it removes beside one more.
const ADDED_FIELDS: usize = 1;

pub(super) fn headers_of(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED_FIELDS);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Header)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Header)?;
        headers.try_append(name, value).map_err(|_| Malformed::LargeHead)?;
    }
    Ok(headers)
}
