//! Tokens of issuers beyond the cluster are worth what the configuration says, and nothing else is accepted as one.

mod issuer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use skep_apiserver::IssuerSource;
use tempfile::TempDir;

use super::{World, get, post};
use issuer::{AUDIENCE, Issuer, SigningKey, encoded, seconds, write_config};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A server with an authentication configuration in a file.
struct IssuerWorld {
    inner: World,
    file: PathBuf,
    _folder: TempDir,
}

impl IssuerWorld {
    async fn start(content: &Value) -> Result<IssuerWorld> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("authentication.yaml");
        write_config(&file, content)?;
        let source = IssuerSource::File(file.clone());
        let inner = World::start_with(|config| config.access.issuers = source).await?;
        Ok(IssuerWorld { inner, file, _folder: folder })
    }

    /// The requester of a token, as the server sees him; `None` if it is refused.
    async fn user(&self, token: &str) -> Result<Option<Value>> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let (code, answer) = post(&self.inner.server.client_by_token(Some(token)), WHO, review).await?;
        match code {
            201 => Ok(Some(answer["status"]["userInfo"].clone())),
            401 => Ok(None),
            code => anyhow::bail!("{code}: {answer}"),
        }
    }

    /// Waits until a token is accepted.
    async fn accepted(&self, token: &str) -> Result<Value> {
        let start = Instant::now();
        loop {
            if let Some(user) = self.user(token).await? {
                return Ok(user);
            }
            ensure!(start.elapsed() < DEADLINE, "not accepted within {DEADLINE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn metrics(&self) -> Result<String> {
        let (_, text) = get(&self.inner.admin, "/metrics").await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the metrics have this line.
    async fn has_metric(&self, line: &str) -> Result<()> {
        let start = Instant::now();
        while !self.metrics().await?.lines().any(|found| found == line) {
            ensure!(start.elapsed() < DEADLINE, "no {line} within {DEADLINE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn every_asymmetric_algorithm_verifies() -> Result<()> {
    let rsa = SigningKey::rsa("rsa")?;
    let curves = [("ES256", "P-256"), ("ES384", "P-384"), ("ES512", "P-521")];
    let elliptic: Vec<(&str, SigningKey)> = curves
        .into_iter()
        .map(|(algorithm, curve)| Ok((algorithm, SigningKey::elliptic(curve, curve)?)))
        .collect::<Result<_>>()?;
    let mut keys = vec![&rsa];
    keys.extend(elliptic.iter().map(|(_, key)| key));
    let issuer = Issuer::start(&keys).await?;
    let extra = json!([{"key": "example.org/team", "valueExpression": "claims.team"}]);
    let mappings = json!({
        "username": {"expression": "'u:' + claims.sub"}, "groups": {"claim": "groups", "prefix": "g:"},
        "uid": {"claim": "id"}, "extra": extra,
    });
    let world =
        IssuerWorld::start(&json!({"jwt": [issuer.config(&json!({"claimMappings": mappings}))]})).await?;
    let of_rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|algorithm| (algorithm, &rsa));
    let all = of_rsa.into_iter().chain(elliptic.iter().map(|(algorithm, key)| (*algorithm, key)));
    for (algorithm, key) in all {
        let claims =
            issuer.claims(&json!({"groups": ["a", "b"], "id": "7", "team": ["x", ""], "jti": algorithm}));
        let user = world.accepted(&key.token(algorithm, &Value::Null, &claims)?).await?;
        let credential = format!("JTI={algorithm}");
        assert_eq!(
            user,
            json!({
                "username": "u:jane", "uid": "7", "groups": ["g:a", "g:b", "system:authenticated"],
                "extra": {"example.org/team": ["x"], "authentication.kubernetes.io/credential-id": [credential]},
            }),
            "{algorithm}"
        );
    }
    Ok(())
}

/// A valid token and what an attacker can make of it. Each is named by what is wrong with it.
struct Tokens<'a> {
    issuer: &'a Issuer,
    key: &'a SigningKey,
    claims: Value,
    good: String,
}

type Named = Vec<(&'static str, String)>;

impl Tokens<'_> {
    fn with(&self, change: &Value) -> Value {
        let mut claims = self.claims.clone();
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    /// Tokens that the issuer's key did not sign as they are.
    fn forged(&self) -> Result<Named> {
        let (key, valid) = (self.key, &self.claims);
        let (body, signature) = self.good.rsplit_once('.').unwrap_or_default();
        let under = |algorithm: &str, claims: &Value| {
            format!("{}.{signature}", encoded(&json!({"alg": algorithm, "kid": "k"}), claims))
        };
        let bare = |algorithm: &str| format!("{}.", encoded(&json!({"alg": algorithm}), valid));
        let shared = |secret: &[u8]| {
            let message = encoded(&json!({"alg": "HS256", "kid": "k"}), valid);
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
        };
        let elliptic = SigningKey::elliptic("k", "P-256")?;
        let of_key = |header: Value| key.token("RS256", &header, valid);
        Ok(vec![
            ("no algorithm", bare("none")),
            ("no algorithm, in capitals", bare("NONE")),
            ("no algorithm, with a signature", under("none", valid)),
            ("the public key as a shared secret", shared(&key.public())),
            ("an empty shared secret", shared(b"")),
            ("other claims under the signature", under("RS256", &self.with(&json!({"sub": "eve"})))),
            ("another algorithm in the header", under("PS256", valid)),
            ("a signature that is cut", format!("{body}.{}", &signature[..signature.len() - 4])),
            ("no signature", format!("{body}.")),
            ("another key of the same name", SigningKey::rsa("k")?.token("RS256", &Value::Null, valid)?),
            ("another type of key", elliptic.token("ES256", &Value::Null, valid)?),
            ("a key that the issuer does not have", of_key(json!({"kid": "other"}))?),
            ("a key in the token", of_key(json!({"kid": "x", "jwk": {"kty": "oct", "k": "AA"}}))?),
            ("a critical header", of_key(json!({"crit": ["b64"], "b64": true}))?),
            ("claims that are no object", under("RS256", &json!([]))),
            ("claims that are nested", {
                let nested = format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
                let header = json!({"alg": "RS256", "kid": "k"}).to_string();
                let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
                format!("{}.{}.{signature}", encode(header), encode(nested))
            }),
            ("a fourth part", format!("{}.x", self.good)),
            ("a token in JSON", json!({"payload": body, "signature": signature}).to_string()),
            ("nothing", ".".to_owned()),
        ])
    }

    /// Tokens that the issuer signed, but not for a user of this server now.
    fn misused(&self) -> Result<Named> {
        let now = seconds();
        let slash = format!("{}/", self.issuer.url);
        let sources = json!({"s": {"endpoint": "https://127.0.0.1:1/"}});
        let changes = [
            ("another issuer", json!({"iss": "https://issuer.example"})),
            ("an issuer with a slash more", json!({"iss": slash})),
            ("the cluster's issuer", json!({"iss": "https://kubernetes.default.svc"})),
            ("no issuer", json!({"iss": null})),
            ("another audience", json!({"aud": "other"})),
            ("no audience", json!({"aud": null})),
            ("an audience that is no text", json!({"aud": [AUDIENCE, 1]})),
            ("a token that is expired", json!({"exp": now - 5})),
            ("a token without an end", json!({"exp": null})),
            ("an end that is a text", json!({"exp": (now + 600).to_string()})),
            ("a token of the future", json!({"nbf": now + 120})),
            ("a life that a rule does not allow", json!({"exp": now + 7200})),
            ("another tenant", json!({"tenant": "other"})),
            ("a tenant that is no text", json!({"tenant": ["t"]})),
            ("a user of the system", json!({"sub": "system:admin"})),
            ("a user without a name", json!({"sub": ""})),
            ("a user whose name is no text", json!({"sub": {"a": "jane"}})),
            ("groups that are no texts", json!({"groups": ["a", 1]})),
            (
                "groups that another server has",
                json!({"_claim_names": {"groups": "s"}, "_claim_sources": sources}),
            ),
            ("a token that is too long", json!({"x": "y".repeat(70_000)})),
        ];
        let signed = changes
            .into_iter()
            .map(|(what, change)| Ok((what, self.key.token("RS256", &Value::Null, &self.with(&change))?)));
        signed.collect()
    }
}

#[tokio::test]
async fn a_token_that_the_issuer_did_not_mean_is_refused() -> Result<()> {
    let key = SigningKey::rsa("k")?;
    let issuer = Issuer::start(&[&key]).await?;
    let rules = json!({
        "claimValidationRules": [
            {"claim": "tenant", "requiredValue": "t"}, {"expression": "claims.exp - claims.iat <= 3600", "message": "m"},
        ],
        "userValidationRules": [{"expression": "!user.username.startsWith('oidc:system:')"}],
    });
    let world = IssuerWorld::start(&json!({"jwt": [issuer.config(&rules)]})).await?;
    let claims = issuer.claims(&json!({"tenant": "t"}));
    let good = key.token("RS256", &Value::Null, &claims)?;
    world.accepted(&good).await?;
    let tokens = Tokens { issuer: &issuer, key: &key, claims, good };
    let (fetches, started) = (issuer.key_fetches(), Instant::now());
    let mut accepted = Vec::new();
    for (what, token) in tokens.forged()?.into_iter().chain(tokens.misused()?) {
        if world.user(&token).await?.is_some() {
            accepted.push(what);
        }
    }
    assert_eq!(accepted, Vec::<&str>::new());
    assert!(world.user(&tokens.good).await?.is_some(), "the valid token is still good");
    // However many tokens name other keys, the issuer is asked at most once in ten seconds.
    let most = fetches + 1 + usize::try_from(started.elapsed().as_secs() / 10)?;
    assert!(issuer.key_fetches() <= most, "{} fetches, at most {most}", issuer.key_fetches());
    Ok(())
}

#[tokio::test]
async fn a_prefix_keeps_the_systems_users_and_groups_apart() -> Result<()> {
    let key = SigningKey::elliptic("k", "P-256")?;
    let issuer = Issuer::start(&[&key]).await?;
    let claims =
        issuer.claims(&json!({"sub": "system:node:n", "groups": ["system:masters", "system:nodes"]}));
    let token = key.token("ES256", &Value::Null, &claims)?;
    let prefixed = IssuerWorld::start(&json!({"jwt": [issuer.config(&Value::Null)]})).await?;
    let user = prefixed.accepted(&token).await?;
    assert_eq!(user["username"], "oidc:system:node:n");
    assert_eq!(user["groups"], json!(["oidc:system:masters", "oidc:system:nodes", "system:authenticated"]));
    let client = prefixed.inner.server.client_by_token(Some(&token));
    assert_eq!(get(&client, "/api/v1/secrets").await?.0, 403);
    // As upstream: an administrator who maps groups without a prefix trusts the issuer with all of them.
    let none = json!({"claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": ""}}});
    let plain = IssuerWorld::start(&json!({"jwt": [issuer.config(&none)]})).await?;
    assert_eq!(plain.accepted(&token).await?["username"], "system:node:n");
    assert_eq!(get(&plain.inner.server.client_by_token(Some(&token)), "/api/v1/secrets").await?.0, 200);
    // And one who has a rule does not.
    let rule = json!({"userValidationRules": [{"expression": "user.groups.all(group, !group.startsWith('system:'))"}]});
    let mut ruled = issuer.config(&none);
    ruled["userValidationRules"] = rule["userValidationRules"].clone();
    let ruled = IssuerWorld::start(&json!({"jwt": [ruled]})).await?;
    let harmless = key.token("ES256", &Value::Null, &issuer.claims(&json!({"groups": "staff"})))?;
    assert_eq!(ruled.accepted(&harmless).await?["groups"], json!(["staff", "system:authenticated"]));
    assert_eq!(ruled.user(&token).await?, None);
    Ok(())
}

#[tokio::test]
async fn an_email_that_is_not_verified_names_nobody() -> Result<()> {
    let key = SigningKey::elliptic("k", "P-256")?;
    let issuer = Issuer::start(&[&key]).await?;
    let mappings = json!({"claimMappings": {"username": {"claim": "email", "prefix": ""}}});
    let world = IssuerWorld::start(&json!({"jwt": [issuer.config(&mappings)]})).await?;
    let token = |more: Value| key.token("ES256", &Value::Null, &issuer.claims(&more));
    let good = token(json!({"email": "a@b", "email_verified": true}))?;
    assert_eq!(world.accepted(&good).await?["username"], "a@b");
    for verified in [json!(false), json!("true"), Value::Null] {
        let bad = token(json!({"email": "a@b", "email_verified": verified}))?;
        assert_eq!(world.user(&bad).await?, None, "{verified}");
    }
    Ok(())
}

#[tokio::test]
async fn an_issuer_that_is_away_stops_nothing_and_one_that_lies_is_not_believed() -> Result<()> {
    let key = SigningKey::elliptic("k", "P-256")?;
    let (away, lying, foreign) =
        (Issuer::start(&[&key]).await?, Issuer::start(&[&key]).await?, Issuer::start(&[&key]).await?);
    away.set_down(true);
    lying.call_itself("https://issuer.example");
    let mut of_foreign = foreign.config(&Value::Null);
    of_foreign["issuer"]["certificateAuthority"] = away.ca.as_str().into();
    let configs = json!([away.config(&Value::Null), lying.config(&Value::Null), of_foreign]);
    let world = IssuerWorld::start(&json!({"jwt": configs})).await?;
    assert_eq!(get(&world.inner.admin, "/readyz").await?.0, 200);
    let token = |issuer: &Issuer| key.token("ES256", &Value::Null, &issuer.claims(&Value::Null));
    assert_eq!(world.user(&token(&away)?).await?, None);
    away.set_down(false);
    world.accepted(&token(&away)?).await?;
    // By now the others had as much time.
    assert_eq!(world.user(&token(&lying)?).await?, None, "its document names another issuer");
    assert_eq!(world.user(&token(&foreign)?).await?, None, "its certificate is of another CA");
    // Keys that were fetched stay good while the issuer is away again.
    away.set_down(true);
    let later = key.token("ES256", &Value::Null, &away.claims(&json!({"sub": "joe"})))?;
    assert_eq!(world.user(&later).await?.map(|user| user["username"].clone()), Some(json!("oidc:joe")));
    Ok(())
}

#[tokio::test]
async fn a_new_key_is_found_and_a_flood_of_unknown_ones_asks_the_issuer_once() -> Result<()> {
    let (old, new) = (SigningKey::elliptic("old", "P-256")?, SigningKey::elliptic("new", "P-256")?);
    let issuer = Issuer::start(&[&old]).await?;
    let world = IssuerWorld::start(&json!({"jwt": [issuer.config(&Value::Null)]})).await?;
    world.accepted(&old.token("ES256", &Value::Null, &issuer.claims(&Value::Null))?).await?;
    issuer.publish(&[&new]);
    let before = issuer.key_fetches();
    let mut flood = Vec::new();
    for number in 0..40 {
        let header = json!({"kid": format!("unknown-{number}")});
        flood.push(new.token("ES256", &header, &issuer.claims(&Value::Null))?);
    }
    let started = Instant::now();
    let (answers, user) =
        tokio::join!(futures::future::join_all(flood.iter().map(|token| world.user(token))), async {
            world.accepted(&new.token("ES256", &Value::Null, &issuer.claims(&Value::Null))?).await
        },);
    assert_eq!(user?["username"], "oidc:jane");
    for answer in answers {
        assert_eq!(answer?, None);
    }
    // One fetch in ten seconds at most.
    let most = before + 1 + usize::try_from(started.elapsed().as_secs() / 10)?;
    assert!(issuer.key_fetches() <= most, "{} fetches, at most {most}", issuer.key_fetches());
    let withdrawn = old.token("ES256", &Value::Null, &issuer.claims(&json!({"sub": "joe"})))?;
    assert_eq!(world.user(&withdrawn).await?, None, "the key that the issuer withdrew");
    Ok(())
}

#[tokio::test]
async fn a_changed_file_is_used_and_a_bad_one_changes_nothing() -> Result<()> {
    let key = SigningKey::elliptic("k", "P-256")?;
    let (first, second) = (Issuer::start(&[&key]).await?, Issuer::start(&[&key]).await?);
    let world = IssuerWorld::start(&json!({"jwt": [first.config(&Value::Null)]})).await?;
    let token = |issuer: &Issuer| key.token("ES256", &Value::Null, &issuer.claims(&Value::Null));
    world.accepted(&token(&first)?).await?;
    let reloads = |status: &str, count: u32| {
        format!(
            "apiserver_authentication_config_controller_automatic_reloads_total{{status=\"{status}\"}} {count}"
        )
    };
    write_config(&world.file, &json!({"jwt": [{"issuer": {"url": "http://x"}}]}))?;
    world.has_metric(&reloads("failure", 1)).await?;
    assert!(world.user(&token(&first)?).await?.is_some());
    let both = json!([first.config(&Value::Null), second.config(&Value::Null)]);
    write_config(&world.file, &json!({"jwt": both, "anonymous": {"enabled": false}}))?;
    world.has_metric(&reloads("failure", 2)).await?;
    assert_eq!(world.user(&token(&second)?).await?, None, "anonymous cannot change while the server runs");
    write_config(&world.file, &json!({"jwt": [second.config(&Value::Null)]}))?;
    world.accepted(&token(&second)?).await?;
    world.has_metric(&reloads("success", 1)).await?;
    assert_eq!(world.user(&token(&first)?).await?, None, "an issuer that is in the file no more");
    Ok(())
}

#[tokio::test]
async fn anonymous_requests_have_the_paths_of_the_file() -> Result<()> {
    let content = json!({"anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}});
    let world = IssuerWorld::start(&content).await?;
    let anonymous = world.inner.server.client_by_token(None);
    for (path, wanted) in
        [("/livez", 200), ("/livez/ping", 401), ("/healthz", 401), ("/api/v1/pods", 401), ("//livez", 401)]
    {
        assert_eq!(get(&anonymous, path).await?.0, wanted, "{path}");
    }
    let source = IssuerSource::File(world.file.clone());
    let refused = World::start_with(|config| {
        config.access.issuers = source;
        config.access.anonymous = Some(true);
    });
    let why = refused.await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(why.contains("--anonymous-auth flag cannot be set when anonymous field is configured"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_server_with_a_bad_file_does_not_start() -> Result<()> {
    let started = IssuerWorld::start(&json!({"jwt": [{"issuer": {"url": "https://i"}}]})).await;
    let why = started.err().map(|error| error.to_string()).unwrap_or_default();
    let wanted = "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required";
    assert!(why.contains(wanted) && why.contains("jwt[0].claimMappings.username: Required value"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_review_names_the_user_of_an_issuers_token_for_this_server_only() -> Result<()> {
    let key = SigningKey::elliptic("k", "P-256")?;
    let issuer = Issuer::start(&[&key]).await?;
    let world = IssuerWorld::start(&json!({"jwt": [issuer.config(&Value::Null)]})).await?;
    let token = key.token("ES256", &Value::Null, &issuer.claims(&Value::Null))?;
    world.accepted(&token).await?;
    for (audiences, wanted) in
        [(json!([]), true), (json!(["https://kubernetes.default.svc"]), true), (json!([AUDIENCE]), false)]
    {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences},
        });
        let status =
            world.inner.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await?["status"]
                .clone();
        assert_eq!(status["authenticated"] == true, wanted, "{audiences}: {status}");
    }
    Ok(())
}
