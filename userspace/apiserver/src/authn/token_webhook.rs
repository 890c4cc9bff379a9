//! Tokens that a webhook verifies: it gets a TokenReview, and its answer stays good for a while.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dial::Dialer;
use crate::expiring::{Expiring, key_of};
use crate::identity::Identity;
use crate::kubeconfig::{KubeconfigError, RemoteServer};
use crate::webhook_call::{CallError, post_review};

const GROUP: &str = "authentication.k8s.io";
/// Of one attempt.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWERS: usize = 16_384;

/// How the webhook is reached.
#[derive(Clone, Debug)]
pub struct TokenWebhookOptions {
    pub kubeconfig: PathBuf,
    /// Of TokenReview: `v1` or `v1beta1`.
    pub version: String,
    /// How long answers stay good; zero: not at all.
    pub cache_ttl: Duration,
}

/// A user, and the audiences that the token is for.
pub(super) type Found = Option<(Identity, Vec<String>)>;

pub(super) struct TokenWebhook {
    server: RemoteServer,
    api_version: String,
    cache_ttl: Duration,
    answers: Expiring<Found>,
}

impl TokenWebhook {
    pub(super) fn new(
        options: &TokenWebhookOptions,
        dialer: &Dialer,
    ) -> Result<TokenWebhook, KubeconfigError> {
        Ok(TokenWebhook {
            server: RemoteServer::read(&options.kubeconfig, dialer)?,
            api_version: format!("{GROUP}/{}", options.version),
            cache_ttl: options.cache_ttl,
            answers: Expiring::new(MAX_ANSWERS),
        })
    }

    /// The user of a token for one of the audiences. An answer that cannot be read, or none, is no user. `own`: the audiences of
    /// a token whose webhook names none.
    pub(super) async fn identity(&self, token: &str, audiences: &[String], own: &[String]) -> Found {
        let texts = std::iter::once(token).chain(audiences.iter().map(String::as_str));
        let (key, now) = (key_of(texts), Instant::now());
        if let Some(known) = self.answers.get(&key, now) {
            return known;
        }
        let review = json!({
            "apiVersion": self.api_version, "kind": "TokenReview", "spec": {"token": token, "audiences": audiences},
        });
        let found = match self.ask(&review).await {
            Ok(status) => read(&status, audiences, own),
            Err(error) => {
                tracing::warn!(%error, "token webhook failed");
                return None;
            }
        };
        self.answers.insert(key, found.clone(), self.cache_ttl, Instant::now());
        found
    }

    async fn ask(&self, review: &Value) -> Result<Value, CallError> {
        let body = Bytes::from(review.to_string());
        post_review(&self.server, &self.api_version, "TokenReview", body, TIMEOUT).await
    }
}

fn read(status: &Value, wanted: &[String], own: &[String]) -> Found {
    let texts = |value: &Value| -> Option<Vec<String>> {
        if value.is_null() { Some(Vec::new()) } else { serde_json::from_value(value.clone()).ok() }
    };
    if status["authenticated"] != true {
        return None;
    }
    let of_token = texts(&status["audiences"]).map(|all| if all.is_empty() { own.to_vec() } else { all })?;
    let common: Vec<String> = wanted.iter().filter(|audience| of_token.contains(audience)).cloned().collect();
    if common.is_empty() {
        return None;
    }
    let user = &status["user"];
    let identity = Identity {
        user: user["username"].as_str().filter(|name| !name.is_empty())?.to_owned(),
        groups: texts(&user["groups"])?,
        uid: user["uid"].as_str().unwrap_or_default().to_owned(),
        extra: match &user["extra"] {
            Value::Null => Default::default(),
            extra => serde_json::from_value(extra.clone()).ok()?,
        },
    };
    Some((identity, common))
}
