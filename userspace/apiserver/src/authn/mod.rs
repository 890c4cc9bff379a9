//! Authentication: the identity behind a client certificate, a token or an in-process call; anonymous without any.

mod bootstrap;
mod certificate;
mod impersonation;
pub(crate) mod token;
mod token_keys;

use std::sync::Arc;

use axum::extract::Request;
use http::header::AUTHORIZATION;
use skep_api::Status;

use crate::cache::Caches;
use crate::identity::Identity;
use crate::state::Inner;
use token::Tokens;

pub(crate) use certificate::PeerCertificate;

pub(crate) use impersonation::{impersonated, wanted_user};
pub use token_keys::TokenKeys;

/// The requester before impersonation.
pub(crate) fn requester(server: &Inner, request: &Request) -> Result<Identity, Status> {
    match request.extensions().get::<Identity>() {
        Some(identity) => Ok(identity.clone()),
        None => from_credentials(server, request),
    }
}

/// As upstream, a certificate takes precedence over a token; an invalid credential is refused even where anonymous access
/// is allowed.
fn from_credentials(server: &Inner, request: &Request) -> Result<Identity, Status> {
    let certificate = request.extensions().get::<Arc<PeerCertificate>>();
    if let Some(identity) = certificate.and_then(|certificate| certificate.identity()) {
        return Ok(identity.clone());
    }
    if let Some(header) = request.headers().get(AUTHORIZATION) {
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        let caches = &server.storage.caches;
        let found = token.and_then(|token| by_token_for(caches, &server.tokens, token, &[]));
        return found.map(|(identity, _)| identity).ok_or_else(Status::unauthorized);
    }
    let refused = certificate.is_some() || !server.config.access.anonymous;
    if refused { Err(Status::unauthorized()) } else { Ok(Identity::anonymous()) }
}

/// The identity of a token, and those of the audiences that it is for; without audiences, it must be for this server.
pub(crate) fn by_token_for(
    caches: &Caches,
    tokens: &Tokens,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    let own = [tokens.issuer()];
    let wanted = if audiences.is_empty() { &own } else { audiences };
    let (identity, of_token) = match bootstrap::identity(caches, token) {
        // A bootstrap token is for this server.
        Some(identity) => (identity, own.to_vec()),
        None => tokens.identity(caches, token)?,
    };
    let common: Vec<String> = wanted.iter().filter(|audience| of_token.contains(audience)).cloned().collect();
    (!common.is_empty()).then_some((identity, common))
}
