//! Service account tokens: signed, bound to an audience, an account and often a pod.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use skep_api::{find, meta};

use crate::cache::Caches;
use crate::config::TokenKeys;
use crate::identity::{AUTHENTICATED, Identity};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub(super) const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The claims of a new token.
pub(crate) struct Claims<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a Value,
    pub(crate) audiences: Vec<String>,
    pub(crate) seconds: i64,
    /// The token is valid only while this pod exists.
    pub(crate) pod: Option<&'a Value>,
}

/// Signs a token; returns it with its expiry.
pub(crate) fn sign(keys: &TokenKeys, claims: &Claims) -> Result<(String, Timestamp), String> {
    let now = Timestamp::now().as_second();
    let (namespace, name) = (claims.namespace, meta::name(claims.account));
    let mut bound =
        json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": meta::uid(claims.account)}});
    if let Some(pod) = claims.pod {
        bound["pod"] = json!({"name": meta::name(pod), "uid": meta::uid(pod)});
    }
    let payload = json!({
        "iss": keys.issuer, "aud": claims.audiences, "exp": now + claims.seconds, "iat": now, "nbf": now,
        "jti": uuid::Uuid::new_v4().to_string(), "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": bound,
    });
    let key = EncodingKey::from_ec_pem(keys.private.as_bytes()).map_err(|error| error.to_string())?;
    let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &payload, &key)
        .map_err(|error| error.to_string())?;
    let expires = Timestamp::from_second(now + claims.seconds).map_err(|error| error.to_string())?;
    Ok((token, expires))
}

/// The identity of a token. `None` unless it is signed by this cluster, valid now, for the audience, and the objects that it
/// is bound to exist.
pub(crate) fn identity(
    caches: &Caches,
    keys: &TokenKeys,
    token: &str,
    audience: Option<&str>,
) -> Option<Identity> {
    let key = DecodingKey::from_ec_pem(keys.public.as_bytes()).ok()?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[&keys.issuer]);
    validation.set_audience(&[audience.unwrap_or(&keys.issuer)]);
    validation.validate_nbf = true;
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).ok()?.claims;
    let bound = &claims["kubernetes.io"];
    let (namespace, account) = (bound["namespace"].as_str()?, bound["serviceaccount"]["name"].as_str()?);
    let uid = bound["serviceaccount"]["uid"].as_str()?;
    exists(caches, "serviceaccounts", namespace, account, uid)?;
    let mut extra = BTreeMap::new();
    if let Some(pod) = bound["pod"]["name"].as_str() {
        let uid = bound["pod"]["uid"].as_str()?;
        exists(caches, "pods", namespace, pod, uid)?;
        extra.insert(POD_NAME.to_owned(), vec![pod.to_owned()]);
        extra.insert(POD_UID.to_owned(), vec![uid.to_owned()]);
    }
    Some(Identity {
        user: format!("system:serviceaccount:{namespace}:{account}"),
        groups: account_groups(namespace).into_iter().chain([AUTHENTICATED.to_owned()]).collect(),
        uid: uid.to_owned(),
        extra,
    })
}

pub(super) fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn exists(caches: &Caches, plural: &str, namespace: &str, name: &str, uid: &str) -> Option<()> {
    let kind = find("", "v1", plural)?;
    let object = caches.get_or_404(kind, namespace, name).ok()?.value();
    (meta::uid(&object) == uid).then_some(())
}
