//! Secrets that hold a token of a service account.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::{World, get, post, send};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn secret(name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
    })
}

/// Polls a Secret until it is as wanted.
async fn until(world: &World, name: &str, holds: impl Fn(u16, &Value) -> bool) -> Result<Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (code, secret) = get(&world.admin, &format!("{SECRETS}/{name}")).await?;
        if holds(code, &secret) {
            return Ok(secret);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{name}: {code} {secret}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_token_secret_is_filled_and_its_token_lives_with_it() -> Result<()> {
    let world = World::start().await?;
    let config = skep_control::Config { root_ca_pem: "PEM".into(), ..skep_control::Config::default() };
    let controllers =
        tokio::spawn(skep_control::run(skep_control::Clients::new(world.server.clients_by_user().0), config));
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    world.create(ACCOUNTS, account).await?;
    world.create(SECRETS, secret("t", "robot")).await?;
    world.create(SECRETS, secret("orphan", "missing")).await?;
    until(&world, "orphan", |code, _| code == 404).await?;
    let filled = until(&world, "t", |_, secret| secret["data"]["token"].is_string()).await?;
    let text = |field: &str| {
        let bytes = STANDARD.decode(filled["data"][field].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    assert_eq!((text("ca.crt").as_str(), text("namespace").as_str()), ("PEM", "default"));
    let by_token = world.server.client_by_token(Some(&text("token")));
    assert_eq!(get(&by_token, "/api/v1/pods").await?.0, 403, "known, and without rights");
    // A Secret that is deleted ends its token; an account takes its Secrets with it.
    assert_eq!(send(&world.admin, Method::DELETE, &format!("{SECRETS}/t"), &[], None).await?.0, 200);
    assert_eq!(get(&by_token, "/api/v1/pods").await?.0, 401);
    world.create(SECRETS, secret("u", "robot")).await?;
    until(&world, "u", |_, secret| secret["data"]["token"].is_string()).await?;
    send(&world.admin, Method::DELETE, &format!("{ACCOUNTS}/robot"), &[], None).await?;
    until(&world, "u", |code, _| code == 404).await?;
    controllers.abort();
    Ok(())
}

#[tokio::test]
async fn a_secret_has_what_its_type_promises() -> Result<()> {
    let world = World::start().await?;
    for (kind, data) in [
        ("service-account-token", json!({})),
        ("dockerconfigjson", json!({".dockerconfigjson": "YQ=="})),
        ("basic-auth", json!({})),
    ] {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "type": format!("kubernetes.io/{kind}"), "data": data,
        });
        assert_eq!(post(&world.admin, SECRETS, secret).await?.0, 422, "{kind}");
    }
    Ok(())
}
