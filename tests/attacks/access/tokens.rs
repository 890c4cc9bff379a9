//! A token is worth what it is bound to, and no longer than that lives.

use anyhow::Result;
use http::Method;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use skep_apiserver::TokenKeys;

use super::{World, get, post, send};

const ISSUER: &str = "https://kubernetes.default.svc";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A token of the account `default`.
async fn token(world: &World, audiences: Value, bound: Value) -> Result<String> {
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences},
    });
    if !bound.is_null() {
        request["spec"]["boundObjectRef"] = bound;
    }
    let answer = world.create(&format!("{ACCOUNTS}/default/token"), request).await?;
    Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
}

async fn account(world: &World) -> Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    post(&world.admin, ACCOUNTS, account).await.map(drop)
}

/// The code of a request by the token: 403 if it is valid, because the account has no rights.
async fn code(world: &World, token: &str) -> Result<u16> {
    Ok(get(&world.server.client_by_token(Some(token)), "/api/v1/pods").await?.0)
}

async fn review(world: &World, token: &str, audiences: Value) -> Result<Value> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences},
    });
    Ok(world.create(REVIEWS, review).await?["status"].clone())
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() -> Result<()> {
    let world = World::start().await?;
    account(&world).await?;
    world.create_node("n").await?;
    let secret = world
        .create(SECRETS, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}))
        .await?;
    let pod = world.create_pod("p", "n", None).await?;
    let grace = json!({"gracePeriodSeconds": 0});
    for (kind, path, object) in [
        ("Secret", format!("{SECRETS}/s"), secret),
        ("Pod", "/api/v1/namespaces/default/pods/p".to_owned(), pod),
        ("Node", "/api/v1/nodes/n".to_owned(), Value::Null),
    ] {
        let reference = json!({"apiVersion": "v1", "kind": kind, "name": path.rsplit('/').next(), "uid": object["metadata"]["uid"]});
        let token = token(&world, json!([]), reference).await?;
        assert_eq!((code(&world, &token).await?, code(&world, &token).await?), (403, 403), "{kind}");
        let (deleted, answer) = send(&world.admin, Method::DELETE, &path, &[], Some(grace.clone())).await?;
        assert_eq!(deleted, 200, "{answer}");
        assert_eq!(code(&world, &token).await?, 401, "{kind}");
    }
    let unbound = token(&world, json!([]), Value::Null).await?;
    assert_eq!(code(&world, &unbound).await?, 403);
    send(&world.admin, Method::DELETE, &format!("{ACCOUNTS}/default"), &[], None).await?;
    account(&world).await?;
    assert_eq!(code(&world, &unbound).await?, 401, "another account of the same name");
    Ok(())
}

#[tokio::test]
async fn a_tokens_identity_names_its_pod_its_node_and_itself() -> Result<()> {
    let world = World::start().await?;
    let node = world.create_node("n").await?;
    let pod = world.create_pod("p", "n", None).await?;
    let token = token(&world, json!([]), json!({"apiVersion": "v1", "kind": "Pod", "name": "p"})).await?;
    let status = review(&world, &token, json!([])).await?;
    let extra = &status["user"]["extra"];
    let of = |field: &str| extra[format!("authentication.kubernetes.io/{field}")][0].clone();
    assert_eq!((of("pod-name"), of("pod-uid")), (json!("p"), pod["metadata"]["uid"].clone()));
    assert_eq!((of("node-name"), of("node-uid")), (json!("n"), node["metadata"]["uid"].clone()));
    assert!(of("credential-id").as_str().is_some_and(|id| id.starts_with("JTI=")), "{extra}");
    Ok(())
}

#[tokio::test]
async fn a_review_answers_for_each_audience() -> Result<()> {
    let world = World::start().await?;
    account(&world).await?;
    let token = token(&world, json!(["a", "b"]), Value::Null).await?;
    for (asked, wanted) in [
        (json!(["a"]), json!(["a"])),
        (json!(["x", "b", "a"]), json!(["b", "a"])),
        (json!(["x"]), Value::Null),
        (json!([]), Value::Null),
    ] {
        let status = review(&world, &token, asked.clone()).await?;
        assert_eq!(status["audiences"], wanted, "{asked} {status}");
        assert_eq!(status["authenticated"] == true, !wanted.is_null());
    }
    assert_eq!(code(&world, &token).await?, 401);
    let data = json!({
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"}, "stringData": data,
    });
    world.create("/api/v1/namespaces/kube-system/secrets", secret).await?;
    for (asked, wanted) in [(json!([]), true), (json!([ISSUER]), true), (json!(["vault"]), false)] {
        let status = review(&world, "abcdef.0123456789abcdef", asked.clone()).await?;
        assert_eq!(status["authenticated"] == true, wanted, "{asked} {status}");
    }
    Ok(())
}

#[tokio::test]
async fn tokens_of_an_older_key_live_as_long_as_the_key() -> Result<()> {
    let pair = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let (old, new) = (pair()?, pair()?);
    let keys = |signer: &KeyPair, accepted: &[&KeyPair]| TokenKeys {
        private: signer.serialize_pem(),
        public: accepted.iter().map(|key| key.public_key_pem()).collect(),
        issuer: ISSUER.to_owned(),
    };
    let first = keys(&old, &[&old]);
    let world = World::start_with(|config| config.tokens = first).await?;
    account(&world).await?;
    let token = token(&world, json!([]), Value::Null).await?;
    assert_eq!(code(&world, &token).await?, 403);
    world.server.server().set_token_keys(&keys(&new, &[&new, &old]))?;
    assert_eq!(code(&world, &token).await?, 403);
    let newer = super::tokens::token(&world, json!([]), Value::Null).await?;
    world.server.server().set_token_keys(&keys(&new, &[&new]))?;
    assert_eq!((code(&world, &token).await?, code(&world, &newer).await?), (401, 403));
    Ok(())
}

#[tokio::test]
async fn others_can_verify_tokens_by_published_keys() -> Result<()> {
    let world = World::start().await?;
    account(&world).await?;
    let (code, document) = get(&world.admin, "/.well-known/openid-configuration").await?;
    assert_eq!((code, &document["issuer"]), (200, &json!(ISSUER)));
    assert!(document["jwks_uri"].as_str().is_some_and(|uri| uri.ends_with("/openid/v1/jwks")), "{document}");
    let (code, keys) = get(&world.admin, "/openid/v1/jwks").await?;
    assert_eq!(code, 200);
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("EC"), &json!("P-256"), &json!("ES256")));
    let token = token(&world, json!([]), Value::Null).await?;
    let account = world.server.client_by_token(Some(&token));
    assert_eq!(get(&account, "/openid/v1/jwks").await?.0, 200);
    assert_eq!(get(&world.server.client_by_token(None), "/openid/v1/jwks").await?.0, 403);
    Ok(())
}

#[tokio::test]
async fn a_review_of_a_path_is_not_one_of_a_resource() -> Result<()> {
    let world = World::start().await?;
    world.grant("reader", json!([{"apiGroups": [""], "resources": [""], "verbs": ["get"]}])).await?;
    world.create_node("n").await?;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |user: &str, spec: Value| {
        let mut review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        review["spec"]["user"] = user.into();
        review["spec"]["groups"] = json!(["system:nodes", "system:authenticated"]);
        review
    };
    let pods = |selector: Value| json!({"resourceAttributes": {"verb": "list", "resource": "pods", "fieldSelector": selector}});
    let requirement = |operator: &str| json!({"requirements": [{"key": "spec.nodeName", "operator": operator, "values": ["n"]}]});
    for (user, spec, wanted) in [
        ("reader", json!({"nonResourceAttributes": {"verb": "get"}}), false),
        ("reader", json!({"nonResourceAttributes": {"verb": "get", "path": "/version"}}), true),
        ("system:node:n", pods(json!({"rawSelector": "spec.nodeName=n"})), true),
        ("system:node:n", pods(requirement("In")), true),
        ("system:node:n", pods(requirement("NotIn")), false),
        ("system:node:n", pods(Value::Null), false),
    ] {
        let answer = world.create(path, review(user, spec.clone())).await?;
        assert_eq!(answer["status"]["allowed"], wanted, "{user} {spec}");
    }
    Ok(())
}
