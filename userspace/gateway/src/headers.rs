//! Headers of requests and responses that pass. PURE.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue,
    SERVER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Version};

use crate::config::Protocol;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// They belong to one connection (RFC 9110, 7.6.1).
static HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];
/// Only this gateway says who the client is.
static OWN: [HeaderName; 6] =
    [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT, REAL_IP];
/// Fields that a request gets here: [`OWN`] and a host.
const ADDED_FIELDS: usize = 7;
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const NAME: HeaderValue = HeaderValue::from_static("skep");

/// Who sends a request, and where it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) client: IpAddr,
    /// Its text, see [`address_of`].
    pub(crate) address: &'a HeaderValue,
    pub(crate) port: u16,
    pub(crate) is_tls: bool,
    /// Host and port as the client wrote them.
    pub(crate) authority: &'a HeaderValue,
}

/// A client's address as headers have it.
pub(crate) fn address_of(client: IpAddr) -> HeaderValue {
    HeaderValue::try_from(client.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The protocol that a request switches to. A switch to h2c is not passed on: an endpoint that takes it would answer requests past the
/// routes.
pub(crate) fn switch_of(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let to = headers.get(UPGRADE).filter(|_| version == Version::HTTP_11)?;
    let mut said = headers.get_all(CONNECTION).iter().flat_map(tokens);
    let asks = said.any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let is_one_name = to.as_bytes().iter().all(|byte| !b", ".contains(byte));
    (asks && is_one_name && !to.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| to.clone())
}

/// Whether a request is a call of gRPC, which needs HTTP/2.
pub(crate) fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_2
        && headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Turns the headers of a client's request to those for an endpoint, without a host.
pub(crate) fn to_endpoint(
    headers: &mut HeaderMap,
    origin: &Origin<'_>,
    protocol: Protocol,
    switch: Option<HeaderValue>,
) {
    let takes_trailers = protocol == Protocol::H2c
        && headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    // At once, not in steps.
    headers.reserve(ADDED_FIELDS);
    remove_hop_by_hop(headers);
    // The gateway itself asks the client to go on, when the endpoint takes the body.
    headers.remove(EXPECT);
    remove_forged(headers);
    join_cookies(headers);
    set_origin(headers, origin);
    if takes_trailers {
        headers.insert(TE, TRAILERS);
    }
    headers.remove(HOST);
    if let Some(switch) = switch {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, switch);
    }
}

/// Turns the headers of an endpoint's response to those for the client. A switch of protocols keeps its own.
pub(crate) fn to_client(headers: &mut HeaderMap, version: Version, switched: bool) {
    let switch = headers.get(UPGRADE).filter(|_| switched).cloned();
    remove_hop_by_hop(headers);
    if version == Version::HTTP_2 {
        // Trailers need no announcement there, and hyper adds none.
        headers.remove(TRAILER);
    }
    headers.entry(SERVER).or_insert(NAME);
    if let Some(switch) = switch {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, switch);
    }
}

/// Removes what must not come behind a body (RFC 9110, 6.5.1): lengths, what belongs to a connection, and who the client is.
pub(crate) fn trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_forged(trailers);
    for name in [CONTENT_LENGTH, EXPECT, HOST, TRAILER].iter().chain(&OWN) {
        trailers.remove(name);
    }
}

pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Usually there are few, and a look-up of each costs more than this.
    let mut found: Vec<HeaderName> =
        headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned().collect();
    if found.contains(&CONNECTION) {
        let named = headers.get_all(CONNECTION).iter().flat_map(tokens);
        found.extend(named.filter_map(|token| HeaderName::from_bytes(token).ok()));
    }
    for name in found {
        headers.remove(name);
    }
}

/// Some servers take an underscore for a dash: such a header must not say who the client is either.
fn remove_forged(headers: &mut HeaderMap) {
    let is_own = |name: &HeaderName| {
        let text = name.as_str();
        text.contains('_') && OWN.iter().any(|own| own.as_str() == text.replace('_', "-"))
    };
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

/// HTTP/2 may have a field for each cookie, HTTP/1.1 has one for all (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn set_origin(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let Origin { client, address, port, is_tls, authority } = *origin;
    let proto = if is_tls { "https" } else { "http" };
    headers.insert(FORWARDED_HOST, authority.clone());
    headers.insert(FORWARDED_FOR, address.clone());
    headers.insert(REAL_IP, address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(FORWARDED_PORT, HeaderValue::from(port));
    let is_ipv6 = client.to_canonical().is_ipv6();
    let (open, close) = if is_ipv6 { ("\"[", "]\"") } else { ("", "") };
    let [address, host] = [address, authority].map(|value| value.to_str().unwrap_or_default());
    let forwarded = ["for=", open, address, close, ";host=\"", host, "\";proto=", proto].concat();
    match HeaderValue::try_from(forwarded) {
        Ok(forwarded) => drop(headers.insert(FORWARDED, forwarded)),
        Err(_) => drop(headers.remove(FORWARDED)),
    }
}

/// The members of a list, as they are written.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(parse).collect()
    }

    fn to_endpoint_from(headers: &mut HeaderMap, client: &str, protocol: Protocol) {
        let client = client.parse().unwrap();
        let (address, authority) = (address_of(client), &HeaderValue::from_static("a.com:8443"));
        let origin = Origin { client, address: &address, port: 443, is_tls: true, authority };
        to_endpoint(headers, &origin, protocol, None);
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ]);
        to_endpoint_from(&mut headers, "192.0.2.1", Protocol::Http1);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-port",
                "x-forwarded-proto",
                "x-kept",
                "x-real-ip"
            ]
        );
    }

    #[test]
    fn a_client_does_not_say_who_it_is() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
        ]);
        to_endpoint_from(&mut headers, "192.0.2.1", Protocol::Http1);
        assert!(headers.values().all(|value| value != "10.0.0.1" && value != "for=10.0.0.1"), "{headers:?}");
        assert_eq!(headers["forwarded"], "for=192.0.2.1;host=\"a.com:8443\";proto=https");
        to_endpoint_from(&mut headers, "2001:db8::1", Protocol::Http1);
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";host=\"a.com:8443\";proto=https");
    }

    #[test]
    fn http_2_has_no_host_and_keeps_trailers() {
        let mut headers =
            map(&[("host", "a.com"), ("te", "trailers, deflate"), ("cookie", "a=1"), ("cookie", "b=2")]);
        to_endpoint_from(&mut headers, "192.0.2.1", Protocol::H2c);
        assert_eq!(
            (headers.get("host"), &headers["te"], &headers["cookie"]),
            (None, &TRAILERS, &HeaderValue::from_static("a=1; b=2"))
        );
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
    }

    #[test]
    fn only_a_named_protocol_that_is_not_h2c_is_switched_to() {
        for (connection, upgrade, switches) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, upgrade", "SPDY/3.1", true),
            ("upgrade", "h2c", false),
            ("upgrade", "H2C", false),
            ("upgrade", "websocket, h2c", false),
            ("close", "websocket", false),
        ] {
            let headers = map(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(switch_of(Version::HTTP_11, &headers).is_some(), switches, "{connection} {upgrade}");
            assert_eq!(switch_of(Version::HTTP_10, &headers), None);
        }
    }
}
