//! A real webhook that reviews tokens or requests: it serves only a client with the right certificate and bearer token, and it
//! keeps what it was asked.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};
use skep_tests::api_server::{Authority, Pem};
use skep_tests::far_end::{Answer, serve, tls};

const TOKEN: &str = "of-the-api-server";

/// From the spec of a review: the status, or the code of an answer that is none.
type Decide = Box<dyn Fn(&Value) -> Result<Value, u16> + Send + Sync>;

struct Shared {
    decide: Decide,
    asked: Mutex<Vec<Value>>,
}

pub(super) struct Reviewer {
    url: String,
    ca: Authority,
    client: Pem,
    shared: Arc<Shared>,
}

impl Reviewer {
    pub(super) async fn start(
        decide: impl Fn(&Value) -> Result<Value, u16> + Send + Sync + 'static,
    ) -> Result<Reviewer> {
        let ca = Authority::new()?;
        let (server, client) = (ca.issue("reviewer", "x")?, ca.issue("api-server", "x")?);
        let shared = Arc::new(Shared { decide: Box::new(decide), asked: Mutex::default() });
        let answering = shared.clone();
        let answer = move |request| {
            let shared = answering.clone();
            async move { shared.answer(request).await }
        };
        let address = serve(Ipv4Addr::LOCALHOST.into(), tls(&server, Some(&ca.certificate)), answer).await;
        Ok(Reviewer { url: format!("https://{address}/review"), ca, client, shared })
    }

    /// The specs of all reviews so far.
    pub(super) fn asked(&self) -> Vec<Value> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Writes the kubeconfig of the API server.
    pub(super) fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let encode = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "r", "user": "u"}}],
            "clusters": [{"name": "r", "cluster": {
                "server": self.url, "certificate-authority-data": encode(&self.ca.certificate),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": encode(&self.client.certificate),
                "client-key-data": encode(&self.client.key),
                "token": TOKEN,
            }}],
        });
        Ok(std::fs::write(path, config.to_string())?)
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let authorization = request.headers().get("authorization").cloned();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&bytes).unwrap();
        let spec = review["spec"].clone();
        self.asked.lock().unwrap().push(spec.clone());
        let is_known = authorization.is_some_and(|value| value == format!("Bearer {TOKEN}"));
        let decided = if is_known { (self.decide)(&spec) } else { Err(401) };
        let (code, status) = match decided {
            Ok(status) => (200, status),
            Err(code) => (code, Value::Null),
        };
        let body = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "status": status});
        let body = Full::new(bytes::Bytes::from(body.to_string())).boxed();
        hyper::Response::builder().status(code).body(body).unwrap()
    }
}
