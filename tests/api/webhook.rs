//! A real webhook: HTTPS, with a certificate of a CA of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use skep_tests::api_server::Authority;
use skep_tests::far_end::{self, serve, tls};

type Answer = Arc<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// Answers reviews by a function of the path and the request.
pub(crate) struct Webhook {
    address: String,
    bundle: String,
}

impl Webhook {
    pub(crate) async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Webhook {
        let answer: Answer = Arc::new(answer);
        let ca = Authority::new().unwrap();
        let pem = ca.issue("webhook", "x").unwrap();
        let serving = move |request| reply(request, answer.clone());
        let address = serve(Ipv4Addr::LOCALHOST.into(), tls(&pem, None), serving).await.to_string();
        Webhook { address, bundle: STANDARD.encode(&ca.certificate) }
    }

    /// The `clientConfig` for a path.
    pub(crate) fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://{}/{path}", self.address), "caBundle": self.bundle})
    }
}

async fn reply(request: hyper::Request<hyper::body::Incoming>, answer: Answer) -> far_end::Answer {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    if path == "sleep" {
        std::future::pending::<()>().await;
    }
    let mut response = answer(&path, &review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    hyper::Response::new(Full::new(Bytes::from(answer.to_string())).boxed())
}
