//! HTTPS to servers that the administrator's own files name: issuers of tokens, and webhooks that authenticate and authorise.
//! Connections are reused. Redirections are not followed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::dial::Dialer;
use crate::lock::Lock;
use crate::remote_address::RemoteAddress;

const DEFAULT_PORT: u16 = 443;
/// Idle connections that are kept for one server.
const MAX_IDLE: usize = 32;
/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why a request had no answer. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpsError {
    #[error("{0}")]
    Url(String),
    #[error("{0}")]
    Connect(String),
    #[error("{0}")]
    Exchange(String),
    #[error("no answer in time")]
    Timeout,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    host: String,
    port: u16,
    /// With its query.
    path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Url, HttpsError> {
        let bad = |why: &str| HttpsError::Url(format!("URL {text:?} {why}"));
        let uri: Uri = text.parse().map_err(|_| bad("cannot be parsed"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("is not https"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad("has a user"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad("has no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Url { host, port: uri.port_u16().unwrap_or(DEFAULT_PORT), path })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) struct HttpsClient {
    dialer: Dialer,
    tls: Arc<ClientConfig>,
    /// The name of the certificate, if it is not the host's.
    server_name: Option<String>,
    /// By authority.
    idle: Lock<HashMap<String, Vec<SendRequest<Body>>>>,
}

impl HttpsClient {
    pub(crate) fn new(dialer: Dialer, tls: Arc<ClientConfig>, server_name: Option<String>) -> HttpsClient {
        HttpsClient { dialer, tls, server_name, idle: Lock::default() }
    }

    pub(crate) async fn get(&self, url: &Url) -> Result<Answer, HttpsError> {
        self.send(Method::GET, url, &HeaderMap::new(), Bytes::new()).await
    }

    /// Posts JSON with further headers.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, HttpsError> {
        let mut headers = headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(Method::POST, url, &headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, HttpsError> {
        // An idle connection may be closed just now. Then a new one is opened.
        if let Some(sender) = self.take_idle(url).await
            && let Ok(answer) = self.exchange(sender, &method, url, headers, body.clone()).await
        {
            return Ok(answer);
        }
        let sender = self.connect(url).await?;
        self.exchange(sender, &method, url, headers, body).await
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Body>,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, HttpsError> {
        let failed = |error: String| HttpsError::Exchange(error);
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.path.parse().map_err(|_| HttpsError::Url(format!("path {:?}", url.path)))?;
        *request.headers_mut() = headers.clone();
        let host = HeaderValue::from_str(&url.authority()).map_err(|error| failed(error.to_string()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        self.keep(url, sender);
        Ok(Answer { code: parts.status, headers: parts.headers, body })
    }

    async fn connect(&self, url: &Url) -> Result<SendRequest<Body>, HttpsError> {
        let addresses = lookup(&url.host, url.port).await?;
        let name = self.server_name.as_deref().unwrap_or(&url.host);
        let mut last = HttpsError::Connect(format!("no address for {}", url.host));
        for address in addresses {
            match open(&self.dialer, &address, name, self.tls.clone()).await {
                Ok(sender) => return Ok(sender),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// An idle connection that is still open.
    async fn take_idle(&self, url: &Url) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = self.idle.lock().get_mut(&url.authority()).and_then(Vec::pop)?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, url: &Url, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock();
        let senders = idle.entry(url.authority()).or_default();
        senders.retain(|sender| !sender.is_closed());
        if senders.len() < MAX_IDLE {
            senders.push(sender);
        }
    }
}

/// The addresses of a host that an administrator named. They may be this machine's.
pub(crate) async fn lookup(host: &str, port: u16) -> Result<Vec<RemoteAddress>, HttpsError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| HttpsError::Connect(format!("lookup {host}: {error}")))?;
    Ok(found.map(RemoteAddress::of_webhook_url).collect())
}

/// Opens a connection and verifies the server's certificate for the name.
pub(crate) async fn open(
    dialer: &Dialer,
    address: &RemoteAddress,
    name: &str,
    tls: Arc<ClientConfig>,
) -> Result<SendRequest<Body>, HttpsError> {
    let failed = |why: String| HttpsError::Connect(why);
    let stream = dialer.dial(address).await;
    let stream = stream.map_err(|error| failed(format!("dial tcp {address}: {error}")))?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| failed(error.to_string()))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|error| failed(format!("tls: {error}")))?;
    let opened = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(|error| failed(error.to_string()))?;
    tokio::spawn(async move {
        // The sender reports the end of the connection.
        let _ = connection.await;
    });
    Ok(sender)
}
