//! The fields of a head or of trailers: parsed where they came, kept with the memory that they are in. PURE.

use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Names, and where their values are.
pub(super) struct Fields(Vec<(HeaderName, Range<usize>)>);

impl Fields {
    /// `input`: what they were parsed from.
    pub(super) fn of(input: &[u8], parsed: &[httparse::Header<'_>]) -> Result<Fields, Malformed> {
        let start = input.as_ptr().addr();
        let field = |header: &httparse::Header<'_>| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed::Header)?;
            let at = header.value.as_ptr().addr().saturating_sub(start);
            // An empty value may be anywhere.
            let range = if header.value.is_empty() { 0..0 } else { at..at + header.value.len() };
            Ok((name, range))
        };
        parsed.iter().map(field).collect::<Result<_, _>>().map(Fields)
    }

    /// `whole`: the same bytes. Values share its memory.
    pub(super) fn take(self, whole: &Bytes) -> Result<HeaderMap, Malformed> {
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for (name, range) in self.0 {
            let value = HeaderValue::from_maybe_shared(whole.slice(range)).map_err(|_| Malformed::Header)?;
            headers.try_append(name, value).map_err(|_| Malformed::LargeHead)?;
        }
        Ok(headers)
    }
}
