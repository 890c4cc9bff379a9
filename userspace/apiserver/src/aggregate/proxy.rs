//! Forwards an authorised request to another API server. Headers name the user, as from upstream's front proxy.

use axum::extract::Request;
use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use skep_api::{Reason, Status};

use super::{Aggregator, Backend, EXTRA_PREFIX, GROUP_HEADER, UID_HEADER, USER_HEADER};
use crate::cache::Caches;
use crate::dial::Dialer;
use crate::identity::Identity;
use crate::reverse_proxy::{Destination, forward, forwarded_headers};

/// The OpenAPI document of the backend's version.
pub(crate) async fn openapi(
    (aggregator, caches): (&Aggregator, &Caches),
    identity: &Identity,
    group: &str,
    version: &str,
    request: &Request<()>,
) -> Option<Result<Response, Status>> {
    let backend = aggregator.table().of(group, version)?;
    let (parts, ()) = request.clone().into_parts();
    Some(
        handle(
            (&aggregator.dialer, caches),
            identity,
            &backend,
            Request::from_parts(parts, axum::body::Body::empty()),
        )
        .await,
    )
}

/// Forwards a request, in the name of the user, to a backend that is available.
pub(crate) async fn handle(
    (dialer, caches): (&Dialer, &Caches),
    identity: &Identity,
    backend: &Backend,
    request: Request,
) -> Result<Response, Status> {
    let unavailable = |why: &str| {
        Status::unavailable(format!(
            "the server is currently unable to handle the request: APIService {} is not available: {why}",
            backend.name
        ))
    };
    if let Some(why) = backend.unavailability(caches) {
        return Err(unavailable(&why));
    }
    let address =
        backend.addresses.first().ok_or_else(|| unavailable("its service has no endpoints"))?.clone();
    let security = backend.security.clone().map_err(Status::internal)?;
    let path_and_query = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut headers = forwarded_headers(request.headers());
    set_user_headers(identity, &mut headers);
    let answer = forward(dialer, Destination { security, address, path_and_query }, headers, request).await;
    let answer = answer.map_err(|why| unavailable(&format!("error trying to reach service: {why}")))?;
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return Err(Status::new(Reason::Unknown, why).with_code(502));
    }
    Ok(answer)
}

/// Replaces the `X-Remote-*` headers of the client by those of the user.
pub(crate) fn set_user_headers(identity: &Identity, headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    forged.iter().for_each(|name| drop(headers.remove(name)));
    let mut append = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    append(USER_HEADER, &identity.user);
    if !identity.uid.is_empty() {
        append(UID_HEADER, &identity.uid);
    }
    identity.groups.iter().for_each(|group| append(GROUP_HEADER, group));
    for (key, values) in &identity.extra {
        let name = format!("{EXTRA_PREFIX}{}", escaped(key));
        values.iter().for_each(|value| append(&name, value));
    }
}

/// Percent-encodes the characters that a header name must not contain.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|'
            | b'~' => {
                out.push(char::from(byte));
            }
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_set_user_headers() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-extra-scopes", "accept"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("system:masters"));
        }
        let extra = [("example.com/a b".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into();
        let identity = Identity { extra, uid: "u".into(), ..Identity::new("jane", &["dev"]) };
        set_user_headers(&identity, &mut headers);
        let all: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .filter(|header| !header.starts_with("accept"))
            .collect();
        assert_eq!(
            all,
            [
                "x-remote-user=jane",
                "x-remote-uid=u",
                "x-remote-group=dev",
                "x-remote-group=system:authenticated",
                "x-remote-extra-example.com%2fa%20b=1",
                "x-remote-extra-example.com%2fa%20b=2"
            ]
        );
    }
}
