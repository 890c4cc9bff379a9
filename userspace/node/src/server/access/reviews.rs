//! Reviews of tokens and of access, by the API server, kept for a time.
//!
//! A review is kept for as long as upstream's kubelet keeps it. Every pod of the cluster can send tokens: few reviews are under
//! way at a time, and a bounded number is kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const TOKEN_LIFETIME: Duration = Duration::from_secs(120);
const ALLOWED_LIFETIME: Duration = Duration::from_secs(300);
const DENIED_LIFETIME: Duration = Duration::from_secs(30);
const MAX_KEPT: usize = 1_024;
const MAX_UNDER_WAY: usize = 8;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Reviews {
    client: Client,
    under_way: Semaphore,
    users: Kept<[u8; 32], Option<User>>,
    access: Kept<Question, bool>,
}

/// Whom a token belongs to.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: String,
    info: UserInfo,
    /// Identifies the token, not the user: two tokens of a user may have different extra fields.
    token: [u8; 32],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    token: [u8; 32],
    verb: &'static str,
    subresource: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {} s", REVIEW_TIMEOUT.as_secs())]
    Timeout,
    #[error("the API server answered without a status")]
    NoStatus,
}

impl Reviews {
    pub(super) fn new(client: Client) -> Reviews {
        Reviews {
            client,
            under_way: Semaphore::new(MAX_UNDER_WAY),
            users: Kept::default(),
            access: Kept::default(),
        }
    }

    /// The user of the token; `None`: it is not valid.
    pub(super) async fn user(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.users.get(&digest, Instant::now()) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.create(review).await?.status.ok_or(ReviewError::NoStatus)?;
        let info = status.user.filter(|_| status.authenticated == Some(true));
        let user = info.and_then(|info| Some(User { name: info.username.clone()?, info, token: digest }));
        let now = Instant::now();
        self.users.insert(digest, user.clone(), now + TOKEN_LIFETIME, now);
        Ok(user)
    }

    /// Whether the user may do this to a subresource of the node.
    pub(super) async fn allows(
        &self,
        user: &User,
        node: &str,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, ReviewError> {
        let question = Question { token: user.token, verb, subresource };
        if let Some(known) = self.access.get(&question, Instant::now()) {
            return Ok(known);
        }
        let attributes = ResourceAttributes {
            version: Some("v1".to_owned()),
            verb: Some(verb.to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(node.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: user.info.groups.clone(),
            uid: user.info.uid.clone(),
            extra: user.info.extra.clone(),
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let status = self.create(review).await?.status.ok_or(ReviewError::NoStatus)?;
        let allowed = status.allowed && status.denied != Some(true);
        let lifetime = if allowed { ALLOWED_LIFETIME } else { DENIED_LIFETIME };
        let now = Instant::now();
        self.access.insert(question, allowed, now + lifetime, now);
        Ok(allowed)
    }

    async fn create<K>(&self, review: K) -> Result<K, ReviewError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let created = async {
            // Never closed.
            let _permit = self.under_way.acquire().await;
            Api::<K>::all(self.client.clone()).create(&PostParams::default(), &review).await
        };
        Ok(timeout(REVIEW_TIMEOUT, created).await.map_err(|_| ReviewError::Timeout)??)
    }
}

/// Answers by question, each for its time.
struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Kept(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    fn insert(&self, key: K, value: V, until: Instant, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, until)| now < *until);
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_for_its_time_and_their_number_is_bounded() {
        let (kept, now) = (Kept::default(), Instant::now());
        let until = now + Duration::from_secs(30);
        kept.insert(0, "a", until, now);
        assert_eq!((kept.get(&0, now), kept.get(&0, until)), (Some("a"), None));
        for key in 0..5_000 {
            kept.insert(key, "b", until, now);
            assert_eq!(kept.get(&key, now), Some("b"));
        }
        assert!(kept.0.lock().expect("lock").len() <= MAX_KEPT);
    }
}
