//! Calls webhooks, which a `clientConfig` names by URL or by a Service of the cluster; always over TLS.
//!
//! Connections are reused, and each CA bundle is parsed once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1::SendRequest;
use rustls::ClientConfig;
use serde_json::Value;
use skep_api::find;

use crate::cache::Caches;
use crate::dial::Dialer;
use crate::endpoints::ready_endpoints;
use crate::https;
use crate::lock::Lock;
use crate::remote_address::RemoteAddress;
use crate::tls;

/// Upstream's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer is about as large as its question, which has the objects: this much more, and twice as much.
const MIN_ANSWER_BYTES: usize = 4 << 20;
/// Idle connections that are kept for one webhook.
const MAX_IDLE: usize = 32;
/// TLS configurations that are kept.
const MAX_TLS_CONFIGS: usize = 256;

/// Calls webhooks. Keeps idle connections, and TLS configurations by CA bundle.
pub(crate) struct Client {
    /// To find the endpoints of Services.
    caches: Caches,
    dialer: Dialer,
    idle: Lock<HashMap<Peer, Vec<SendRequest<Body>>>>,
    tls: Lock<HashMap<String, Arc<ClientConfig>>>,
}

/// A webhook's address, the name of its certificate, and the CA bundle.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Peer {
    address: RemoteAddress,
    host: String,
    bundle: String,
}

/// The location of a webhook.
struct Target {
    /// The name of its certificate. With the port it is the Host header.
    host: String,
    port: u16,
    path: String,
    addresses: Vec<RemoteAddress>,
}

async fn by_url(url: &str) -> Result<Target, String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let addresses = https::lookup(&host, port).await.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Target { host, port, path, addresses })
}

impl Client {
    pub(crate) fn new(caches: Caches, dialer: Dialer) -> Client {
        Client { caches, dialer, idle: Lock::default(), tls: Lock::default() }
    }

    /// Posts a review to the webhook of a `clientConfig` and returns its answer. A webhook with a timeout of its own gets
    /// it as a query parameter. The error is text for the API's answer.
    pub(crate) async fn post_review(
        &self,
        client: &Value,
        review: &Value,
        timeout: Option<Duration>,
    ) -> Result<Value, String> {
        let mut url = String::new();
        let called = tokio::time::timeout(timeout.unwrap_or(DEFAULT_TIMEOUT), async {
            let mut target = self.locate(client).await?;
            if let Some(timeout) = timeout {
                let sign = if target.path.contains('?') { '&' } else { '?' };
                target.path = format!("{}{sign}timeout={}s", target.path, timeout.as_secs());
            }
            url = format!("https://{}:{}{}", target.host, target.port, target.path);
            // On the heap: nearly no request calls a webhook, and the future of each has room for what it may call.
            Box::pin(post(self, &target, client, review)).await
        });
        match called.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) if url.is_empty() => Err(why),
            Ok(Err(why)) => Err(format!("Post \"{url}\": {why}")),
            Err(_) => Err(format!("Post \"{url}\": context deadline exceeded")),
        }
    }

    async fn locate(&self, client: &Value) -> Result<Target, String> {
        if let Some(url) = client["url"].as_str() {
            return by_url(url).await;
        }
        let service = &client["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        let (name, namespace) = (text("name"), text("namespace"));
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let kind = find("", "v1", "services").ok_or("there are no services")?;
        let found = self.caches.get_or_404(kind, &namespace, &name);
        let found = found.map_err(|_| format!("service \"{name}\" not found"))?;
        let addresses = ready_endpoints(&self.caches, &found.value(), &port.to_string());
        if addresses.is_empty() {
            return Err(format!("no endpoints available for service \"{name}\""));
        }
        let path = match text("path") {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        };
        Ok(Target { host: format!("{name}.{namespace}.svc"), port, path, addresses })
    }

    /// Trusts the CAs of the bundle; the system's if it is empty.
    fn tls(&self, bundle: &str) -> Result<Arc<ClientConfig>, String> {
        if let Some(known) = self.tls.lock().get(bundle) {
            return Ok(known.clone());
        }
        let config = tls::of_bundle(bundle, None)?;
        let mut all = self.tls.lock();
        if all.len() >= MAX_TLS_CONFIGS {
            all.clear();
        }
        all.insert(bundle.to_owned(), config.clone());
        Ok(config)
    }

    /// An idle connection that is still open.
    async fn take_idle(&self, peer: &Peer) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = self.idle.lock().get_mut(peer).and_then(Vec::pop)?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, peer: Peer, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock();
        idle.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        let senders = idle.entry(peer).or_default();
        if senders.len() < MAX_IDLE {
            senders.push(sender);
        }
    }
}

async fn connect(server: &Client, peer: &Peer) -> Result<SendRequest<Body>, String> {
    let opened = https::open(&server.dialer, &peer.address, &peer.host, server.tls(&peer.bundle)?).await;
    opened.map_err(|error| error.to_string())
}

async fn post(server: &Client, target: &Target, client: &Value, review: &Value) -> Result<Value, String> {
    let bundle = client["caBundle"].as_str().unwrap_or_default().to_owned();
    let body = Bytes::from(review.to_string());
    let mut last = format!("no address for {}", target.host);
    for address in &target.addresses {
        let peer = Peer { address: address.clone(), host: target.host.clone(), bundle: bundle.clone() };
        // An idle connection may be closed just now. Then a new one is opened.
        if let Some(sender) = server.take_idle(&peer).await
            && let Ok((answer, sender)) = exchange(sender, target, body.clone()).await
        {
            server.keep(peer, sender);
            return read(answer);
        }
        match connect(server, &peer).await {
            Ok(sender) => {
                let (answer, sender) = exchange(sender, target, body).await?;
                server.keep(peer, sender);
                return read(answer);
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

type Answer = (StatusCode, Bytes);

async fn exchange(
    mut sender: SendRequest<Body>,
    target: &Target,
    body: Bytes,
) -> Result<(Answer, SendRequest<Body>), String> {
    let max_answer_bytes = MIN_ANSWER_BYTES + 2 * body.len();
    let request = Request::post(&target.path)
        .header(HOST, format!("{}:{}", target.host, target.port))
        .header(CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .body(Body::from(body))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status();
    let body = Limited::new(response.into_body(), max_answer_bytes).collect().await;
    Ok(((code, body.map_err(|error| error.to_string())?.to_bytes()), sender))
}

fn read((code, bytes): Answer) -> Result<Value, String> {
    match code {
        code if code.is_success() => {
            serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no JSON: {error}"))
        }
        StatusCode::NOT_FOUND => Err("the server could not find the requested resource".to_owned()),
        code if code.is_server_error() => {
            // The body is for the webhook's operator: what else answers there is not the requester's to read.
            Err(format!(
                "an error on the server (status {}) has prevented the request from succeeding",
                code.as_u16()
            ))
        }
        code => Err(format!(
            "the server responded with the status code {} but did not return more information",
            code.as_u16()
        )),
    }
}
