//! Endpoints: servers that answer as their path says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server that echoes what it gets as JSON. HTTP/1.1, and HTTP/2 without TLS.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Endpoint {
    pub(crate) async fn start(name: &'static str) -> Endpoint {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let mut endpoint = Endpoint::of(move |stream| serve(stream, name, counted.clone())).await;
        endpoint.requests = requests;
        endpoint
    }

    /// A server that does with each connection what `serve` does.
    pub(crate) async fn of<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Endpoint { address, requests: Arc::default(), _tasks: tasks }
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

pub(crate) async fn serve<S>(stream: S, name: &'static str, requests: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        requests.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(name, request).await) }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

async fn answer(name: &'static str, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/trailers" {
        return trailers();
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if head.uri.path() == "/echo" {
        return Response::new(Full::new(body).boxed());
    }
    if let Some(ms) = head.uri.query().and_then(|query| query.strip_prefix("ms=")?.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    let headers: Vec<Value> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let echo = json!({
        "server": name,
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "bytes": body.len(),
    });
    let mut response = Response::new(Full::new(Bytes::from(echo.to_string())).boxed());
    response.headers_mut().insert("connection", HeaderValue::from_static("x-hop"));
    response.headers_mut().insert("x-hop", HeaderValue::from_static("1"));
    response
}

/// As gRPC: pieces, and a status in the trailers.
fn trailers() -> Response<BoxBody<Bytes, Infallible>> {
    let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let frames = [
        Frame::data(Bytes::from_static(b"one")),
        Frame::data(Bytes::from_static(b"two")),
        Frame::trailers(status),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok))).boxed();
    Response::builder().header("trailer", "grpc-status").body(body).unwrap()
}

/// The value of a header in an echo.
pub(crate) fn echoed(text: &str, name: &str) -> Option<String> {
    let echo: Value = serde_json::from_str(text).unwrap();
    let mut all = echo["headers"].as_array()?.iter().filter(|pair| pair[0] == name);
    let first = all.next()?[1].as_str()?.to_owned();
    assert!(all.next().is_none(), "{name} came twice: {text}");
    Some(first)
}

pub(crate) fn field(text: &str, name: &str) -> String {
    let echo: Value = serde_json::from_str(text).unwrap();
    echo[name].as_str().map_or_else(|| echo[name].to_string(), str::to_owned)
}
