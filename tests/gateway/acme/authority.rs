//! An authority of ACME (RFC 8555): it checks signatures and nonces, validates names with real requests to the gateway, and signs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skep_tests::api_server::{Authority, Pem};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::validation;

pub(super) struct AcmeAuthority {
    pub(super) directory: String,
    base: String,
    authority: Arc<Authority>,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    next: u64,
    nonces: BTreeSet<String>,
    /// Keys by account.
    accounts: BTreeMap<String, Value>,
    orders: BTreeMap<u64, Order>,
    lifetimes: VecDeque<Duration>,
    refusals: VecDeque<Refusal>,
    /// Validations that fail whatever the gateway answers.
    failing: usize,
    requests: Vec<String>,
}

/// An answer to the next order.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) retry_after: Option<&'static str>,
}

struct Order {
    names: Vec<String>,
    tokens: Vec<String>,
    /// By number of the name: the error, once it was looked for.
    validated: BTreeMap<usize, Option<String>>,
    certificate: Option<String>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl AcmeAuthority {
    /// Listens on loopback, with a certificate of the authority that signs.
    pub(super) async fn start(authority: Arc<Authority>) -> Result<Arc<AcmeAuthority>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("https://{}", listener.local_addr()?);
        let Pem { certificate, key } = authority.issue("acme", "x")?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
        let directory = format!("{base}/directory");
        let server = Arc::new(AcmeAuthority { directory, base, authority, state: Mutex::default() });
        let router = axum::Router::new().fallback(handle).with_state(server.clone());
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no failure of the authority.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(server)
    }

    /// PEM that clients of the directory trust.
    pub(super) fn certificate(&self) -> &str {
        &self.authority.certificate
    }

    /// Of the next certificate; those after it have 90 days.
    pub(super) fn next_lifetime(&self, lifetime: Duration) {
        self.lock().lifetimes.push_back(lifetime);
    }

    pub(super) fn refuse_next(&self, refusal: Refusal) {
        self.lock().refusals.push_back(refusal);
    }

    pub(super) fn fail_next_validation(&self) {
        self.lock().failing += 1;
    }

    pub(super) fn forget_nonces(&self) {
        self.lock().nonces.clear();
    }

    pub(super) fn forget_accounts(&self) {
        self.lock().accounts.clear();
    }

    /// How many requests there were for a path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.lock().requests.iter().filter(|request| *request == path).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.state.lock().unwrap()
    }

    fn nonce(&self) -> String {
        let mut known = self.lock();
        known.next += 1;
        let nonce = format!("nonce-{}", known.next);
        known.nonces.insert(nonce.clone());
        nonce
    }

    fn order_json(&self, number: u64, order: &Order) -> Value {
        let is_valid = |at: usize| order.validated.get(&at).is_some_and(Option::is_none);
        let status = match (&order.certificate, order.validated.values().any(Option::is_some)) {
            (Some(_), _) => "valid",
            (None, true) => "invalid",
            (None, false) if (0..order.names.len()).all(is_valid) => "ready",
            (None, false) => "pending",
        };
        let names = order.names.iter().map(|name| json!({"type": "dns", "value": name}));
        let authorizations =
            (0..order.names.len()).map(|at| format!("{}/authorization/{number}/{at}", self.base));
        let mut value = json!({
            "status": status, "identifiers": names.collect::<Vec<_>>(),
            "authorizations": authorizations.collect::<Vec<_>>(), "finalize": format!("{}/finalize/{number}", self.base),
        });
        if order.certificate.is_some() {
            value["certificate"] = json!(format!("{}/certificate/{number}", self.base));
        }
        value
    }

    fn authorization_json(&self, number: u64, order: &Order, at: usize) -> Value {
        let (status, error) = match order.validated.get(&at) {
            None => ("pending", None),
            Some(None) => ("valid", None),
            Some(Some(error)) => ("invalid", Some(error)),
        };
        let challenge = |kind: &str| {
            let url = format!("{}/challenge/{number}/{at}/{kind}", self.base);
            let mut challenge =
                json!({"type": kind, "url": url, "token": order.tokens[at], "status": status});
            if let Some(error) = error {
                challenge["error"] =
                    json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": error});
            }
            challenge
        };
        json!({
            "identifier": {"type": "dns", "value": order.names[at]}, "status": status,
            "challenges": [challenge("http-01"), challenge("tls-alpn-01"), challenge("dns-01")],
        })
    }

    /// Checks the envelope, and returns the account and the payload (RFC 8555, 6.2).
    fn open(&self, uri: &Uri, body: &[u8]) -> Result<(String, Value, Value), Problem> {
        let malformed = |_| Problem::new(400, "malformed");
        let envelope: Value = serde_json::from_slice(body).map_err(|_| Problem::new(400, "malformed"))?;
        let text = |field: &str| envelope[field].as_str().unwrap_or_default();
        let decode = |field: &str| BASE64.decode(text(field)).map_err(malformed);
        let header: Value = serde_json::from_slice(&decode("protected")?).unwrap_or_default();
        let mut known = self.lock();
        if !known.nonces.remove(header["nonce"].as_str().unwrap_or_default()) {
            return Err(Problem::new(400, "badNonce"));
        }
        if header["url"] != format!("{}{}", self.base, uri.path()) || header["alg"] != "ES256" {
            return Err(Problem::new(400, "malformed"));
        }
        let account = header["kid"].as_str().unwrap_or_default().to_owned();
        let key = match header["jwk"].is_object() {
            true => header["jwk"].clone(),
            false => known.accounts.get(&account).cloned().ok_or(Problem::new(400, "accountDoesNotExist"))?,
        };
        let part = |name: &str| BASE64.decode(key[name].as_str().unwrap_or_default()).map_err(malformed);
        let point = [vec![4], part("x")?, part("y")?].concat();
        let signed = format!("{}.{}", text("protected"), text("payload"));
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &decode("signature")?);
        verified.map_err(|_| Problem::new(403, "unauthorized"))?;
        let payload = serde_json::from_slice(&decode("payload")?).unwrap_or_default();
        Ok((account, key, payload))
    }

    async fn validate(&self, number: u64, at: usize, kind: &str, key: &Value) -> Result<()> {
        let (host, token, fails) = {
            let mut known = self.lock();
            let fails = known.failing > 0;
            known.failing -= usize::from(fails);
            let order = known.orders.get(&number).context("no order")?;
            (order.names[at].clone(), order.tokens[at].clone(), fails)
        };
        ensure!(!fails, "this validation fails");
        // RFC 7638: members in the order of their names.
        let text = |name: &str| key[name].as_str().unwrap_or_default();
        let canonical = format!(
            r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#,
            text("crv"),
            text("kty"),
            text("x"),
            text("y")
        );
        let expected = format!("{token}.{}", BASE64.encode(digest(&SHA256, canonical.as_bytes())));
        match kind {
            "http-01" => validation::http(&host, &token, &expected).await,
            "tls-alpn-01" => validation::tls_alpn(&host, &expected).await,
            _ => anyhow::bail!("{kind} is not validated here"),
        }
    }
}

struct Problem {
    status: u16,
    kind: &'static str,
    retry_after: Option<&'static str>,
}

impl Problem {
    fn new(status: u16, kind: &'static str) -> Problem {
        Problem { status, kind, retry_after: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, kind, retry_after } = self;
        let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": format!("refused: {kind}"), "status": status});
        let mut response = (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response();
        if let Some(after) = retry_after {
            response.headers_mut().insert("retry-after", after.parse().unwrap());
        }
        response
    }
}

async fn handle(State(server): State<Arc<AcmeAuthority>>, method: Method, uri: Uri, body: Bytes) -> Response {
    server.lock().requests.push(uri.path().to_owned());
    let mut response = match (method.as_str(), uri.path()) {
        ("GET", "/directory") => {
            let url = |name: &str| format!("{}/{name}", server.base);
            axum::Json(json!({
                "newNonce": url("new-nonce"), "newAccount": url("new-account"), "newOrder": url("new-order"),
                "revokeCert": url("revoke"), "keyChange": url("key-change"),
            }))
            .into_response()
        }
        ("HEAD", "/new-nonce") => StatusCode::OK.into_response(),
        ("POST", _) => post(&server, &uri, &body).await.unwrap_or_else(Problem::into_response),
        _ => StatusCode::NOT_FOUND.into_response(),
    };
    response.headers_mut().insert("replay-nonce", server.nonce().parse().unwrap());
    response
}

async fn post(server: &Arc<AcmeAuthority>, uri: &Uri, body: &[u8]) -> Result<Response, Problem> {
    let (_, key, payload) = server.open(uri, body)?;
    let parts: Vec<&str> = uri.path().split('/').skip(1).collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok()).unwrap_or_default();
    let order = number(1);
    let missing = || Problem::new(404, "malformed");
    match parts[0] {
        "new-account" => Ok(new_account(server, key, &payload)),
        "new-order" => new_order(server, &payload),
        "order" => {
            let known = server.lock();
            let found = known.orders.get(&order).ok_or_else(missing)?;
            Ok(axum::Json(server.order_json(order, found)).into_response())
        }
        "authorization" => {
            let known = server.lock();
            let found = known.orders.get(&order).ok_or_else(missing)?;
            Ok(axum::Json(server.authorization_json(order, found, number(2) as usize)).into_response())
        }
        "challenge" => {
            let (at, kind) = (number(2) as usize, parts[3]);
            let found = server.validate(order, at, kind, &key).await.err().map(|error| format!("{error:#}"));
            let mut known = server.lock();
            let order_of = known.orders.get_mut(&order).ok_or_else(missing)?;
            order_of.validated.insert(at, found);
            let authorization = server.authorization_json(order, order_of, at);
            let mut all = authorization["challenges"].as_array().into_iter().flatten();
            let challenge = all.find(|challenge| challenge["type"] == kind).cloned();
            Ok(axum::Json(challenge.ok_or_else(missing)?).into_response())
        }
        "finalize" => finalize(server, order, &payload),
        "certificate" => {
            let known = server.lock();
            Ok(known
                .orders
                .get(&order)
                .and_then(|order| order.certificate.clone())
                .ok_or_else(missing)?
                .into_response())
        }
        _ => Err(missing()),
    }
}

fn new_account(server: &AcmeAuthority, key: Value, payload: &Value) -> Response {
    assert_eq!(payload["termsOfServiceAgreed"], true);
    let mut known = server.lock();
    known.next += 1;
    let url = format!("{}/account/{}", server.base, known.next);
    known.accounts.insert(url.clone(), key);
    (StatusCode::CREATED, [("location", url)], axum::Json(json!({"status": "valid"}))).into_response()
}

fn new_order(server: &AcmeAuthority, payload: &Value) -> Result<Response, Problem> {
    let mut known = server.lock();
    if let Some(Refusal { status, kind, retry_after }) = known.refusals.pop_front() {
        return Err(Problem { status, kind, retry_after });
    }
    let names = payload["identifiers"].as_array().into_iter().flatten();
    let names: Vec<String> = names.filter_map(|name| name["value"].as_str().map(str::to_owned)).collect();
    known.next += 1;
    let number = known.next;
    let tokens = (0..names.len()).map(|at| format!("token_{number}-{at}")).collect();
    let order = Order { names, tokens, validated: BTreeMap::new(), certificate: None };
    let value = server.order_json(number, &order);
    known.orders.insert(number, order);
    let url = format!("{}/order/{number}", server.base);
    Ok((StatusCode::CREATED, [("location", url)], axum::Json(value)).into_response())
}

fn finalize(server: &AcmeAuthority, number: u64, payload: &Value) -> Result<Response, Problem> {
    let bad = || Problem::new(400, "badCSR");
    let request = BASE64.decode(payload["csr"].as_str().unwrap_or_default()).map_err(|_| bad())?;
    let mut known = server.lock();
    let lifetime = known.lifetimes.pop_front().unwrap_or(90 * DAY);
    let order = known.orders.get_mut(&number).ok_or_else(bad)?;
    if server.order_json(number, order)["status"] != "ready"
        || validation::names_of_request(&request) != order.names
    {
        return Err(bad());
    }
    order.certificate = Some(server.authority.sign_request(&request, lifetime).map_err(|_| bad())?);
    Ok(axum::Json(server.order_json(number, order)).into_response())
}

/// Where the gateway is, whatever the name.
pub(super) fn gateway(port: u16) -> SocketAddr {
    SocketAddr::new(crate::world::NODE_IP.parse().unwrap(), port)
}
