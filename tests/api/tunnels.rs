//! Real agents' ends of tunnels against a server with TLS; and what names the server: the `kubernetes` Service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Client, Resource};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::json;
use skep_apiserver::Identity;
use skep_tests::api_server::{Pem, TestApiServer};
use skep_tests::far_end::{self, own_address, serve, tls};
use skep_tests::server_process::ServerProcess;
use skep_tunnel::{Keeper, Reach, ServerAddress};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// One address: that of the node's only pod.
struct OnePod(SocketAddr);

impl Reach for OnePod {
    fn permits(&self, address: SocketAddr) -> bool {
        address == self.0
    }
}

/// The tunnel of a node; it ends with the token.
fn keep(
    node: &str,
    server: SocketAddr,
    ca: &str,
    certificate: &Pem,
    reach: OnePod,
) -> (Keeper, CancellationToken) {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let chain =
        CertificateDer::pem_slice_iter(certificate.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let first = ServerAddress { host: server.ip().to_string(), port: server.port() };
    let keeper = Keeper::new(node, Arc::new(config), first);
    let stop = CancellationToken::new();
    let (known, servers) = watch::channel(BTreeSet::new());
    let (running, ended) = (keeper.clone(), stop.clone());
    tokio::spawn(async move {
        running.run(servers, Arc::new(reach), ended).await;
        drop(known);
    });
    (keeper, stop)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn get(client: &Client, path: &str) -> (u16, String) {
    let answer = client.send(http::Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    (code, String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes()).into_owned())
}

/// A node with a pod that has this address.
async fn create_pod(client: &Client, address: SocketAddr) {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(client.clone());
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let ip = address.ip().to_string();
    let status = Patch::Merge(json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}));
    pods.patch_status("p", &PatchParams::default(), &status).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_through_the_tunnel_and_only_while_it_stands() {
    let server = TestApiServer::listen(|_| {}).await.unwrap();
    let client = server.client();
    let serving = server.ca.issue("pod", "x").unwrap();
    let answer = |_| async { far_end::Answer::new(Full::new(Bytes::from_static(b"from the pod")).boxed()) };
    let pod = serve(own_address(), tls(&serving, None), answer).await;
    create_pod(&client, pod).await;
    let path = format!("/api/v1/namespaces/default/pods/https:p:{}/proxy/", pod.port());
    let certificate = server.ca.issue("system:node:a", "system:nodes").unwrap();
    let address = server.address().unwrap();
    let (keeper, stop) = keep("a", address, &server.ca.certificate, &certificate, OnePod(pod));
    // The server waits for the tunnel.
    assert_eq!(get(&client, &path).await, (200, "from the pod".to_owned()));
    assert_eq!((keeper.counts().open, keeper.counts().dialled, keeper.counts().refused), (1, 1, 0));
    // Another port of the pod is not what this node permits.
    let other = format!("/api/v1/namespaces/default/pods/p:{}/proxy/", pod.port() ^ 1);
    let (code, text) = get(&client, &other).await;
    assert!(code == 503 && text.contains("node a refused: "), "{code} {text}");
    let (_, metrics) = get(&client, "/metrics").await;
    for line in ["skep_tunnels_open 1", "skep_tunnel_dials_total 1", "skep_tunnel_dial_failures_total 1"] {
        assert!(metrics.lines().any(|found| found == line), "no {line}");
    }
    stop.cancel();
    until("the tunnel's end", || keeper.counts().open == 0).await;
    let (code, text) = get(&client, &path).await;
    assert!(code == 503 && text.contains("node a has no tunnel to this server"), "{code} {text}");
}

/// Node `a`, whose kubelet API answers so; and its tunnel.
async fn create_node<A, F>(server: &TestApiServer, answer: A) -> (Keeper, CancellationToken)
where
    A: Fn(hyper::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = far_end::Answer> + Send + 'static,
{
    let own = own_address();
    let serving = server.ca.issue_for("system:node:a", "system:nodes", &own.to_string()).unwrap();
    let kubelet = serve(own, tls(&serving, Some(&server.ca.certificate)), answer).await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    let nodes: Api<Node> = Api::all(server.client());
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = Patch::Merge(json!({"status": {
        "addresses": [{"type": "InternalIP", "address": own.to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
    }}));
    nodes.patch_status("a", &PatchParams::default(), &status).await.unwrap();
    let certificate = server.ca.issue("system:node:a", "system:nodes").unwrap();
    let address = server.address().unwrap();
    keep("a", address, &server.ca.certificate, &certificate, OnePod(kubelet))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_the_node_refuses_is_a_status() {
    let server = TestApiServer::listen(|_| {}).await.unwrap();
    let client = server.client();
    let answer = |_| async {
        let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        let mut answer = far_end::Answer::new(Full::new(Bytes::from(text)).boxed());
        *answer.status_mut() = http::StatusCode::BAD_REQUEST;
        answer
    };
    let _tunnel = create_node(&server, answer).await;
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(client.clone());
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for (name, node) in [("p", Some("a")), ("unscheduled", None)] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let error = pods.logs("p", &LogParams::default()).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    let got = (status.code, status.reason.as_str(), status.message.as_str());
    let wanted = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
    assert_eq!(got, (400, "BadRequest", wanted));
    assert_eq!(pods.logs("unscheduled", &LogParams::default()).await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_flow_log_is_read_through_its_tunnel_by_those_who_may() {
    let server = TestApiServer::listen(|_| {}).await.unwrap();
    let client = server.client();
    // What the agent was asked.
    let answer = |request: hyper::Request<hyper::body::Incoming>| async move {
        far_end::Answer::new(Full::new(Bytes::from(request.uri().to_string())).boxed())
    };
    let _tunnel = create_node(&server, answer).await;
    let all = skep_api::flow_log::path("a", None);
    let asked = get(&client, &format!("{all}?last=3&follow=true")).await;
    assert_eq!(asked, (200, "/flows?last=3&follow=true".to_owned()));
    assert_eq!(get(&client, &format!("{all}?colour=red")).await.0, 400);
    assert_eq!(get(&client, &skep_api::flow_log::path("b", None)).await.0, 404);
    // Rights in one namespace are rights to its flows alone.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "flows", "namespace": "shop"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "skep:flows-reader"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    let binding: RoleBinding = serde_json::from_value(role).unwrap();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "shop");
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let jane = server.client_of(Identity::new("jane", &[]));
    let own = skep_api::flow_log::path("a", Some("shop"));
    let asked = get(&jane, &format!("{own}?namespace=other&port=80")).await;
    assert_eq!(asked, (200, "/flows?last=100&follow=false&namespace=shop&port=80".to_owned()));
    assert_eq!(get(&jane, &all).await.0, 403);
    assert_eq!(get(&jane, &skep_api::flow_log::path("a", Some("other"))).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_right_certificate_opens_no_tunnel() {
    let server = TestApiServer::listen(|_| {}).await.unwrap();
    let address = server.address().unwrap();
    let reach = || OnePod(([192, 0, 2, 1], 80).into());
    let other = server.ca.issue("system:node:b", "system:nodes").unwrap();
    let user = server.ca.issue("system:node:a", "jane").unwrap();
    let foreign =
        skep_tests::api_server::Authority::new().unwrap().issue("system:node:a", "system:nodes").unwrap();
    let right = server.ca.issue("system:node:a", "system:nodes").unwrap();
    let refused: Vec<_> = [other, user, foreign]
        .iter()
        .map(|certificate| keep("a", address, &server.ca.certificate, certificate, reach()))
        .collect();
    let (keeper, _stop) = keep("a", address, &server.ca.certificate, &right, reach());
    until("the right tunnel", || keeper.counts().open == 1).await;
    sleep(Duration::from_millis(500)).await;
    assert!(refused.iter().all(|(keeper, _)| keeper.counts().opened == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_tunnels_cost_the_server_less_than_20_megabytes() {
    const TUNNELS: usize = 1_000;
    let limit = rustix::process::Rlimit { current: Some(8_192), maximum: Some(8_192) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path(), &[]).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("pki").join(name)).unwrap();
    let (ca, key) = (read("ca.crt"), read("ca.key"));
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca, rcgen::KeyPair::from_pem(&key).unwrap()).unwrap();
    let certificate = |node: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        Pem { certificate, key: key.serialize_pem() }
    };
    let open = |at: usize| {
        let node = format!("node-{at}");
        let reach = OnePod(([192, 0, 2, 1], 80).into());
        keep(&node, server.address(), &ca, &certificate(&node), reach).0
    };
    let all_open = async |keepers: &[Keeper]| {
        until("the tunnels", || keepers.iter().all(|keeper| keeper.counts().open == 1)).await;
        // What handshakes left behind is returned by then.
        sleep(Duration::from_secs(3)).await;
    };
    // What the first connections cost, the server has in any case.
    let mut keepers: Vec<Keeper> = (0..50).map(open).collect();
    all_open(&keepers).await;
    let before = server.resident().unwrap();
    keepers.extend((50..50 + TUNNELS).map(open));
    all_open(&keepers).await;
    let cost = server.resident().unwrap().saturating_sub(before);
    println!("{TUNNELS} idle tunnels: {} KiB", cost / 1024);
    assert!(cost < 20 << 20, "{cost} bytes");
}

/// The uid of the object `kubernetes`, once it is another.
async fn other_than<K>(client: &Client, before: &str, deadline: Instant) -> String
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    loop {
        let uid = api.get_opt("kubernetes").await.unwrap().and_then(|object| object.meta().uid.clone());
        if let Some(uid) = uid.filter(|uid| uid != before) {
            return uid;
        }
        assert!(Instant::now() < deadline, "{} did not come back", K::kind(&()));
        sleep(Duration::from_millis(20)).await;
    }
}

async fn made_again<K>(client: &Client)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let deadline = Instant::now() + Duration::from_secs(5);
    // The deletion of a Service takes its Endpoints along.
    let first = other_than::<K>(client, "", deadline).await;
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    api.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    other_than::<K>(client, &first, deadline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_service_and_its_endpoints_are_made_again() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let ip = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let before = ip(&services.get("kubernetes").await.unwrap());
    made_again::<Service>(&client).await;
    made_again::<Endpoints>(&client).await;
    made_again::<EndpointSlice>(&client).await;
    assert_eq!(ip(&services.get("kubernetes").await.unwrap()), before);
    // One that says something else is set right.
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let wrong = Patch::Merge(json!({"endpoints": [{"addresses": ["192.0.2.66"]}]}));
    slices.patch("kubernetes", &PatchParams::default(), &wrong).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let slice = slices.get("kubernetes").await.unwrap();
        let addresses = slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses);
        if addresses.collect::<Vec<_>>() == ["127.0.0.1"] {
            return;
        }
        assert!(Instant::now() < deadline, "the wrong server stays");
        sleep(Duration::from_millis(20)).await;
    }
}
