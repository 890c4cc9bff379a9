//! Service account tokens: signed, for audiences, bound to an account and often to a pod, a Secret or a node.
//!
//! A signature is verified once in ten seconds and token. What a token is bound to is looked at in every request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_api::{find, meta};

use super::token_keys::{KeySet, TokenKeys};
use crate::cache::Caches;
use crate::identity::{AUTHENTICATED, CREDENTIAL, Identity};
use crate::lock::{Lock, RwLock};
use crate::start_error::StartError;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub(super) const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// How long a verified signature is known, as upstream.
const VERIFIED_FOR: Duration = Duration::from_secs(10);
const MAX_VERIFIED_TOKENS: usize = 16_384;
/// Clocks of servers may differ by as much, as upstream.
const LEEWAY_SECONDS: i64 = 60;
/// A token outlives the end of what it is bound to by this time, for requests of a pod that ends.
const DELETED_GRACE_SECONDS: i64 = 60;

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970.
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) jti: String,
    pub(crate) sub: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
}

/// The objects without which a token is worth nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    /// With a pod it is only a statement: the pod cannot outlive its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

impl Reference {
    pub(crate) fn to(object: &Value) -> Reference {
        Reference { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
    }
}

/// Signs and verifies tokens. Keys may be replaced while it runs.
pub(crate) struct Tokens(RwLock<Arc<Verifier>>);

struct Verifier {
    keys: KeySet,
    /// By the hash of the token.
    verified: Lock<HashMap<[u8; 32], Verified>>,
}

#[derive(Clone)]
struct Verified {
    claims: Arc<Claims>,
    until: Instant,
    /// What was found out about the bound objects.
    seen: Arc<Lock<HashMap<&'static str, Seen>>>,
}

/// A bound object at a revision. An object of the same revision is not parsed again.
#[derive(Clone, Copy)]
struct Seen {
    revision: u64,
    /// Seconds since 1970; `None`: it is not being deleted.
    ends: Option<i64>,
}

impl Tokens {
    pub(crate) fn new(keys: &TokenKeys) -> Result<Tokens, StartError> {
        Ok(Tokens(RwLock::new(Arc::new(Verifier::new(keys)?))))
    }

    /// Tokens of keys that are no longer among these end at once.
    pub(crate) fn set_keys(&self, keys: &TokenKeys) -> Result<(), StartError> {
        *self.0.write() = Arc::new(Verifier::new(keys)?);
        Ok(())
    }

    fn verifier(&self) -> Arc<Verifier> {
        self.0.read().clone()
    }

    /// The issuer of tokens, and the audience of those for this server.
    pub(crate) fn issuer(&self) -> String {
        self.verifier().keys.issuer.clone()
    }

    pub(crate) fn jwks(&self) -> Value {
        self.verifier().keys.jwks()
    }

    /// Signs a token for an account; returns it with its expiry. No audience: for this server.
    pub(crate) fn sign(
        &self,
        mut audiences: Vec<String>,
        seconds: i64,
        bound: Bound,
    ) -> Result<Signed, SignError> {
        let (verifier, now) = (self.verifier(), Timestamp::now().as_second());
        if audiences.is_empty() {
            audiences.push(verifier.keys.issuer.clone());
        }
        let claims = Claims {
            iss: verifier.keys.issuer.clone(),
            aud: audiences.clone(),
            exp: now.saturating_add(seconds),
            iat: now,
            nbf: now,
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            bound,
        };
        let expires = Timestamp::from_second(claims.exp)?;
        Ok(Signed { token: verifier.keys.sign(&claims)?, audiences, expires, id: claims.jti })
    }

    /// The identity of a token, and its audiences. `None` unless it is signed by this cluster, valid now, and the objects
    /// that it is bound to exist.
    pub(crate) fn identity(&self, caches: &Caches, token: &str) -> Option<(Identity, Vec<String>)> {
        let verified = self.verifier().verified(token)?;
        let (claims, now) = (&*verified.claims, Timestamp::now().as_second());
        let in_time = claims.exp.saturating_add(LEEWAY_SECONDS) > now
            && claims.nbf.saturating_sub(LEEWAY_SECONDS) <= now;
        if !in_time || !verified.bound_objects_live(caches, now) {
            return None;
        }
        Some((identity_of(claims), claims.aud.clone()))
    }
}

/// A new token.
pub(crate) struct Signed {
    pub(crate) token: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires: Timestamp,
    pub(crate) id: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("sign a token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    #[error("expiry of a token: {0}")]
    Expiry(#[from] jiff::Error),
}

impl Verifier {
    fn new(keys: &TokenKeys) -> Result<Verifier, StartError> {
        Ok(Verifier { keys: KeySet::read(keys)?, verified: Lock::default() })
    }

    /// A token whose signature and issuer are right; nothing else of it is checked.
    fn verified(&self, token: &str) -> Option<Verified> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let now = Instant::now();
        if let Some(known) = self.verified.lock().get(&hash).filter(|known| known.until > now) {
            return Some(known.clone());
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.keys.issuer]);
        validation.set_required_spec_claims(&["iss", "exp", "aud", "sub"]);
        (validation.validate_aud, validation.validate_exp) = (false, false);
        let decode = |key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok();
        let claims = Arc::new(self.keys.candidates(token).find_map(decode)?.claims);
        let verified = Verified { claims, until: now + VERIFIED_FOR, seen: Arc::default() };
        let mut all = self.verified.lock();
        if all.len() >= MAX_VERIFIED_TOKENS {
            all.retain(|_, known| known.until > now);
        }
        if all.len() < MAX_VERIFIED_TOKENS {
            all.insert(hash, verified.clone());
        }
        Some(verified)
    }
}

impl Verified {
    fn bound_objects_live(&self, caches: &Caches, now: i64) -> bool {
        let Bound { namespace, serviceaccount, pod, secret, node } = &self.claims.bound;
        let node = node.as_ref().filter(|_| pod.is_none());
        let optional = [
            ("pods", namespace.as_str(), pod.as_ref()),
            ("secrets", namespace, secret.as_ref()),
            ("nodes", "", node),
        ];
        let lives = |plural, namespace: &str, reference: &Reference| {
            self.lives(caches, plural, namespace, reference, now).unwrap_or(false)
        };
        lives("serviceaccounts", namespace, serviceaccount)
            && optional.iter().all(|(plural, namespace, reference)| {
                reference.is_none_or(|reference| lives(*plural, namespace, reference))
            })
    }

    /// Whether the object exists with the uid, and its end is not long past.
    fn lives(
        &self,
        caches: &Caches,
        plural: &'static str,
        namespace: &str,
        reference: &Reference,
        now: i64,
    ) -> Option<bool> {
        let object = caches.get_or_404(find("", "v1", plural)?, namespace, &reference.name).ok()?;
        let known = self.seen.lock().get(plural).copied();
        let seen = match known.filter(|seen| seen.revision == object.revision) {
            Some(seen) => seen,
            None => {
                let metadata: Value = serde_json::from_str(object.metadata()).ok()?;
                if metadata["uid"] != reference.uid.as_str() {
                    return Some(false);
                }
                let ends = metadata["deletionTimestamp"].as_str();
                let ends = ends.map(|at| at.parse().map_or(0, Timestamp::as_second));
                let seen = Seen { revision: object.revision, ends };
                self.seen.lock().insert(plural, seen);
                seen
            }
        };
        Some(seen.ends.is_none_or(|ends| now < ends.saturating_add(DELETED_GRACE_SECONDS)))
    }
}

fn identity_of(claims: &Claims) -> Identity {
    let Bound { namespace, serviceaccount, pod, node, .. } = &claims.bound;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = pod {
        add(POD_NAME, &pod.name);
        add(POD_UID, &pod.uid);
    }
    if let Some(node) = node {
        add(NODE_NAME, &node.name);
        add(NODE_UID, &node.uid);
    }
    add(CREDENTIAL, &credential_id(&claims.jti));
    Identity {
        user: format!("system:serviceaccount:{namespace}:{}", serviceaccount.name),
        groups: account_groups(namespace).into_iter().chain([AUTHENTICATED.to_owned()]).collect(),
        uid: serviceaccount.uid.clone(),
        extra,
    }
}

/// How audit events and extra fields name a token.
pub(crate) fn credential_id(jti: &str) -> String {
    format!("JTI={jti}")
}

pub(super) fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// The documents by which others verify tokens: of the issuer, and of its keys (OpenID Connect Discovery 1.0).
pub(crate) fn discovery(tokens: &Tokens, server: std::net::SocketAddr) -> Value {
    let issuer = tokens.issuer();
    json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{server}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
