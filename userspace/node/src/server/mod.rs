//! The kubelet API over TLS, which the API server calls.
//!
//! In: requests for logs, exec, attach, port-forward, pods and statistics. Out: answers from the runtime and the agent's
//! context. Without the API server's certificate only /healthz is allowed.

mod logs;
mod proxy;
mod spdy;
mod stats;
mod websocket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::NodeError;
use crate::config::ServingTls;
use crate::context::NodeContext;
use crate::tls;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// The organisation in the certificates of allowed clients.
const ADMINISTRATORS: &str = "system:masters";
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A bound kubelet API.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    context: Arc<NodeContext>,
}

impl Server {
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: &ServingTls,
        context: Arc<NodeContext>,
    ) -> Result<Server, NodeError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls::server(tls)?));
        let listener = TcpListener::bind(address).await.map_err(|source| NodeError::Io {
            operation: "listen on",
            path: address.to_string(),
            source,
        })?;
        Ok(Server { listener, acceptor, context })
    }

    /// Serves until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, context) = (self.acceptor.clone(), self.context.clone());
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = connection(stream, acceptor, context) => {}
                        }
                    });
                }
                Err(error) => {
                    // Most likely there are no free file descriptors: wait until connections close.
                    tracing::warn!(%error, "accept connection failed");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, context: Arc<NodeContext>) {
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let allowed = certificate.is_some_and(|c| is_administrator(c.as_ref()));
    let service = hyper::service::service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(route(&context, allowed, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection failed");
    }
}

fn is_administrator(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate.subject().iter_organization().any(|o| o.as_str().is_ok_and(|o| o == ADMINISTRATORS))
}

async fn route(context: &Arc<NodeContext>, allowed: bool, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let ["healthz", ..] = parts.as_slice() {
        return text(StatusCode::OK, "ok");
    }
    if !allowed {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match parts.as_slice() {
        ["pods"] => json(&serde_json::json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": context.pods(),
        })),
        ["metrics"] => stats::metrics(context),
        ["stats", "summary"] => stats::summary(context).await,
        ["containerLogs", namespace, pod, container] => match context.pod(namespace, pod) {
            Some(pod) => logs::serve(context, &pod, container, &query).await,
            None => no_pod(namespace, pod),
        },
        [verb @ ("exec" | "attach"), namespace, pod, rest @ ..] if matches!(rest.len(), 1 | 2) => {
            let container = rest.last().copied().unwrap_or_default();
            match context.pod(namespace, pod) {
                Some(found) => {
                    proxy::exec(context, &found, container, *verb == "attach", &query, request).await
                }
                None => no_pod(namespace, pod),
            }
        }
        ["portForward", namespace, pod, ..] => match context.pod(namespace, pod) {
            Some(found) => proxy::port_forward(context, &found, &query, request).await,
            None => no_pod(namespace, pod),
        },
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn no_pod(namespace: &str, pod: &str) -> Response<Body> {
    text(
        StatusCode::NOT_FOUND,
        format!("pod does not exist: pod \"{pod}\" not found in namespace \"{namespace}\""),
    )
}

/// The id of the newest container of that name; an answer with the error when it does not run.
fn running_container(pod: &Pod, name: &str) -> Result<String, Box<Response<Body>>> {
    let status = pod.status.as_ref().and_then(|s| crate::plan::status::known(s, name));
    let Some(status) = status else {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        let message = format!("container not found (\"{name}\") in pod {pod}");
        return Err(Box::new(text(StatusCode::NOT_FOUND, message)));
    };
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned());
    id.filter(|_| running).ok_or_else(|| {
        Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{name}\")")))
    })
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", full(Bytes::from(text.into())))
}

fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", full(Bytes::from(value.to_string())))
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

/// A parsed query string; a name may occur more than once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(name)).or_default().push(decode(value));
        }
        Query(map)
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }

    /// True for `1` and `true`, under any of the names.
    pub(crate) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.first(name), Some("1" | "true")))
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                let digits = [ahead.next(), ahead.next()].map(|d| d.and_then(|d| char::from(d).to_digit(16)));
                match digits {
                    [Some(high), Some(low)] => {
                        out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_decode_and_repeat() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a+b%3D%26&tty=1&odd=%zz");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b=&"]);
        assert!(query.flag(&["terminal", "tty"]) && !query.flag(&["input"]));
        assert_eq!(query.first("odd"), Some("%zz"));
    }
}
