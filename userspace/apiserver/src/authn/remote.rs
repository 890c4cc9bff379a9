//! Tokens that this server did not issue: of issuers in the authentication configuration, then of the token webhook.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::issuers::{Issuers, Verified};
use super::token_webhook::{Found, TokenWebhook};
use crate::expiring::{Expiring, key_of};
use crate::identity::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED};
use crate::lock::RwLock;

/// How long a verified token is known, as upstream.
const VERIFIED_FOR: Duration = Duration::from_secs(10);
const MAX_VERIFIED_TOKENS: usize = 16_384;

pub(crate) struct RemoteTokens {
    verifier: RwLock<Arc<Verifier>>,
    webhook: Option<TokenWebhook>,
}

/// Issuers, and the tokens of theirs that were verified: these go with them.
struct Verifier {
    issuers: Issuers,
    verified: Expiring<Identity>,
}

impl Verifier {
    fn new(issuers: Issuers) -> Arc<Verifier> {
        Arc::new(Verifier { issuers, verified: Expiring::new(MAX_VERIFIED_TOKENS) })
    }

    async fn identity(&self, token: &str) -> Option<Identity> {
        let (key, now) = (key_of([token]), Instant::now());
        if let Some(known) = self.verified.get(&key, now) {
            return Some(known);
        }
        let Verified { identity, expires } = self.issuers.verify(token).await?.ok()?;
        let left = u64::try_from(expires.saturating_sub(Timestamp::now().as_second())).unwrap_or_default();
        self.verified.insert(
            key,
            identity.clone(),
            VERIFIED_FOR.min(Duration::from_secs(left)),
            Instant::now(),
        );
        Some(identity)
    }
}

impl RemoteTokens {
    pub(super) fn new(issuers: Issuers, webhook: Option<TokenWebhook>) -> RemoteTokens {
        RemoteTokens { verifier: RwLock::new(Verifier::new(issuers)), webhook }
    }

    /// Whether no token can be one of these.
    pub(crate) fn is_empty(&self) -> bool {
        self.webhook.is_none() && self.verifier.read().issuers.is_empty()
    }

    /// Replaces the issuers. Requests that are being authenticated end with those before.
    pub(super) fn set_issuers(&self, issuers: Issuers) {
        *self.verifier.write() = Verifier::new(issuers);
    }

    /// The user of a token, and those of the wanted audiences that it is for. `own`: the audience of this server, which all
    /// tokens of issuers are for.
    pub(crate) async fn identity(&self, token: &str, wanted: &[String], own: &str) -> Found {
        let verifier = self.verifier.read().clone();
        let own = [own.to_owned()];
        let wanted = if wanted.is_empty() { &own } else { wanted };
        let found = match verifier.identity(token).await.filter(|_| wanted.contains(&own[0])) {
            Some(identity) => Some((identity, own.to_vec())),
            None => match &self.webhook {
                Some(webhook) => webhook.identity(token, wanted, &own).await,
                None => None,
            },
        };
        found.map(|(identity, audiences)| (with_group(identity), audiences))
    }
}

/// Adds the group of all who are authenticated, unless the user is one who is not.
fn with_group(mut identity: Identity) -> Identity {
    let has = |group: &str| identity.groups.iter().any(|own| own == group);
    if identity.user != ANONYMOUS && !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        identity.groups.push(AUTHENTICATED.to_owned());
    }
    identity
}
