//! Authentication: the identity behind a client certificate, a token or an in-process call; anonymous without any.

mod bootstrap;
mod certificate;
pub(crate) mod token;

use std::sync::Arc;

use axum::extract::Request;
use http::header::AUTHORIZATION;
use skep_api::Status;

use crate::authz::Attributes;
use crate::cache::Caches;
use crate::config::TokenKeys;
use crate::identity::{AUTHENTICATED, Identity};

pub(crate) use certificate::PeerCertificate;

/// The requester before impersonation.
pub(crate) fn requester(caches: &Caches, keys: &TokenKeys, request: &Request) -> Result<Identity, Status> {
    match request.extensions().get::<Identity>() {
        Some(identity) => Ok(identity.clone()),
        None => from_credentials(caches, keys, request),
    }
}

/// As upstream, a certificate takes precedence over a token; an invalid credential is refused even where anonymous access
/// is allowed.
fn from_credentials(caches: &Caches, keys: &TokenKeys, request: &Request) -> Result<Identity, Status> {
    let certificate = request.extensions().get::<Arc<PeerCertificate>>();
    if let Some(identity) = certificate.and_then(|certificate| certificate.identity()) {
        return Ok(identity.clone());
    }
    if let Some(header) = request.headers().get(AUTHORIZATION) {
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        return token.and_then(|token| by_token(caches, keys, token)).ok_or_else(Status::unauthorized);
    }
    if certificate.is_some() { Err(Status::unauthorized()) } else { Ok(Identity::anonymous()) }
}

fn by_token(caches: &Caches, keys: &TokenKeys, token: &str) -> Option<Identity> {
    by_token_for(caches, keys, token, None)
}

/// The identity of a token issued for the audience, or for this server if that is `None`.
pub(crate) fn by_token_for(
    caches: &Caches,
    keys: &TokenKeys,
    token: &str,
    audience: Option<&str>,
) -> Option<Identity> {
    bootstrap::identity(caches, token).or_else(|| token::identity(caches, keys, token, audience))
}

/// Applies the `Impersonate-*` headers if the requester has the right to impersonate.
pub(crate) fn impersonated(
    caches: &Caches,
    request: &Request,
    identity: Identity,
) -> Result<Identity, Status> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let groups: Vec<String> = request
        .headers()
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let Some(user) = header("impersonate-user") else {
        if groups.is_empty() {
            return Ok(identity);
        }
        return Err(Status::bad_request("requested groups without impersonating a user"));
    };
    may_impersonate(caches, &identity, "users", user)?;
    for group in &groups {
        may_impersonate(caches, &identity, "groups", group)?;
    }
    let mut impersonated = Identity { user: user.to_owned(), groups, ..Identity::default() };
    if let Some(account) = user.strip_prefix("system:serviceaccount:")
        && impersonated.groups.is_empty()
        && let Some((namespace, _)) = account.split_once(':')
    {
        impersonated.groups = token::account_groups(namespace);
    }
    if user != "system:anonymous" && !impersonated.groups.iter().any(|group| group == AUTHENTICATED) {
        impersonated.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(impersonated)
}

fn may_impersonate(caches: &Caches, identity: &Identity, resource: &str, name: &str) -> Result<(), Status> {
    let attributes = Attributes {
        user: &identity.user,
        groups: &identity.groups,
        verb: "impersonate",
        group: "",
        resource,
        subresource: "",
        name,
        namespace: "",
        path: "",
    };
    caches.authorizer().check(&attributes)
}
