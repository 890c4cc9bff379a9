//! Performs probes and lifecycle hooks: a command, HTTP, TCP or gRPC.
//!
//! In: the handler from the pod's spec, the container as a [`Target`]. Out: a [`ProbeResult`], or whether a hook failed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::cri::Cri;
use crate::http_probe::http_get;

/// The most bytes of an answer that are read, and the most characters of a command's output that are kept.
pub(crate) const MAX_OUTPUT: usize = 10 << 10;

/// Whether a probe passed, and the output or the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeResult {
    pub(crate) success: bool,
    pub(crate) output: String,
    /// It passed, and the author of the probe should know of the output.
    pub(crate) warns: bool,
}

impl ProbeResult {
    pub(crate) fn passed(output: impl Into<String>) -> ProbeResult {
        ProbeResult { success: true, output: output.into(), warns: false }
    }

    pub(crate) fn failed(output: impl Into<String>) -> ProbeResult {
        ProbeResult { success: false, output: output.into(), warns: false }
    }

    pub(crate) fn warned(output: impl Into<String>) -> ProbeResult {
        ProbeResult { success: true, output: output.into(), warns: true }
    }
}

/// Why a handler could not run, or that a hook failed. The texts appear in events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("the probe has no handler")]
    NoHandler,
    #[error("the pod has no address")]
    NoAddress,
    #[error("invalid port {port:?} of container {container}")]
    ContainerPort { port: IntOrString, container: String },
    #[error("invalid port {0}")]
    Port(i32),
    #[error("dial tcp {host}:{port}: {source}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error(transparent)]
    Tls(io::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("stopped after 10 redirects")]
    Redirects,
    #[error("{0:?}")]
    Channel(tonic::transport::Error),
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    #[error("{0}")]
    Grpc(Box<tonic::Status>),
    /// The output of a hook's command that failed.
    #[error("{0}")]
    Command(String),
    #[error("the hook did not end in time")]
    Timeout,
}

/// How a container can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) container: &'a Container,
    pub(crate) id: &'a str,
    pub(crate) ip: Option<IpAddr>,
}

/// Runs a probe within its timeout.
pub(crate) async fn probe(cri: &Cri, probe: &Probe, target: &Target<'_>) -> ProbeResult {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec(cri, action, target, timeout).await;
    }
    let work = async {
        if let Some(action) = &probe.http_get {
            http_get(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(action, target).await.map(|()| ProbeResult::passed(""))
        } else if let Some(action) = &probe.grpc {
            grpc(action, target).await
        } else {
            Err(ProbeError::NoHandler)
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => ProbeResult::failed(error.to_string()),
        Err(_) => {
            let output = format!("no answer within {}s (context deadline exceeded)", timeout.as_secs());
            ProbeResult::failed(output)
        }
    }
}

/// Runs a lifecycle hook for at most `limit`.
pub(crate) async fn hook(
    cri: &Cri,
    handler: &LifecycleHandler,
    target: &Target<'_>,
    limit: Duration,
) -> Result<(), ProbeError> {
    if let Some(action) = &handler.exec {
        let ProbeResult { success, output, .. } = exec(cri, action, target, limit).await;
        return if success { Ok(()) } else { Err(ProbeError::Command(output)) };
    }
    let work = async {
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(action) = &handler.http_get {
            // Any answer counts as success of a hook.
            return http_get(action, target).await.map(drop);
        }
        if let Some(action) = &handler.tcp_socket {
            return tcp(action, target).await;
        }
        Ok(())
    };
    tokio::time::timeout(limit, work).await.unwrap_or(Err(ProbeError::Timeout))
}

async fn exec(cri: &Cri, action: &ExecAction, target: &Target<'_>, timeout: Duration) -> ProbeResult {
    let command = action.command.clone().unwrap_or_default();
    match cri.exec_sync(target.id, command, timeout).await {
        Ok(response) => {
            let mut output = String::from_utf8_lossy(&response.stdout).into_owned();
            output.push_str(&String::from_utf8_lossy(&response.stderr));
            let output: String = output.chars().take(MAX_OUTPUT).collect();
            if response.exit_code == 0 { ProbeResult::passed(output) } else { ProbeResult::failed(output) }
        }
        Err(error) => ProbeResult::failed(error.to_string()),
    }
}

/// A port by number or by the container's name for it.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, ProbeError> {
    let number = match port {
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
        .ok_or_else(|| ProbeError::ContainerPort { port: port.clone(), container: container.name.clone() })
}

pub(crate) async fn connect(
    host: Option<&str>,
    port: u16,
    target: &Target<'_>,
) -> Result<TcpStream, ProbeError> {
    let stream = match (host.filter(|h| !h.is_empty()), target.ip) {
        (Some(host), _) => TcpStream::connect((host, port)).await,
        (None, Some(ip)) => TcpStream::connect(SocketAddr::new(ip, port)).await,
        (None, None) => return Err(ProbeError::NoAddress),
    };
    let host = host.map(str::to_owned).or_else(|| target.ip.map(|ip| ip.to_string())).unwrap_or_default();
    stream.map_err(|source| ProbeError::Connect { host, port, source })
}

async fn tcp(action: &TCPSocketAction, target: &Target<'_>) -> Result<(), ProbeError> {
    connect(action.host.as_deref(), port(&action.port, target.container)?, target).await.map(drop)
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
async fn grpc(action: &GRPCAction, target: &Target<'_>) -> Result<ProbeResult, ProbeError> {
    const SERVING: i32 = 1;
    let ip = target.ip.ok_or(ProbeError::NoAddress)?;
    let port = u16::try_from(action.port).map_err(|_| ProbeError::Port(action.port))?;
    let uri = format!("http://{}", SocketAddr::new(ip, port));
    let endpoint = tonic::transport::Endpoint::from_shared(uri)?;
    let channel = endpoint.connect().await.map_err(ProbeError::Channel)?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = HealthCheckRequest { service: action.service.clone().unwrap_or_default() };
    let answer = client
        .unary(tonic::Request::new(request), path, codec)
        .await
        .map_err(|status| ProbeError::Grpc(Box::new(status)))?;
    match answer.into_inner().status {
        SERVING => Ok(ProbeResult::passed("service responded with SERVING")),
        other => Ok(ProbeResult::failed(format!("service unhealthy (responded with {other})"))),
    }
}
