//! Tokens of issuers beyond the cluster (OpenID Connect): verified by the keys that the issuer publishes, and mapped to a user
//! as the configuration says.

mod claims;
mod discovery;
mod jws;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::auth_config::{AuthenticationConfig, IssuerConfig};
use crate::dial::Dialer;
use crate::https::HttpsClient;
use crate::identity::Identity;
use crate::tls::{self, TlsError, Trust};
use discovery::{DiscoveryError, IssuerKeys};
pub(crate) use jws::TokenError;
use jws::{Algorithm, Jws};

/// All algorithms that a token may be signed with.
pub(crate) const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
/// Between two looks at whether all issuers have answered.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// Issuers by their URL. Their tasks end with it.
#[derive(Default)]
pub(crate) struct Issuers(HashMap<String, Issuer>);

struct Issuer {
    config: IssuerConfig,
    algorithms: Vec<Algorithm>,
    keys: IssuerKeys,
}

/// The user of a token, and when it expires in seconds since 1970.
pub(crate) struct Verified {
    pub(crate) identity: Identity,
    pub(crate) expires: i64,
}

impl Issuers {
    /// Starts to fetch keys of all issuers; waits for none. `algorithms`: names among [`ALGORITHMS`].
    pub(crate) fn start(
        config: AuthenticationConfig,
        algorithms: &[String],
        dialer: &Dialer,
    ) -> Result<Issuers, TlsError> {
        let algorithms: Vec<Algorithm> = algorithms.iter().filter_map(|name| Algorithm::of(name)).collect();
        let issuers = config.issuers.into_iter().map(|config| {
            let ca = config.certificate_authority.as_bytes();
            let trust = if ca.is_empty() { Trust::System } else { Trust::Bundle(ca, "an issuer's CA") };
            let client = HttpsClient::new(dialer.clone(), tls::client(trust, None)?, None);
            let keys = IssuerKeys::start(config.url.clone(), config.discovery_url.clone(), client);
            Ok((config.url.clone(), Issuer { config, algorithms: algorithms.clone(), keys }))
        });
        issuers.collect::<Result<_, _>>().map(Issuers)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until every issuer has answered once; the error of one of those that have not after `limit`.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), DiscoveryError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let health = self.0.values().try_for_each(|issuer| issuer.keys.health());
            if health.is_ok() || tokio::time::Instant::now() >= deadline {
                return health;
            }
            tokio::time::sleep(HEALTH_INTERVAL).await;
        }
    }

    /// `None` for a token of no issuer here.
    pub(crate) async fn verify(&self, token: &str) -> Option<Result<Verified, TokenError>> {
        if self.is_empty() {
            return None;
        }
        let jws = Jws::split(token)?;
        let claims = jws.claims()?;
        let issuer = self.0.get(claims.get("iss")?.as_str()?)?;
        let verified = issuer.verify(token, &jws, &claims).await;
        if let Err(error) = &verified {
            // Texts have no part of the token. One that the issuer signed is worth a line by default.
            match error {
                TokenError::Claims(_) => {
                    tracing::warn!(issuer = issuer.config.url, %error, "map a token to a user failed")
                }
                _ => tracing::debug!(issuer = issuer.config.url, %error, "verify a token failed"),
            }
        }
        Some(verified)
    }
}

impl Issuer {
    /// The cheap checks come first: a token that cannot be valid never makes the server ask the issuer.
    async fn verify(
        &self,
        token: &str,
        jws: &Jws<'_>,
        claims: &Map<String, Value>,
    ) -> Result<Verified, TokenError> {
        jws::check_audience(claims, &self.config.audiences)?;
        let expires = jws::check_times(claims, Timestamp::now().as_second())?;
        let header = jws.header()?;
        if !self.algorithms.contains(&header.algorithm) {
            return Err(TokenError::Algorithm);
        }
        let (signed, signature) = jws.signed(token)?;
        let keys = self.keys.current().ok_or(TokenError::NotInitialized)?;
        if !keys.verifies(&header, signed, &signature) {
            let newer = self.keys.newer().await.ok_or(TokenError::Signature)?;
            if !newer.verifies(&header, signed, &signature) {
                return Err(TokenError::Signature);
            }
        }
        let identity = claims::identity(&self.config, claims)?;
        Ok(Verified { identity, expires })
    }
}
