//! /exec, /attach and /portForward.
//!
//! In: the client's upgrade request. Out: the same request to the runtime's streaming server; the two upgraded
//! connections are joined.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpStream;

use super::answer::{Body, full, text};
use super::idle;
use super::query::Query;
use super::websocket::{self, Streams};
use crate::context::NodeContext;
use crate::cri::{CriError, api};

pub(super) async fn exec(
    context: &NodeContext,
    pod: &Pod,
    container: &str,
    attach: bool,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let timeout = context.streaming_idle_timeout;
    let container_id = match running_container(pod, container) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let stdin = query.flag(&["input", "stdin"]);
    let stdout = query.flag(&["output", "stdout"]);
    let tty = query.flag(&["tty"]);
    // A terminal has one output stream.
    let stderr = query.flag(&["error", "stderr"]) && !tty;
    let url = if attach {
        context.cri.attach_url(api::AttachRequest { container_id, stdin, tty, stdout, stderr }).await
    } else {
        let cmd = query.all("command").to_vec();
        context.cri.exec_url(api::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await
    };
    if websocket::offers(&request, websocket::V5) {
        let streams = Streams { stdin, stdout, stderr, tty };
        return match connect(url, &[(VERSION_HEADER, "v4.channel.k8s.io")]).await {
            Ok(server) => {
                let (server, activity) = idle::watch(server);
                websocket::accept(request, websocket::V5, move |client| async move {
                    tokio::select! {
                        result = websocket::channels(client, server, streams) => result,
                        () = activity.idle(timeout) => Err(ErrorKind::TimedOut.into()),
                    }
                })
            }
            Err(error) => failure(&error),
        };
    }
    forward(url, request, timeout).await
}

pub(super) async fn port_forward(
    context: &NodeContext,
    pod: &Pod,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let timeout = context.streaming_idle_timeout;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sandbox = match context.cri.observe(uid).await {
        Ok((sandboxes, _)) => sandboxes.into_iter().find(|s| s.ready),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let Some(sandbox) = sandbox else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the pod has no sandbox");
    };
    let ports = query.all("port").iter().filter_map(|p| p.parse().ok()).collect();
    let url = context.cri.port_forward_url(&sandbox.id, ports).await;
    if websocket::offers(&request, websocket::TUNNEL) {
        return match connect(url, &[(VERSION_HEADER, "portforward.k8s.io")]).await {
            Ok(server) => {
                let (server, activity) = idle::watch(server);
                websocket::accept(request, websocket::TUNNEL, move |client| async move {
                    tokio::select! {
                        result = websocket::tunnel(client, server) => result,
                        () = activity.idle(timeout) => Err(ErrorKind::TimedOut.into()),
                    }
                })
            }
            Err(error) => failure(&error),
        };
    }
    forward(url, request, timeout).await
}

const VERSION_HEADER: &str = "x-stream-protocol-version";

type Error = Box<dyn std::error::Error + Send + Sync>;

fn failure(error: &Error) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("streaming server of the runtime: {error}"))
}

async fn forward(
    url: Result<String, CriError>,
    request: Request<Incoming>,
    timeout: Duration,
) -> Response<Body> {
    match relay(url, request, timeout).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    }
}

/// A SPDY connection to the streaming server.
async fn connect(
    url: Result<String, CriError>,
    headers: &[(&str, &str)],
) -> Result<TokioIo<Upgraded>, Error> {
    let mut request = Request::post("/").header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = send_head(url, request.body(())?).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("answered {}", response.status()).into());
    }
    Ok(TokioIo::new(hyper::upgrade::on(&mut response).await?))
}

/// Sends a request's head to the URL that the streaming server gave.
async fn send_head<B>(
    url: Result<String, CriError>,
    request: Request<B>,
) -> Result<Response<Incoming>, Error> {
    let url: Uri = url?.parse()?;
    let authority = url.authority().ok_or("no address")?.as_str().to_owned();
    let stream = TcpStream::connect(&authority).await?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    let mut forwarded = Request::builder().method(request.method().clone()).uri(path);
    for (name, value) in request.headers().iter().filter(|(name, _)| *name != http::header::HOST) {
        forwarded = forwarded.header(name, value);
    }
    let forwarded = forwarded.header(http::header::HOST, authority).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(forwarded).await?)
}

async fn relay(
    url: Result<String, CriError>,
    mut request: Request<Incoming>,
    timeout: Duration,
) -> Result<Response<Body>, Error> {
    let client = hyper::upgrade::on(&mut request);
    let mut response = send_head(url, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed()));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let mut client = TokioIo::new(client);
                let (mut server, activity) = idle::watch(TokioIo::new(server));
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = activity.idle(timeout) => tracing::debug!("close idle stream"),
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, full(Bytes::new())))
}

/// The id of the newest container of that name; an answer with the error when it does not run.
/// The id of a container that runs, or the answer that says why there is none.
pub(super) fn running_container(pod: &Pod, name: &str) -> Result<String, Box<Response<Body>>> {
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
