//! Annotations of ingress-nginx, each with real requests: an Ingress becomes a configuration, and the gateway serves it.

mod clients;
mod endpoints;
mod routes;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use skep_gateway::ingress::annotations::{PREFIX, Support, names, support};
use skep_gateway::ingress::{CONTROLLER, Index, Ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::harness::{Answer, HTTP, HTTPS, Http1, TestGateway, limits};
use clients::{CLIENTS, CORS, EXTERNAL, RATES};
use endpoints::{ATTEMPTS, ERRORS, RESPONSES};
use routes::{CANARIES, PATHS, REDIRECTS, SESSIONS};
use tls::{CERTIFICATES, ENDPOINTS};

/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
/// Of the tests below, in their order.
const COVERED: [&[&str]; 13] = [
    PATHS,
    REDIRECTS,
    CANARIES,
    SESSIONS,
    CLIENTS,
    EXTERNAL,
    RATES,
    CORS,
    ATTEMPTS,
    ERRORS,
    RESPONSES,
    CERTIFICATES,
    ENDPOINTS,
];

#[test]
fn each_annotation_that_is_served_has_a_test() {
    let covered: BTreeSet<&str> = COVERED.iter().copied().flatten().copied().collect();
    let served: BTreeSet<&str> = names()
        .filter(|name| support(&format!("{PREFIX}{name}")).is_some_and(|(found, _)| found == Support::Served))
        .collect();
    assert_eq!(covered, served);
    let sources = concat!(
        include_str!("clients.rs"),
        include_str!("endpoints.rs"),
        include_str!("routes.rs"),
        include_str!("tls.rs")
    );
    // In its list, and where its requests are sent.
    let unused = covered.iter().filter(|name| sources.matches(&format!("\"{name}\"")).count() < 2);
    assert_eq!(unused.collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Objects of one namespace.
struct World {
    index: Index,
    /// The Secret with the certificate of the Ingresses.
    tls: Option<&'static str>,
    problems: Vec<&'static str>,
}

impl World {
    fn new() -> World {
        let mut index = Index::new(Ports { http: Some(HTTP), https: Some(HTTPS) });
        for name in ["skep", "nginx"] {
            let class = json!({"metadata": {"name": name}, "spec": {"controller": CONTROLLER}});
            index.apply_class(&serde_json::from_value(class).unwrap());
        }
        World { index, tls: None, problems: Vec::new() }
    }

    fn service(mut self, name: &str, endpoints: &[SocketAddr]) -> World {
        let port = endpoints.first().map_or(1, |endpoint| endpoint.port());
        let meta = json!({"namespace": "ns", "name": name});
        let spec = json!({"clusterIP": "127.0.0.1", "ports": [{"name": "http", "port": port}]});
        let service = json!({"metadata": meta, "spec": spec});
        self.index.apply_service(&serde_json::from_value(service).unwrap());
        for (at, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({
                "metadata": {"namespace": "ns", "name": format!("{name}-{at}"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": endpoint.port()}],
                "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
            });
            self.index.apply_slice(&serde_json::from_value(slice).unwrap());
        }
        self
    }

    fn secret(mut self, name: &str, data: &[(&str, &str)]) -> World {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), json!(BASE64_STANDARD.encode(text))));
        let secret = json!({"data": Value::Object(data.collect())});
        let key = format!("ns/{name}").as_str().into();
        self.index.apply_secret(&key, Some(&serde_json::from_value(secret).unwrap()), NOW);
        self
    }

    fn config_map(mut self, name: &str, data: &[(&str, &str)]) -> World {
        let data: Value = data.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        let config_map = serde_json::from_value(json!({"data": data})).unwrap();
        self.index.apply_config_map(&format!("ns/{name}").as_str().into(), Some(&config_map));
        self
    }

    /// Ingresses have TLS.
    fn tls(mut self, secret: &'static str) -> World {
        self.tls = Some(secret);
        self
    }

    /// An Ingress of the host `a.com`, with paths and their Services.
    fn ingress(self, name: &str, annotations: &[(&str, &str)], paths: &[(&str, &str)]) -> World {
        self.ingress_of("a.com", name, annotations, paths)
    }

    fn ingress_of(
        mut self,
        host: &str,
        name: &str,
        annotations: &[(&str, &str)],
        paths: &[(&str, &str)],
    ) -> World {
        let annotations = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value)));
        let paths = paths.iter().map(|(path, service)| {
            json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"name": "http"}}}})
        });
        let tls = self.tls.iter().map(|secret| json!({"hosts": [host], "secretName": secret}));
        let rule = json!({"host": host, "http": {"paths": paths.collect::<Vec<_>>()}});
        let object = json!({
            "metadata": {"namespace": "ns", "name": name, "annotations": Value::Object(annotations.collect())},
            "spec": {"ingressClassName": "skep", "rules": [rule], "tls": tls.collect::<Vec<_>>()},
        });
        self.index.apply_ingress(&serde_json::from_value(object).unwrap());
        self
    }

    async fn start(mut self) -> TestGateway {
        let compiled = self.index.compile(NOW);
        self.problems = compiled.problems.iter().map(|problem| problem.reason()).collect();
        assert!(self.problems.is_empty(), "{:?}", compiled.problems);
        TestGateway::of(&compiled.config, limits()).await
    }
}

/// The path `/` of `a.com` with these annotations.
async fn simple(annotations: &[(&str, &str)], endpoints: &[SocketAddr]) -> TestGateway {
    World::new().service("web", endpoints).ingress("web", annotations, &[("/", "web")]).start().await
}

async fn send(gateway: &TestGateway, uri: &str, headers: &[(&str, &str)]) -> Answer {
    send_as(gateway, "GET", uri, headers, "").await
}

/// `uri`: HOST and path.
async fn send_as(
    gateway: &TestGateway,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let (host, path) = uri.split_at(uri.find('/').unwrap());
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    Http1::connect(gateway.http).await.send(request).await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// An endpoint that answers each request with the same bytes.
async fn says(bytes: &'static str) -> Endpoint {
    Endpoint::of(move |mut stream: TcpStream| async move {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    })
    .await
}
