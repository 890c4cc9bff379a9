//! Headers of requests and responses that pass. PURE.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, SERVER, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Version};

use crate::config::Protocol;
use crate::forwarded::is_own;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// They frame a message, and are the gateway's.
static FRAMING: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const NAME: HeaderValue = HeaderValue::from_static("skep");

/// Whether a header frames a message, so that no route changes it.
pub(crate) fn frames_message(name: &HeaderName) -> bool {
    FRAMING.contains(name)
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

/// Turns the headers of a client's request to those for an endpoint, without a host and without who sends it.
pub(crate) fn to_endpoint(headers: &mut HeaderMap, protocol: Protocol, switch: Option<HeaderValue>) {
    let takes_trailers = protocol == Protocol::H2c
        && headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    // The gateway itself asks the client to go on, when the endpoint takes the body.
    remove(headers, |name| is_hop_by_hop(name) || is_own(name) || *name == EXPECT);
    headers.remove(HOST);
    join_cookies(headers);
    if takes_trailers {
        headers.insert(TE, TRAILERS);
    }
    if let Some(switch) = switch {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, switch);
    }
}

/// Turns the headers of an endpoint's response to those for the client. A switch of protocols keeps its own.
pub(crate) fn to_client(headers: &mut HeaderMap, version: Version, switched: bool) {
    let switch = if switched { headers.get(UPGRADE).cloned() } else { None };
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
    remove(trailers, |name| {
        let is_of_head = matches!(*name, CONTENT_LENGTH | EXPECT | HOST | TRAILER);
        is_of_head || is_hop_by_hop(name) || is_own(name)
    });
}

pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove(headers, is_hop_by_hop);
}

/// Whether a field belongs to one connection (RFC 9110, 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | TE | TRANSFER_ENCODING | UPGRADE => true,
        _ => *name == KEEP_ALIVE || *name == PROXY_CONNECTION,
    }
}

/// Removes fields, and those that `Connection` names. Usually there are few, and a look-up of each name that is unwanted costs more.
fn remove(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let mut found: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    if found.contains(&CONNECTION) {
        let named = headers.get_all(CONNECTION).iter().flat_map(tokens).filter(|token| !is_option(token));
        found.extend(named.filter_map(|token| HeaderName::from_bytes(token).ok()));
    }
    for name in found {
        headers.remove(name);
    }
}

/// Whether a word of `Connection` names no other field.
fn is_option(token: &[u8]) -> bool {
    [b"close".as_slice(), b"keep-alive"].iter().any(|option| token.eq_ignore_ascii_case(option))
}

/// HTTP/2 may have a field for each cookie, HTTP/1.1 has one for all (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies = headers.get_all(COOKIE);
    if cookies.iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
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
        to_endpoint(&mut headers, Protocol::Http1, None);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-kept"]);
    }

    #[test]
    fn a_client_does_not_say_who_it_is() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
        ]);
        to_endpoint(&mut headers, Protocol::Http1, None);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn http_2_has_no_host_and_keeps_trailers() {
        let mut headers =
            map(&[("host", "a.com"), ("te", "trailers, deflate"), ("cookie", "a=1"), ("cookie", "b=2")]);
        to_endpoint(&mut headers, Protocol::H2c, None);
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
