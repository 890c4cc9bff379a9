//! HEAD is answered as GET without the body, on either version of HTTP (RFC 9110, 9.3.2).

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
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
