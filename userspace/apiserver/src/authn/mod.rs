//! Authentication: the identity behind a client certificate, a token or an in-process call; anonymous without any.

mod authentication_error;
mod bootstrap;
mod certificate;
mod impersonation;
mod issuers;
mod reload;
mod remote;
pub(crate) mod token;
mod token_keys;
mod token_webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use http::header::AUTHORIZATION;
use skep_api::Status;

use crate::cache::Caches;
use crate::identity::Identity;
use crate::state::Inner;
use token::Tokens;

pub use authentication_error::AuthenticationError;
pub(crate) use certificate::PeerCertificate;

pub(crate) use impersonation::{impersonated, wanted_user};
pub(crate) use reload::Authentication;
pub(crate) use remote::RemoteTokens;
pub use token_keys::TokenKeys;
pub use token_webhook::TokenWebhookOptions;

/// How long other servers have to say whose token it is, in all.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What a request proves its requester with.
pub(crate) enum Credential {
    /// Nothing that another server must be asked about.
    Known(Result<Arc<Identity>, Status>),
    /// A token that this server did not issue.
    Token(String),
}

/// The requester before impersonation.
pub(crate) fn requester(server: &Inner, request: &Request) -> Credential {
    match request.extensions().get::<Arc<Identity>>() {
        Some(identity) => Credential::Known(Ok(identity.clone())),
        None => from_credentials(server, request),
    }
}

/// As upstream, a certificate takes precedence over a token; an invalid credential is refused even where anonymous access
/// is allowed.
fn from_credentials(server: &Inner, request: &Request) -> Credential {
    let certificate = request.extensions().get::<Arc<PeerCertificate>>();
    if let Some(identity) = certificate.and_then(|certificate| certificate.identity()) {
        return Credential::Known(Ok(identity.clone()));
    }
    if let Some(header) = request.headers().get(AUTHORIZATION) {
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        let Some(token) = token else { return Credential::Known(Err(Status::unauthorized())) };
        return match by_own_token(&server.storage.caches, &server.tokens, token, &[]) {
            Some((identity, _)) => Credential::Known(Ok(Arc::new(identity))),
            None if server.remote_tokens.is_empty() => Credential::Known(Err(Status::unauthorized())),
            None => Credential::Token(token.to_owned()),
        };
    }
    let allowed = certificate.is_none() && server.anonymous.allows(request.uri().path());
    Credential::Known(if allowed { Ok(Arc::new(Identity::anonymous())) } else { Err(Status::unauthorized()) })
}

/// The requester by a token that this server did not issue.
pub(crate) async fn by_token(server: &Inner, token: &str) -> Result<Arc<Identity>, Status> {
    let issuer = server.tokens.issuer();
    let found = tokio::time::timeout(MAX_WAIT, server.remote_tokens.identity(token, &[], &issuer)).await;
    found.ok().flatten().map(|(identity, _)| Arc::new(identity)).ok_or_else(Status::unauthorized)
}

/// The identity of a token, and those of the audiences that it is for; without audiences, it must be for this server. Own tokens
/// come first: they need no other server.
pub(crate) async fn by_token_for(
    server: &Inner,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    match by_own_token(&server.storage.caches, &server.tokens, token, audiences) {
        Some(found) => Some(found),
        None => server.remote_tokens.identity(token, audiences, &server.tokens.issuer()).await,
    }
}

/// The identity of a token that this server issued.
fn by_own_token(
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
