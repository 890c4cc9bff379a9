//! What probes and lifecycle hooks do: run a command, ask over HTTP, TCP or gRPC.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::cri::Cri;
use crate::tls::accept_any;

/// The longest answer that is read.
const BODY_LIMIT: usize = 10 << 10;

/// The result of a probe: whether it passed, and what the other side said.
pub(crate) type Verdict = (bool, String);

/// Where a container can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) container: &'a Container,
    pub(crate) id: &'a str,
    pub(crate) ip: Option<IpAddr>,
}

/// Runs a probe within its timeout.
pub(crate) async fn probe(cri: &Cri, probe: &Probe, target: &Target<'_>) -> Verdict {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec(cri, action, target, timeout).await;
    }
    let work = async {
        if let Some(action) = &probe.http_get {
            http_get(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(action, target).await.map(|()| (true, String::new()))
        } else if let Some(action) = &probe.grpc {
            grpc(action, target).await
        } else {
            Err("the probe has no handler".to_owned())
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(message)) => (false, message),
        Err(_) => (false, format!("no answer within {}s (context deadline exceeded)", timeout.as_secs())),
    }
}

/// Runs a lifecycle hook; the error is what went wrong.
pub(crate) async fn hook(
    cri: &Cri,
    handler: &LifecycleHandler,
    target: &Target<'_>,
    limit: Duration,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let (success, output) = exec(cri, action, target, limit).await;
        return if success { Ok(()) } else { Err(output) };
    }
    let work = async {
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(action) = &handler.http_get {
            // A hook's answer has no bearing, except that there must be one.
            return http_get(action, target).await.map(drop);
        }
        if let Some(action) = &handler.tcp_socket {
            return tcp(action, target).await;
        }
        Ok(())
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("the hook did not end in time".to_owned()))
}

async fn exec(cri: &Cri, action: &ExecAction, target: &Target<'_>, timeout: Duration) -> Verdict {
    let command = action.command.clone().unwrap_or_default();
    match cri.exec_sync(target.id, command, timeout).await {
        Ok(response) => {
            let mut output = String::from_utf8_lossy(&response.stdout).into_owned();
            output.push_str(&String::from_utf8_lossy(&response.stderr));
            let output = output.chars().take(BODY_LIMIT).collect();
            (response.exit_code == 0, output)
        }
        Err(error) => (false, error.to_string()),
    }
}

/// A port by number or by the container's name for it.
fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_ref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port {wanted:?} of container {}", container.name))
}

async fn connect(host: Option<&str>, port: u16, target: &Target<'_>) -> Result<TcpStream, String> {
    let stream = match (host.filter(|h| !h.is_empty()), target.ip) {
        (Some(host), _) => TcpStream::connect((host, port)).await,
        (None, Some(ip)) => TcpStream::connect(SocketAddr::new(ip, port)).await,
        (None, None) => return Err("the pod has no address".to_owned()),
    };
    let place = host.map(str::to_owned).or_else(|| target.ip.map(|ip| ip.to_string())).unwrap_or_default();
    stream.map_err(|error| format!("dial tcp {place}:{port}: {error}"))
}

async fn tcp(action: &TCPSocketAction, target: &Target<'_>) -> Result<(), String> {
    connect(action.host.as_deref(), port(&action.port, target.container)?, target).await.map(drop)
}

async fn http_get(action: &HTTPGetAction, target: &Target<'_>) -> Result<Verdict, String> {
    let port = port(&action.port, target.container)?;
    let stream = connect(action.host.as_deref(), port, target).await?;
    let host = action.host.clone().filter(|h| !h.is_empty());
    let host = host.or_else(|| target.ip.map(|ip| SocketAddr::new(ip, port).to_string())).unwrap_or_default();
    let request = http_request(action, &host)?;
    let response = if action.scheme.as_deref() == Some("HTTPS") {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(accept_any()));
        let ip = target.ip.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let stream = connector.connect(ip.into(), stream).await.map_err(|e| e.to_string())?;
        send(stream, request).await?
    } else {
        send(stream, request).await?
    };
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    // A redirect leads elsewhere, which is a success with a warning upstream.
    if parts.status.is_success() || parts.status.is_redirection() {
        return Ok((true, String::from_utf8_lossy(&body).into_owned()));
    }
    Ok((false, format!("HTTP probe failed with statuscode: {}", parts.status.as_u16())))
}

fn http_request(action: &HTTPGetAction, host: &str) -> Result<http::Request<Empty<Bytes>>, String> {
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let headers: &[HTTPHeader] = action.http_headers.as_deref().unwrap_or_default();
    let given = |name: &str| headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let mut builder = http::Request::get(path);
    if !given("host") {
        builder = builder.header("host", host);
    }
    if !given("user-agent") {
        builder = builder.header("user-agent", "kube-probe/1.36");
    }
    if !given("accept") {
        builder = builder.header("accept", "*/*");
    }
    builder = builder.header("connection", "close");
    for header in headers {
        builder = builder.header(header.name.as_str(), header.value.as_str());
    }
    builder.body(Empty::new()).map_err(|error| error.to_string())
}

async fn send<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
) -> Result<http::Response<hyper::body::Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string());
    if answer.is_err() {
        connection.abort();
    }
    answer
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// grpc.health.v1.Health/Check.
async fn grpc(action: &GRPCAction, target: &Target<'_>) -> Result<Verdict, String> {
    const SERVING: i32 = 1;
    let ip = target.ip.ok_or("the pod has no address")?;
    let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
    let uri = format!("http://{}", SocketAddr::new(ip, port));
    let endpoint = tonic::transport::Endpoint::from_shared(uri).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| format!("{e:?}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = HealthCheckRequest { service: action.service.clone().unwrap_or_default() };
    let answer = client.unary(tonic::Request::new(request), path, codec).await.map_err(|s| s.to_string())?;
    match answer.into_inner().status {
        SERVING => Ok((true, "service responded with SERVING".to_owned())),
        other => Ok((false, format!("service unhealthy (responded with {other})"))),
    }
}
