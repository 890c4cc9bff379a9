//! The fields of a head or of trailers. PURE.

use bytes::{BufMut as _, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

pub(super) fn headers_of(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        add(name_of(field)?, field, &mut headers)?;
    }
    Ok(headers)
}

pub(super) fn name_of(field: &httparse::Header<'_>) -> Result<HeaderName, Malformed> {
    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Header)
}

pub(super) fn add(
    name: HeaderName,
    field: &httparse::Header<'_>,
    headers: &mut HeaderMap,
) -> Result<(), Malformed> {
    let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Header)?;
    headers.try_append(name, value).map_err(|_| Malformed::LargeHead)?;
    Ok(())
}

/// Of a head or of trailers.
pub(crate) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.put_slice(part);
    }
}
