//! Authentication: the identity behind a client certificate, a token or an in-process call; anonymous without any.

mod bootstrap;
mod certificate;
mod impersonation;
pub(crate) mod token;

use std::sync::Arc;

use axum::extract::Request;
use http::header::AUTHORIZATION;
use skep_api::Status;

use crate::cache::Caches;
use crate::config::TokenKeys;
use crate::identity::Identity;

pub(crate) use certificate::PeerCertificate;
pub(crate) use impersonation::{impersonated, wanted_user};

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
