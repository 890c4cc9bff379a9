//! A webhook that verifies tokens: what it does not say clearly is a refusal.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use skep_apiserver::TokenWebhookOptions;

use super::reviewer::Reviewer;
use super::{World, get, post};

const OWN: &str = "https://kubernetes.default.svc";

fn decide(spec: &Value) -> Result<Value, u16> {
    let user =
        json!({"username": "jane", "uid": "7", "groups": ["staff"], "extra": {"example.org/a": ["b"]}});
    let yes = json!({"authenticated": true, "user": user});
    let with = |name: &str, value: Value| {
        let mut status = yes.clone();
        status[name] = value;
        status
    };
    Ok(match spec["token"].as_str().unwrap_or_default() {
        "good" => yes,
        "ours" => with("audiences", json!([OWN, "x"])),
        "others" => with("audiences", json!(["x"])),
        "no" => json!({"authenticated": false, "error": "unknown"}),
        "text" => with("authenticated", json!("true")),
        "nameless" => with("user", json!({"groups": ["system:masters"]})),
        "groups" => with("user", json!({"username": "jane", "groups": "system:masters"})),
        "extra" => with("user", json!({"username": "jane", "extra": {"a": 1}})),
        "empty" => Value::Null,
        _ => return Err(400),
    })
}

#[tokio::test]
async fn only_a_clear_yes_for_this_server_authenticates() -> Result<()> {
    let reviewer = Reviewer::start(decide).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("tokens");
    reviewer.write_kubeconfig(&kubeconfig)?;
    for version in ["v1", "v1beta1"] {
        let options = TokenWebhookOptions {
            kubeconfig: kubeconfig.clone(),
            version: version.to_owned(),
            cache_ttl: Duration::from_secs(60),
        };
        let world = World::start_with(|config| config.access.token_webhook = Some(options)).await?;
        for (token, wanted) in [
            ("good", 403),
            ("ours", 403),
            ("others", 401),
            ("no", 401),
            ("text", 401),
            ("nameless", 401),
            ("groups", 401),
            ("extra", 401),
            ("empty", 401),
            ("fails", 401),
        ] {
            let client = world.server.client_by_token(Some(token));
            assert_eq!(get(&client, "/api/v1/pods").await?.0, wanted, "{version} {token}");
        }
        let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let client = world.server.client_by_token(Some("good"));
        let (_, answer) = post(&client, "/apis/authentication.k8s.io/v1/selfsubjectreviews", who).await?;
        assert_eq!(
            answer["status"]["userInfo"],
            json!({
                "username": "jane", "uid": "7", "groups": ["staff", "system:authenticated"], "extra": {"example.org/a": ["b"]},
            })
        );
    }
    let asked = reviewer.asked();
    // Each token once in each version: answers are kept, but not what was none.
    let count = |token: &str| asked.iter().filter(|spec| spec["token"] == token).count();
    assert_eq!((count("good"), count("no"), count("fails")), (2, 2, 2));
    assert!(asked.iter().all(|spec| spec["audiences"] == json!([OWN])), "{asked:?}");
    Ok(())
}
