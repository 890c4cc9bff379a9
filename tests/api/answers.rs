//! Forms of answers: HEAD, which is GET without the body (RFC 9110, 9.3.2), YAML, and watches by the path of old clients.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::Server;

const PATHS: [&str; 3] = ["/api/v1/namespaces/default", "/api/v1/namespaces/absent", "/version"];

fn request(method: &Method, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).header("host", "skep");
    request.uri(format!("https://skep{path}")).body(Full::default()).unwrap()
}

/// Status, type and stated length, then the length of the body.
async fn summary(response: Response<Incoming>) -> (String, usize) {
    let header = |name| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let head = format!("{} {} {}", response.status(), header(CONTENT_TYPE), header(CONTENT_LENGTH));
    (head, response.into_body().collect().await.unwrap().to_bytes().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn head_over_http1_has_the_headers_of_get() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for path in PATHS {
        connection.ready().await.unwrap();
        let got = summary(connection.send_request(request(&Method::GET, path)).await.unwrap()).await;
        connection.ready().await.unwrap();
        let head = summary(connection.send_request(request(&Method::HEAD, path)).await.unwrap()).await;
        assert!(got.1 > 0, "{path}: {got:?}");
        assert_eq!(head, (got.0, 0), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_over_http2_has_the_headers_of_get() {
    let server = Server::start().await;
    let stream = TokioIo::new(server.stream().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    for path in PATHS {
        let got = summary(sender.send_request(request(&Method::GET, path)).await.unwrap()).await;
        let head = summary(sender.send_request(request(&Method::HEAD, path)).await.unwrap()).await;
        assert!(got.1 > 0, "{path}: {got:?}");
        assert_eq!(head, (got.0, 0), "{path}");
    }
}

/// Status, type and text of an answer.
async fn answer(server: &Server, path: &str, accept: &str) -> (u16, String, String) {
    let mut connection = server.connect().await;
    let mut request = request(&Method::GET, path);
    request.headers_mut().insert(ACCEPT, accept.parse().unwrap());
    let response = connection.send_request(request).await.unwrap();
    let media = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, media, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_prefer_yaml_get_what_others_get_as_json() {
    let server = Server::start().await;
    for path in [PATHS[0], PATHS[1], "/api/v1/namespaces", "/api/v1", "/apis"] {
        let (code, _, json) = answer(&server, path, "application/json").await;
        let (of_yaml, media, yaml) = answer(&server, path, "application/yaml, application/json").await;
        assert_eq!((of_yaml, media.as_str()), (code, "application/yaml"), "{path}");
        let mut read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        let mut wanted: serde_json::Value = serde_json::from_str(&json).unwrap();
        // Other kinds may have been written between the two reads of a list.
        for list in [&mut read, &mut wanted].into_iter().filter(|value| value["items"].is_array()) {
            list["metadata"].take();
        }
        assert_eq!(read, wanted, "{path}");
    }
    let (code, media, _) = answer(&server, PATHS[0], "application/json, application/yaml").await;
    assert_eq!((code, media.as_str()), (200, "application/json"));
    let (code, _, text) = answer(&server, "/api/v1/namespaces?watch=true", "application/yaml").await;
    assert_eq!(code, 406, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_path_of_old_clients_is_a_watch() {
    let server = Server::start().await;
    let watched = async |path: &str| {
        let (code, _, text) = answer(&server, &format!("{path}?timeoutSeconds=1"), "application/json").await;
        assert_eq!(code, 200, "{text}");
        let names = text.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["type"], "ADDED");
            event["object"]["metadata"]["name"].as_str().unwrap().to_owned()
        });
        names.collect::<Vec<String>>()
    };
    let all = watched("/api/v1/watch/namespaces").await;
    assert!(all.len() > 1, "{all:?}");
    assert_eq!(watched("/api/v1/watch/namespaces/default").await, ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_beyond_those_of_kubernetes_are_explained_with_their_texts() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("explain loadbalancerpool", "", "Addresses for Services of type LoadBalancer.");
        server.ok("explain loadbalancerpools.spec.cidrs", "", "Ranges of addresses");
        server.ok("explain lbpool.spec.serviceSelector.matchLabels", "", "FIELD: matchLabels");
        let metrics = "--api-version=metrics.k8s.io/v1beta1";
        server.ok(&format!("explain nodes {metrics}"), "", "What a node uses.");
        server.ok(&format!("explain pods.containers.usage {metrics}"), "", "CPU in cores");
    })
    .await
    .unwrap();
}
