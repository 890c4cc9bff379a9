//! The kubelet API over TLS, which the API server calls.
//!
//! In: requests for logs, exec, attach, port-forward, pods, statistics and flows. Out: answers from the runtime and the agent's
//! context. The API server's certificate may do everything, a token what the API server says of it.

pub(crate) mod access;
mod answer;
mod cadvisor;
mod checkpoint;
mod connections;
mod exposition;
mod flows;
mod idle;
mod logs;
mod metrics;
mod probe_metrics;
mod proxy;
mod query;
mod resource_metrics;
mod run;
mod running_pods;
mod spdy;
mod summary;
mod system_logs;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::NodeError;
use crate::config::ServingTls;
use crate::context::NodeContext;
use crate::tls;
use answer::{Body, json, text};
use connections::{Connections, Slot};
use query::Query;

/// The common name in the API server's client certificate. The CA that signs it signs nothing else.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The time that a client has for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for a request's headers, and for which an idle connection stays open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time of a connection, after its handshake, until its client has shown who it is.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound kubelet API.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    context: Arc<NodeContext>,
    connections: Connections,
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
        Ok(Server { listener, acceptor, context, connections: Connections::default() })
    }

    /// Serves until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, context) = (self.acceptor.clone(), self.context.clone());
                    let (stop, slot) = (stop.clone(), self.connections.enter(peer.ip()));
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = slot.evicted() => {}
                            () = connection(stream, acceptor, context, &slot) => {}
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

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, context: Arc<NodeContext>, slot: &Slot) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let is_api_server = certificate.is_some_and(|c| is_api_server(c.as_ref()));
    // Cancelled once the client has shown who it is.
    let known = CancellationToken::new();
    if is_api_server {
        known.cancel();
    }
    let of_requests = known.clone();
    let service = hyper::service::service_fn(move |request| {
        let (context, known) = (context.clone(), of_requests.clone());
        async move { Ok::<_, Infallible>(authorized(&context, is_api_server, &known, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let stays_unknown = async {
        if timeout(UNKNOWN_TIMEOUT, known.cancelled()).await.is_ok() {
            slot.allowed();
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "connection failed");
        },
        () = stays_unknown => {}
    }
}

fn is_api_server(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let names: Vec<_> = certificate.subject().iter_common_name().map(|name| name.as_str()).collect();
    matches!(names.as_slice(), [Ok(API_SERVER)])
}

async fn authorized(
    context: &Arc<NodeContext>,
    is_api_server: bool,
    known: &CancellationToken,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    if !is_api_server {
        if let Err(refusal) = context.access.check(&head).await {
            return *refusal;
        }
        known.cancel();
    }
    route(context, Request::from_parts(head, body)).await
}

async fn route(context: &Arc<NodeContext>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match parts.as_slice() {
        ["healthz", ..] => text(StatusCode::OK, "ok"),
        ["configz"] => json(&context.configuration),
        ["runningpods"] => running_pods::serve(&context.cri).await,
        ["logs", ..] => {
            let below = path.trim_start_matches('/').strip_prefix("logs").unwrap_or_default();
            let below = query::percent_decode(below.trim_start_matches('/'));
            system_logs::serve(&context.system_logs, request.method(), &below, &query).await
        }
        ["checkpoint", namespace, pod, container] => match context.pod(namespace, pod) {
            Some(pod) => checkpoint::serve(context, request.method(), &pod, container, &query).await,
            None => no_pod(namespace, pod),
        },
        ["run", namespace, pod, rest @ ..] if matches!(rest.len(), 1 | 2) => {
            let container = rest.last().copied().unwrap_or_default();
            match context.pod(namespace, pod) {
                Some(pod) => run::serve(context, request.method(), &pod, container, &query).await,
                None => no_pod(namespace, pod),
            }
        }
        ["pods"] => json(&serde_json::json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": context.pods(),
        })),
        ["metrics"] => metrics::metrics(context),
        ["metrics", "resource"] => resource_metrics::serve(context).await,
        ["metrics", "probes"] => probe_metrics::serve(&context.probes),
        ["metrics", "cadvisor"] => cadvisor::serve(context).await,
        ["flows"] => flows::serve(context, request.uri().query().unwrap_or_default()),
        ["stats", "summary"] => summary::serve(context, &query).await,
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
