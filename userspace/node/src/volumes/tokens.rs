//! Service account tokens for projected volumes.
//!
//! In: the token projections of a volume. Out: tokens from the API server's TokenRequest, renewed at four fifths of their
//! lifetime.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, Volume};
use kube::api::PostParams;
use kube::{Api, Client};

use super::payload::{Tokens, token_projections};
use crate::names;

const DEFAULT_LIFETIME_SECONDS: i64 = 3600;
/// Bounds how often tokens are requested.
const MIN_LIFETIME: SignedDuration = SignedDuration::from_secs(10);

/// Tokens in use, by pod uid, volume and path.
pub(super) struct TokenStore {
    client: Client,
    issued: Mutex<HashMap<(String, String, String), Issued>>,
}

#[derive(Clone)]
struct Issued {
    token: String,
    renew_at: Timestamp,
}

impl TokenStore {
    pub(super) fn new(client: Client) -> Self {
        Self { client, issued: Mutex::default() }
    }

    /// The volume's tokens by path, and when the first of them must be renewed.
    pub(super) async fn issue(
        &self,
        pod: &Pod,
        volume: &Volume,
    ) -> Result<(Tokens, Option<Timestamp>), kube::Error> {
        let (_, _, uid) = names::of(pod);
        let mut tokens = Tokens::new();
        let mut renew_at: Option<Timestamp> = None;
        for projection in token_projections(volume) {
            let key = (uid.clone(), volume.name.clone(), projection.path.clone());
            let held = self.lock().get(&key).filter(|i| i.renew_at > Timestamp::now()).cloned();
            let issued = match held {
                Some(issued) => issued,
                None => {
                    let life = projection.expiration_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS);
                    let fresh = self.request(pod, projection.audience.as_deref(), life).await?;
                    self.lock().insert(key, fresh.clone());
                    fresh
                }
            };
            renew_at = Some(renew_at.map_or(issued.renew_at, |r| r.min(issued.renew_at)));
            tokens.insert(projection.path.clone(), issued.token);
        }
        Ok((tokens, renew_at))
    }

    async fn request(&self, pod: &Pod, audience: Option<&str>, life: i64) -> Result<Issued, kube::Error> {
        let (name, namespace, uid) = names::of(pod);
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
        let account = account.filter(|a| !a.is_empty()).unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.filter(|a| !a.is_empty()).map(|a| vec![a.to_owned()]),
                expiration_seconds: Some(life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(name),
                    uid: Some(uid),
                }),
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let now = Timestamp::now();
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        let requested = SignedDuration::from_secs(life);
        let life = status.expiration_timestamp.map_or(requested, |at| at.0.duration_since(now));
        let life = life.max(MIN_LIFETIME);
        Ok(Issued { token: status.token.unwrap_or_default(), renew_at: now + life * 4 / 5 })
    }

    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|(pod, _, _), _| pod != uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String, String), Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
