//! A probe or hook over HTTP.
//!
//! In: the action, the container as a [`Target`]. Out: a [`ProbeResult`]. A redirect to the same host is followed; another one ends
//! the probe with a warning, since what it leads to says nothing of the container.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::LOCATION;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use crate::prober::{MAX_OUTPUT, ProbeError, ProbeResult, Target, connect, port};
use crate::tls::accept_any;

const MAX_REDIRECTS: usize = 10;

/// Where a request goes; the host is that of the action.
struct Step {
    is_tls: bool,
    port: u16,
    /// With the query.
    path: String,
}

pub(crate) async fn http_get(action: &HTTPGetAction, target: &Target<'_>) -> Result<ProbeResult, ProbeError> {
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut step = Step {
        is_tls: action.scheme.as_deref() == Some("HTTPS"),
        port: port(&action.port, target.container)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
    };
    for _ in 0..=MAX_REDIRECTS {
        let host = authority(action, target, step.port);
        let response = ask(action, target, &step, &host).await?;
        match step.redirected(&host, &response) {
            Some(next) => step = next,
            None => return Ok(result(response).await),
        }
    }
    Err(ProbeError::Redirects)
}

fn authority(action: &HTTPGetAction, target: &Target<'_>, port: u16) -> String {
    let host = action.host.clone().filter(|host| !host.is_empty());
    host.or_else(|| target.ip.map(|ip| SocketAddr::new(ip, port).to_string())).unwrap_or_default()
}

async fn ask(
    action: &HTTPGetAction,
    target: &Target<'_>,
    step: &Step,
    host: &str,
) -> Result<Response<Incoming>, ProbeError> {
    let stream = connect(action.host.as_deref(), step.port, target).await?;
    let request = http_request(action, &step.path, host)?;
    if !step.is_tls {
        return send(stream, request).await;
    }
    let connector = tokio_rustls::TlsConnector::from(Arc::new(accept_any()));
    let ip = target.ip.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    send(connector.connect(ip.into(), stream).await.map_err(ProbeError::Tls)?, request).await
}

async fn result(response: Response<Incoming>) -> ProbeResult {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_OUTPUT).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    match parts.status {
        status if status.is_success() => ProbeResult::passed(body),
        status if status.is_redirection() => {
            ProbeResult::warned(format!("Probe terminated redirects, Response body: {body}"))
        }
        status => ProbeResult::failed(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
    }
}

impl Step {
    /// Where the response leads, if that is the same host.
    fn redirected(&self, host: &str, response: &Response<Incoming>) -> Option<Step> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        let scheme = if self.is_tls { "https" } else { "http" };
        let base = Url::parse(&format!("{scheme}://{host}{}", self.path)).ok()?;
        let next = base.join(location).ok()?;
        if next.host() != base.host() || !matches!(next.scheme(), "http" | "https") {
            return None;
        }
        // An action with a host of its own has no port in it.
        let is_same_port = next.scheme() == base.scheme() && next.port() == base.port();
        let port = if is_same_port { self.port } else { next.port_or_known_default()? };
        let query = next.query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Step { is_tls: next.scheme() == "https", port, path: format!("{}{query}", next.path()) })
    }
}

fn http_request(
    action: &HTTPGetAction,
    path: &str,
    host: &str,
) -> Result<http::Request<Empty<Bytes>>, ProbeError> {
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
    Ok(builder.body(Empty::new())?)
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Response<Incoming>, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    if answer.is_err() {
        connection.abort();
    }
    Ok(answer?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each path by what follows it: a status, and where it leads.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let (status, location) = match line.split(' ').nth(1).unwrap() {
                    "/good" | "/good?a=b" => (200, String::new()),
                    "/to-good" => (302, "/good?a=b".to_owned()),
                    "/to-bad" => (307, "bad".to_owned()),
                    "/whole" => (301, format!("http://127.0.0.1:{port}/bad")),
                    "/away" => (302, "http://0.0.0.0/".to_owned()),
                    "/loop" => (302, "/loop".to_owned()),
                    _ => (500, String::new()),
                };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn a_redirect_is_followed_to_the_same_host_and_warns_otherwise() {
        let port = IntOrString::Int(server().await.into());
        let container = Container::default();
        let target = Target { container: &container, id: "", ip: Some([127, 0, 0, 1].into()) };
        let failed = ProbeResult::failed("HTTP probe failed with statuscode: 500");
        for (path, expected) in [
            ("/good", ProbeResult::passed("body")),
            ("to-good", ProbeResult::passed("body")),
            ("/to-bad", failed.clone()),
            ("/whole", failed),
            ("/away", ProbeResult::warned("Probe terminated redirects, Response body: body")),
        ] {
            let action = HTTPGetAction { path: Some(path.into()), port: port.clone(), ..Default::default() };
            assert_eq!(http_get(&action, &target).await.unwrap(), expected, "{path}");
        }
        let action = HTTPGetAction { path: Some("/loop".into()), port, ..Default::default() };
        assert!(matches!(http_get(&action, &target).await, Err(ProbeError::Redirects)));
    }
}
