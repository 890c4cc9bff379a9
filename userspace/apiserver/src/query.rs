//! Query parameters, and the percent-decoding of queries and paths. PURE.

use http::Uri;

/// Query parameters, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Query {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is present, with a value or without.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()), Some("true" | "1"))
    }
}

/// Decodes percent-encoded bytes, and in a query a plus to a space. Invalid sequences stay.
pub(crate) fn percent_decode(text: &str, query: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if query => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let digits: Option<u8> = rest.next_two().and_then(|two| {
                    std::str::from_utf8(&two).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
                });
                match digits {
                    Some(decoded) => {
                        out.push(decoded);
                        bytes.nth(1);
                    }
                    None => out.push(byte),
                }
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Takes two bytes from an iterator.
trait TwoBytes {
    fn next_two(self) -> Option<[u8; 2]>;
}

impl TwoBytes for std::str::Bytes<'_> {
    fn next_two(mut self) -> Option<[u8; 2]> {
        Some([self.next()?, self.next()?])
    }
}
