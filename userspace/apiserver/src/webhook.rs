//! Calls to webhooks as a `clientConfig` names them: by URL, or by a Service of the cluster; always TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use skep_api::find;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::node_client::exchange;
use crate::subresources::proxy::ready_endpoint;
use crate::{Inner, write};

/// How long a webhook has for its answer, as upstream's default.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer at most.
const ANSWER_MAX: usize = 64 << 20;

/// Where a webhook is.
struct Place {
    /// The name that its certificate has, and the port, as the Host header shows them.
    host: String,
    port: u16,
    path: String,
    addresses: Vec<SocketAddr>,
}

/// Posts a review; its answer, or what went wrong.
pub(crate) async fn call(server: &Inner, client: &Value, review: &Value) -> Result<Value, String> {
    let place = place(server, client).await?;
    let url = format!("https://{}:{}{}", place.host, place.port, place.path);
    let called = tokio::time::timeout(TIMEOUT, post(&place, client, review)).await;
    match called {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(format!("Post \"{url}\": {why}")),
        Err(_) => Err(format!("Post \"{url}\": context deadline exceeded")),
    }
}

async fn place(server: &Inner, client: &Value) -> Result<Place, String> {
    if let Some(url) = client["url"].as_str() {
        return by_url(url).await;
    }
    let service = &client["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text("name"), text("namespace"));
    let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let kind = find("", "v1", "services").ok_or("there are no services")?;
    let found = write::find(server, kind, &namespace, &name)
        .map_err(|_| format!("service \"{name}\" not found in namespace \"{namespace}\""))?;
    let address = ready_endpoint(server, &found.value(), &port.to_string());
    let address = address.ok_or_else(|| format!("no endpoints available for service \"{name}\""))?;
    let path = match text("path") {
        path if path.is_empty() => "/".to_owned(),
        path => path,
    };
    Ok(Place { host: format!("{name}.{namespace}.svc"), port, path, addresses: vec![address] })
}

async fn by_url(url: &str) -> Result<Place, String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let addresses = found.map_err(|error| format!("lookup {host}: {error}"))?.collect();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Place { host, port, path, addresses })
}

/// Trusts the bundle of the client's configuration, and nobody else.
fn tls(client: &Value) -> Result<ClientConfig, String> {
    let bundle = client["caBundle"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(bundle).map_err(|_| "the caBundle is not base64".to_owned())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| "the caBundle is not PEM".to_owned())?;
        roots.add(certificate).map_err(|error| format!("the caBundle: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn post(place: &Place, client: &Value, review: &Value) -> Result<Value, String> {
    let stream = TcpStream::connect(place.addresses.as_slice()).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls(client)?)).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("tls: {error}"))?;
    let request = http::Request::post(&place.path)
        .header(HOST, format!("{}:{}", place.host, place.port))
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(review.to_string()))
        .map_err(|error| error.to_string())?;
    let response = exchange(TokioIo::new(stream), request).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let bytes = body.map_err(|error| error.to_string())?.to_bytes();
    if !code.is_success() {
        return Err(format!("the server answered {code}"));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no JSON: {error}"))
}
