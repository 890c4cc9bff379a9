//! A real webhook: HTTPS, with a certificate of a CA of its own.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{authority, leaf};

type Answer = Arc<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// Answers reviews by a function of the path and the request.
pub(crate) struct Webhook {
    address: String,
    bundle: String,
}

impl Webhook {
    pub(crate) async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Webhook {
        let answer: Answer = Arc::new(answer);
        let (ca, ca_pem) = authority();
        let pem = leaf(&ca, "webhook", "x");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| reply(request, answer.clone()));
                    // Its end is the client's affair.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Webhook { address, bundle: STANDARD.encode(ca_pem) }
    }

    /// The `clientConfig` for a path.
    pub(crate) fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://{}/{path}", self.address), "caBundle": self.bundle})
    }
}

async fn reply(
    request: hyper::Request<hyper::body::Incoming>,
    answer: Answer,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    if path == "sleep" {
        std::future::pending::<()>().await;
    }
    let mut response = answer(&path, &review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Ok(hyper::Response::new(Full::new(Bytes::from(answer.to_string()))))
}
