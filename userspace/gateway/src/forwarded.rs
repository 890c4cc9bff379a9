//! The fields that inform an endpoint of who sends a request and where it arrived (RFC 7239, and the older ones). PURE.

use std::net::IpAddr;

use bytes::BytesMut;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue, InvalidHeaderValue};

use crate::http_1::write_field;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Only this gateway says who the client is.
static NAMES: [HeaderName; 6] =
    [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT, REAL_IP];

/// The requests of a connection for one host have the same, so it is made once for them.
#[derive(Debug)]
pub(crate) struct Forwarded {
    port: u16,
    /// Host and port as the client wrote them.
    authority: HeaderValue,
    fields: [(HeaderName, HeaderValue); NAMES.len()],
    /// The fields as lines of a head.
    lines: BytesMut,
}

impl Forwarded {
    /// `port`: the one that the client connected to.
    pub(crate) fn new(
        client: IpAddr,
        port: u16,
        is_tls: bool,
        authority: &str,
    ) -> Result<Forwarded, InvalidHeaderValue> {
        let client = client.to_canonical();
        let proto = if is_tls { "https" } else { "http" };
        let (open, close) = if client.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
        let standard = format!("for={open}{client}{close};host=\"{authority}\";proto={proto}");
        let address = HeaderValue::try_from(client.to_string())?;
        let authority = HeaderValue::from_str(authority)?;
        let fields = [
            (FORWARDED_HOST, authority.clone()),
            (FORWARDED_FOR, address.clone()),
            (REAL_IP, address),
            (FORWARDED_PROTO, HeaderValue::from_static(proto)),
            (FORWARDED_PORT, HeaderValue::from(port)),
            (FORWARDED, HeaderValue::try_from(standard)?),
        ];
        let mut lines = BytesMut::new();
        for (name, value) in &fields {
            write_field(name, value, &mut lines);
        }
        Ok(Forwarded { port, authority, fields, lines })
    }

    /// Whether it is that of another request of the same connection.
    pub(crate) fn is_of(&self, port: u16, authority: &str) -> bool {
        self.port == port && self.authority == authority
    }

    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        // At once, not in steps.
        headers.reserve(self.fields.len());
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
    }
}

/// Whether a field says who the client is. Some servers take an underscore for a dash, so such a name counts too.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    let same = |(byte, own): (&u8, &u8)| byte == own || (*byte, *own) == (b'_', b'-');
    let name = name.as_str().as_bytes();
    NAMES
        .iter()
        .map(|own| own.as_str().as_bytes())
        .any(|own| name.len() == own.len() && name.iter().zip(own).all(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_fields_say_the_same() {
        for (client, wanted) in [
            ("192.0.2.1", "for=192.0.2.1;host=\"a.com:8443\";proto=https"),
            ("::ffff:192.0.2.1", "for=192.0.2.1;host=\"a.com:8443\";proto=https"),
            ("2001:db8::1", "for=\"[2001:db8::1]\";host=\"a.com:8443\";proto=https"),
        ] {
            let forwarded = Forwarded::new(client.parse().unwrap(), 443, true, "a.com:8443").unwrap();
            let mut headers = HeaderMap::new();
            forwarded.add_to(&mut headers);
            assert_eq!(
                (headers.len(), &headers["forwarded"]),
                (NAMES.len(), &HeaderValue::from_static(wanted))
            );
            let lines =
                headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
            let mut lines: Vec<String> = lines.collect();
            let mut said: Vec<&str> =
                str::from_utf8(forwarded.lines()).unwrap().split_inclusive('\n').collect();
            lines.sort_unstable();
            said.sort_unstable();
            assert_eq!(said, lines);
        }
    }

    #[test]
    fn they_are_of_one_host_and_port() {
        let forwarded = Forwarded::new("192.0.2.1".parse().unwrap(), 80, false, "a.com").unwrap();
        assert!(forwarded.is_of(80, "a.com"));
        assert!(!forwarded.is_of(81, "a.com") && !forwarded.is_of(80, "a.com:80"));
    }
}
