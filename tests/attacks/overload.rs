//! More work, connections or memory than the server has: others are still served.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skep_apiserver::Identity;
use skep_tests::api_server::{Pem, TestApiServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// HTTP/2's preface and empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Opens TLS connections to a server.
struct Dialer {
    server: SocketAddr,
    tls: TlsConnector,
}

impl Dialer {
    /// With a client certificate, or without credentials.
    fn new(server: &TestApiServer, client: Option<&Pem>, protocol: &[u8]) -> Result<Dialer> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.ca.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?,
            )?,
        };
        config.alpn_protocols = vec![protocol.to_owned()];
        Ok(Dialer { server: server.address()?, tls: Arc::new(config).into() })
    }

    /// From an address of this machine.
    async fn dial(&self, from: IpAddr) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(self.server).await?;
        Ok(self.tls.connect("127.0.0.1".try_into()?, stream).await?)
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The answer to a GET on an HTTP/1.1 connection, headers and the first of its body.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 1 << 10];
    let length = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.context("no answer")??;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Whether the server still has the connection.
async fn is_open(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut bytes = [0; 4 << 10];
    loop {
        match timeout(Duration::from_millis(20), stream.read(&mut bytes)).await {
            Err(_) => return true,
            Ok(Ok(length)) if length > 0 => {}
            Ok(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_without_credentials_leave_room_for_others() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1_024), maximum })?;
    let server = TestApiServer::listen(|_| {}).await?;
    // The clients are in the same process.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let jane = server.ca.issue("jane", "dev")?;
    let mut jane = Dialer::new(&server, Some(&jane), b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut jane, "/version").await?.starts_with("HTTP/1.1 200"));
    let attacker = Dialer::new(&server, None, b"h2")?;
    let mut idle = Vec::new();
    for at in 0..1_100u32 {
        // From a few addresses, as a botnet would.
        let from = IpAddr::from([127, 0, 1, (at % 8) as u8 + 1]);
        let mut stream = attacker.dial(from).await?;
        stream.write_all(PREFACE).await?;
        idle.push(stream);
    }
    let mut open = 0;
    for stream in &mut idle {
        open += usize::from(is_open(stream).await);
    }
    ensure!(open <= 128, "{open} idle connections are still open");
    let mut probe = Dialer::new(&server, None, b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut probe, "/readyz").await?.starts_with("HTTP/1.1 200"));
    let admin = server.ca.issue("root", "system:masters")?;
    let mut admin = Dialer::new(&server, Some(&admin), b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut admin, "/api/v1/namespaces").await?.starts_with("HTTP/1.1 200"));
    ensure!(get(&mut jane, "/version").await?.starts_with("HTTP/1.1 200"), "a known connection was closed");
    Ok(())
}

/// Bytes of this process's resident memory.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

/// What the memory of the process may grow by: pieces in flight, and what the allocator keeps.
const MAX_GROWTH: u64 = 150 << 20;

async fn send(client: &kube::Client, request: http::request::Builder, body: Value) -> Result<String> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Ok(client.request_text(request.body(body)?).await?)
}

async fn create_large(client: &kube::Client, name: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x": "a".repeat(1_000_000)},
    });
    let request = http::Request::post("/api/v1/namespaces/default/configmaps");
    send(client, request.header("content-type", "application/json"), object).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_patches_of_a_large_object_do_not_fill_the_memory() -> Result<()> {
    let server = TestApiServer::start().await?;
    let client = server.client();
    create_large(&client, "large").await?;
    let path = "/api/v1/namespaces/default/configmaps/large";
    let patch = async |at: u32| {
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        send(&client, request, json!({"data": {"y": at.to_string()}})).await
    };
    for at in 0..20 {
        patch(at).await?;
    }
    let before = resident()?;
    for at in 0..200 {
        patch(at).await?;
    }
    let growth = resident()?.saturating_sub(before);
    ensure!(growth < MAX_GROWTH, "200 patches cost {} MiB", growth >> 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_watches_of_many_large_objects_do_not_fill_the_memory() -> Result<()> {
    let server = TestApiServer::listen(|_| {}).await?;
    let client = server.client();
    for at in 0..40 {
        create_large(&client, &format!("large-{at}")).await?;
    }
    let admin = server.ca.issue("root", "system:masters")?;
    let dialer = Dialer::new(&server, Some(&admin), b"http/1.1")?;
    let before = resident()?;
    let mut stalled = Vec::new();
    for _ in 0..25 {
        let mut stream = dialer.dial(LOCALHOST).await?;
        let path = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                    &allowWatchBookmarks=true";
        // The head and the beginning of the first object, and no more.
        ensure!(get(&mut stream, path).await?.starts_with("HTTP/1.1 200"));
        stalled.push(stream);
    }
    let growth = resident()?.saturating_sub(before);
    ensure!(growth < MAX_GROWTH, "25 stalled watches cost {} MiB", growth >> 20);
    // Those who read get every object, and then the bookmark.
    let path = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                &allowWatchBookmarks=true&timeoutSeconds=1";
    let text = send(&client, http::Request::get(path), Value::Null).await?;
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let added = events.iter().filter(|event| event["object"]["data"]["x"].is_string()).count();
    ensure!(added == 40, "{added} objects");
    let is_end =
        |event: &Value| event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"].is_string();
    let first_bookmark = events.iter().position(|event| event["type"] == "BOOKMARK");
    ensure!(first_bookmark.is_some_and(|at| at > 40 && is_end(&events[at])), "{first_bookmark:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_arrive_is_given_up() -> Result<()> {
    let server = TestApiServer::listen(|_| {}).await?;
    let admin = server.ca.issue("root", "system:masters")?;
    let mut slow = Dialer::new(&server, Some(&admin), b"http/1.1")?.dial(LOCALHOST).await?;
    let head =
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 4 << 10];
    let length = timeout(Duration::from_secs(30), slow.read(&mut answer)).await.context("no answer")??;
    let answer = String::from_utf8_lossy(&answer[..length]);
    ensure!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    ensure!(answer.contains("request did not complete within the allotted timeout"), "{answer}");
    Ok(())
}

async fn may_do_everything(client: &kube::Client, users: &[&str]) -> Result<()> {
    let subjects: Vec<Value> = users
        .iter()
        .map(|user| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}))
        .collect();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": subjects,
    });
    let request = http::Request::post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    send(client, request.header("content-type", "application/json"), binding).await.map(drop)
}

/// A create whose body never arrives.
async fn endless_create(router: Router) -> Result<http::Response<Body>> {
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let request = http::Request::post("/api/v1/namespaces/default/configmaps").body(body)?;
    Ok(TowerToHyperService::new(router).call(request).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_user_is_refused_and_does_not_delay_other_levels() -> Result<()> {
    let server = TestApiServer::start().await?;
    may_do_everything(&server.client(), &["mallory", "jane", "system:serviceaccount:a:b", "system:node:a"])
        .await?;
    let mallory = server.in_process(Identity::new("mallory", &[]));
    let mut flood = JoinSet::new();
    for _ in 0..1_500 {
        flood.spawn(endless_create(mallory.clone()));
    }
    // What exceeds her seats and queues is refused at once, the rest when its body does not arrive.
    let refused = flood.join_next().await.context("no flood")???;
    ensure!(refused.status() == http::StatusCode::TOO_MANY_REQUESTS, "{}", refused.status());
    let header =
        |name: &str| refused.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(header("retry-after") == "1", "{:?}", refused.headers());
    ensure!(header("x-kubernetes-pf-flowschema-uid").len() == 36, "{:?}", refused.headers());
    ensure!(header("x-kubernetes-pf-prioritylevel-uid").len() == 36, "{:?}", refused.headers());
    let list = || http::Request::get("/api/v1/namespaces/default/configmaps");
    for (user, group) in [
        ("root", "system:masters"),
        ("system:serviceaccount:a:b", "system:serviceaccounts"),
        ("system:node:a", "system:nodes"),
    ] {
        let client = server.client_of(Identity::new(user, &[group]));
        let answered = timeout(Duration::from_secs(3), send(&client, list(), Value::Null)).await;
        answered.with_context(|| format!("{user} waits"))??;
    }
    // One of her own level waits for seats, and is then before the rest of the flood.
    let jane = server.client_of(Identity::new("jane", &[]));
    timeout(Duration::from_secs(15), send(&jane, list(), Value::Null)).await.context("jane waits")??;
    let metrics = send(&server.client(), http::Request::get("/metrics"), Value::Null).await?;
    let refused = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"global-default\",\
                   flow_schema=\"global-default\",reason=\"queue-full\"}";
    ensure!(metrics.contains(refused), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_schemas_and_levels_exist_and_are_kept() -> Result<()> {
    let server = TestApiServer::start().await?;
    let client = server.client();
    let base = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let get = async |path: &str| -> Result<Value> {
        let text = send(&client, http::Request::get(format!("{base}/{path}")), Value::Null).await?;
        Ok(serde_json::from_str(&text)?)
    };
    ensure!(get("flowschemas").await?["items"].as_array().is_some_and(|items| items.len() == 13));
    ensure!(
        get("prioritylevelconfigurations").await?["items"].as_array().is_some_and(|items| items.len() == 8)
    );
    send(&client, http::Request::delete(format!("{base}/flowschemas/catch-all")), Value::Null).await?;
    let patch = http::Request::patch(format!("{base}/prioritylevelconfigurations/system"));
    let spec = json!({"spec": {"limited": {"nominalConcurrencyShares": 1}}});
    send(&client, patch.header("content-type", "application/merge-patch+json"), spec).await?;
    let dangling = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "mine"},
        "spec": {"priorityLevelConfiguration": {"name": "gone"}, "matchingPrecedence": 700},
    });
    let create =
        http::Request::post(format!("{base}/flowschemas")).header("content-type", "application/json");
    send(&client, create, dangling).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let condition = get("flowschemas/mine").await?["status"]["conditions"][0].clone();
        let system = get("prioritylevelconfigurations/system").await?;
        let is_kept = get("flowschemas/catch-all").await.is_ok()
            && system["spec"]["limited"]["nominalConcurrencyShares"] == 30
            && condition["type"] == "Dangling"
            && condition["status"] == "True"
            && condition["reason"] == "NotFound";
        if is_kept {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{condition} {system}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
