//! Health check node ports: an HTTP server for each, which answers whether the Service has an endpoint on this node.
//!
//! In: [`Published`], the network's state. Out: answers with kube-proxy's code, headers and body on every path, for load
//! balancers that expect kube-proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode, header};
use skep_netplan::health::ServiceHealth;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::NetworkState;
use crate::published::Published;

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
/// How long after a failure the port is tried again.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the engine has ended.
pub(crate) async fn run(mut published: watch::Receiver<Published>, state: watch::Receiver<NetworkState>) {
    let mut servers: BTreeMap<u16, Server> = BTreeMap::new();
    loop {
        let wanted: BTreeSet<u16> = published.borrow_and_update().health.keys().copied().collect();
        servers.retain(|port, _| wanted.contains(port));
        let mut failed = false;
        for port in wanted {
            if servers.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    drop(servers.insert(port, serve(listener, port, published.clone(), state.clone())))
                }
                Err(error) => {
                    tracing::warn!(port, %error, "listen for health checks failed");
                    failed = true;
                }
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_INTERVAL), if failed => {}
        }
    }
}

/// Stops serving when dropped.
struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens on every address of the node, of both families where the kernel has both.
pub(crate) async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((IpAddr::from(Ipv6Addr::UNSPECIFIED), port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), port)).await
        }
        listener => listener,
    }
}

fn serve(
    listener: TcpListener,
    port: u16,
    published: watch::Receiver<Published>,
    state: watch::Receiver<NetworkState>,
) -> Server {
    let router = Router::new().fallback(move || {
        let known = published.borrow().health.get(&port).cloned();
        let healthy = *state.borrow() == NetworkState::Ready;
        async move { known.map_or(StatusCode::NOT_FOUND.into_response(), |health| answer(&health, healthy)) }
    });
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(port, %error, "serve health checks failed");
        }
    });
    Server(task.abort_handle())
}

fn answer(health: &ServiceHealth, healthy: bool) -> Response {
    let count = health.local_endpoints;
    let code = match count > 0 && healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let (namespace, name) = health.service.split_once('/').unwrap_or(("", &health.service));
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, count.to_string()),
    ];
    (code, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// Repeats the request until the answer satisfies `expected`: the servers follow changes asynchronously.
    async fn until(port: u16, expected: impl Fn(Option<&str>) -> bool) -> Option<String> {
        loop {
            let answer = get(port).await;
            if expected(answer.as_deref()) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_service_is_healthy_where_it_has_an_endpoint_and_the_network_works() {
        // A port that was free; the kernel does not give it out again soon.
        let port = listen(0).await.unwrap().local_addr().unwrap().port();
        let (publish, published) = watch::channel(Published::default());
        let (network, state) = watch::channel(NetworkState::Ready);
        let running = tokio::spawn(run(published, state));
        let set_endpoints = |local_endpoints| {
            let health = ServiceHealth { service: "ns/web".into(), local_endpoints };
            publish.send_replace(Published { health: [(port, health)].into(), ..Published::default() });
        };
        set_endpoints(2);
        let answer = until(port, |answer| answer.is_some()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(answer.contains(header), "{answer}");
        }
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let service = serde_json::json!({"namespace": "ns", "name": "web"});
        assert_eq!(
            body,
            serde_json::json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        network.send_replace(NetworkState::NotReady("it failed".into()));
        let sick = |answer: Option<&str>| answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 503"));
        assert!(until(port, sick).await.unwrap().contains("\"serviceProxyHealthy\": false"));
        network.send_replace(NetworkState::Ready);
        set_endpoints(0);
        assert!(until(port, sick).await.unwrap().contains("\"localEndpoints\": 0"));
        publish.send_replace(Published::default());
        until(port, |answer| answer.is_none()).await;
        drop(publish);
        running.await.unwrap();
    }
}
