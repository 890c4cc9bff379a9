//! /exec, /attach and /portForward: the request is handed to the runtime's streaming server, and the upgraded connections are
//! joined.

use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpStream;

use super::{Body, Query, running_container, text};
use crate::cri::api;
use crate::shared::Shared;

pub(super) async fn exec(
    shared: &Shared,
    pod: &Pod,
    container: &str,
    attach: bool,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let container_id = match running_container(pod, container) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let stdin = query.flag(&["input", "stdin"]);
    let stdout = query.flag(&["output", "stdout"]);
    let tty = query.flag(&["tty"]);
    // With a terminal there is one stream only.
    let stderr = query.flag(&["error", "stderr"]) && !tty;
    let url = if attach {
        shared.cri.attach_url(api::AttachRequest { container_id, stdin, tty, stdout, stderr }).await
    } else {
        let cmd = query.all("command").to_vec();
        shared.cri.exec_url(api::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await
    };
    forward(url, request).await
}

pub(super) async fn port_forward(
    shared: &Shared,
    pod: &Pod,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sandbox = match shared.cri.observe(uid).await {
        Ok((sandboxes, _)) => sandboxes.into_iter().find(|s| s.ready),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let Some(sandbox) = sandbox else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the pod has no sandbox");
    };
    let ports = query.all("port").iter().filter_map(|p| p.parse().ok()).collect();
    forward(shared.cri.port_forward_url(&sandbox.id, ports).await, request).await
}

async fn forward(url: Result<String, crate::cri::CriError>, request: Request<Incoming>) -> Response<Body> {
    let failure = |error: &dyn std::fmt::Display| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let url = match url.map(|url| url.parse::<Uri>()) {
        Ok(Ok(url)) => url,
        Ok(Err(error)) => return failure(&error),
        Err(error) => return failure(&error),
    };
    match relay(&url, request).await {
        Ok(response) => response,
        Err(error) => failure(&format!("streaming server of the runtime: {error}")),
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn relay(url: &Uri, mut request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let authority = url.authority().ok_or("no address")?.as_str().to_owned();
    let stream = TcpStream::connect(&authority).await?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let client = hyper::upgrade::on(&mut request);
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(url.path_and_query().map_or("/", |p| p.as_str()));
    for (name, value) in request.headers() {
        if name != http::header::HOST {
            onward = onward.header(name, value);
        }
    }
    let onward =
        onward.header(http::header::HOST, authority).body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let mut response = sender.send_request(onward).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed()));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, super::full(bytes::Bytes::new())))
}
