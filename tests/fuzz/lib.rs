//! What foreign bytes meet in the API server, in tunnels and in the gateway, one function a fuzz target. In: any bytes. Out: nothing; a panic, an overflow
//! or an answer that blames the server is a find.

mod dns;
mod endpoint_response;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use skep_api::cel::{self, Bindings, Budget, Scope, Type};
use skep_api::selector::{FieldSelector, LabelSelector, Selectable};
use skep_apiserver::{
    AccessRules, ApiServer, Config, FrontProxy, Identity, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_gateway::routing::{
    Conditions, HostPattern, PathMatch, RouteTable, Rule, Target, host_of, normalise,
};
use skep_store::embedded::EmbeddedStore;
use skep_tunnel::{Reach, Tunnels};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tower_service::Service as _;

pub use dns::{dns_answer, dns_question, dns_settings};
pub use endpoint_response::endpoint_response;

/// A server in this process, and what keeps it alive.
struct Server {
    runtime: Runtime,
    router: Router,
    _folder: TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// Where bodies are sent: a kind with much structure, one with little, and one that holds anything.
const PLACES: [&str; 4] = [
    "/apis/apps/v1/namespaces/default/deployments",
    "/api/v1/namespaces/default/configmaps",
    "/apis/apps/v1/namespaces/default/controllerrevisions",
    "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
];
/// What patches are for.
const CONFIG_MAP: &str =
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"target"},"data":{"a":"b"}}"#;
const REVISION: &str = r#"{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"target"},"revision":1,"data":{"a":{"b":[1,2]}}}"#;
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(8 << 20)
            .enable_all()
            .build();
        let (runtime, folder) = (runtime.expect("a runtime"), tempfile::tempdir().expect("a folder"));
        let server = runtime.block_on(ApiServer::new(config(&folder))).expect("a server");
        let router = server.in_process(Identity::new("fuzz", &["system:masters"]), "skep-tests");
        let server = Server { runtime, router, _folder: folder };
        server.send(Method::POST, PLACES[1], "application/json", CONFIG_MAP.as_bytes());
        server.send(Method::POST, PLACES[2], "application/json", REVISION.as_bytes());
        server
    }

    /// The answer's status.
    fn send(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> StatusCode {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let Ok(request) = request.body(Body::from(body.to_vec())) else { return StatusCode::BAD_REQUEST };
        let mut router = self.router.clone();
        self.runtime.block_on(async move {
            // On a worker, whose stack is as large as in the server. A watch's answer has no end: the head is enough.
            let answer = tokio::spawn(async move { router.call(request).await }).await.expect("no panic");
            answer.expect("an answer").status()
        })
    }
}

fn config(folder: &TempDir) -> Config {
    let (ca, tokens) =
        (KeyPair::generate().expect("a key"), KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"));
    let pem = CertificateParams::default().self_signed(&ca).expect("a certificate").pem();
    Config {
        store: Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).expect("a store")),
        shared_store: false,
        services: ServiceNetwork {
            cidrs: vec!["10.96.0.0/12".parse().expect("a network")],
            pod_cidrs: Vec::new(),
            node_ports: NODE_PORTS,
        },
        advertise: ([127, 0, 0, 1], 6443).into(),
        client_ca: pem.clone(),
        tokens: TokenKeys {
            private: tokens.serialize_pem(),
            public: vec![tokens.public_key_pem()],
            issuer: "https://kubernetes.default.svc".to_owned(),
        },
        access: AccessRules::default(),
        front_proxy: FrontProxy {
            certificate: pem.clone(),
            key: ca.serialize_pem(),
            ca: pem.clone(),
            names: Vec::new(),
        },
        node_tls: NodeTls {
            certificate: pem.clone(),
            key: ca.serialize_pem(),
            ca: pem.clone(),
            client_ca: pem,
        },
        audit: None,
        neighbours: Vec::new(),
    }
}

fn check(method: Method, path: &str, kind: &str, body: &[u8]) {
    let status = SERVER.send(method, path, kind, body);
    // A configuration that does not fit its type is a 500 upstream too.
    let typed = kind == PATCHES[3] && status == StatusCode::INTERNAL_SERVER_ERROR;
    assert!(!status.is_server_error() || typed, "{path} with {kind}: {status}");
}

/// Bodies of creates, as JSON and as YAML, without being stored.
pub fn json_body(bytes: &[u8]) {
    for place in PLACES {
        for kind in ["application/json", "application/yaml"] {
            check(Method::POST, &format!("{place}?dryRun=All"), kind, bytes);
        }
    }
    check(Method::DELETE, &format!("{}/target?dryRun=All", PLACES[1]), "application/json", bytes);
}

/// The same as Kubernetes protobuf: as it is, and as the object within an envelope for each kind.
pub fn protobuf_body(bytes: &[u8]) {
    const KIND: &str = "application/vnd.kubernetes.protobuf";
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    };
    check(Method::POST, &format!("{}?dryRun=All", PLACES[1]), KIND, bytes);
    for (place, version, kind) in [
        (PLACES[0], "apps/v1", "Deployment"),
        (PLACES[1], "v1", "ConfigMap"),
        (PLACES[2], "apps/v1", "ControllerRevision"),
        (PLACES[3], "autoscaling/v1", "HorizontalPodAutoscaler"),
    ] {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        let body = [b"k8s\0".as_slice(), &field(1, &meta), &field(2, bytes)].concat();
        check(Method::POST, &format!("{place}?dryRun=All"), KIND, &body);
    }
}

/// Patches of every form, for an object of strings and for one that holds anything.
pub fn patch(bytes: &[u8]) {
    for place in [PLACES[1], PLACES[2]] {
        for kind in PATCHES {
            let manager = if kind == PATCHES[3] { "&fieldManager=fuzz&force=true" } else { "" };
            check(Method::PATCH, &format!("{place}/target?dryRun=All{manager}"), kind, bytes);
        }
    }
}

/// Label and field selectors; what was read matches or does not.
pub fn selector(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let object = serde_json::json!({"metadata": {"name": "a", "labels": {"a": "b"}}});
    if let Ok(selector) = LabelSelector::parse(&text) {
        selector.matches(&object["metadata"]["labels"]);
    }
    for kind in skep_api::kinds() {
        if let Ok(selector) = FieldSelector::parse(kind, &text) {
            selector.matches(&Selectable::of(kind.selectable_fields.iter(), &object));
        }
    }
}

/// Expressions: compiled, checked against a declared object, and evaluated within a budget.
pub fn cel(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(checked) = cel::compile(&text, &Scope::new().with("self", Type::Dyn)) else { return };
    let _ = checked.max_cost(&Type::Dyn.into());
    let program = checked.into_program();
    let object = serde_json::json!({
        "spec": {"replicas": 3, "name": "web", "list": [1, 2, 3], "map": {"a": 1, "b": 2}}, "none": null,
        "long": vec![1; 200], "big": "x".repeat(10_000),
    });
    let bindings = Bindings::from([("self", cel::of_json(&object))]);
    let mut budget = Budget(100_000);
    // A value or an error: both are answers.
    let _ = cel::evaluate(&program, &bindings, &mut budget);
    assert!(budget.0 <= 100_000);
}

/// Query strings of lists, watches and writes. Bytes that no URI may hold are left out.
pub fn query(bytes: &[u8]) {
    let text: String = bytes
        .iter()
        .filter(|c| c.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(c))
        .map(|c| char::from(*c))
        .collect();
    for path in [
        PLACES[1].to_owned(),
        "/openapi/v3/apis/apps/v1".to_owned(),
        "/readyz".to_owned(),
        format!("{}/target", PLACES[1]),
    ] {
        let status = SERVER.send(Method::GET, &format!("{path}?{text}"), "", &[]);
        // A version that is still to come is waited for, and then a timeout is the answer.
        assert!(
            !status.is_server_error() || status == StatusCode::GATEWAY_TIMEOUT,
            "{path}?{text}: {status}"
        );
    }
    check(
        Method::POST,
        &format!("{}?dryRun=All&{text}", PLACES[1]),
        "application/json",
        CONFIG_MAP.as_bytes(),
    );
}

/// A peer that has said everything is gone: the tunnel ends at once.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads what a peer sent, and takes whatever is written.
struct Sent<'a>(&'a [u8]);

impl AsyncRead for Sent<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Sent<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Nothing;

impl Reach for Nothing {
    fn permits(&self, _: SocketAddr) -> bool {
        false
    }
}

/// An agent's end of a tunnel, to which a server sends these bytes.
pub fn tunnel_agent(bytes: &[u8]) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [bytes.to_vec(), [preface, bytes].concat()] {
        let served = async {
            tokio::time::timeout(END_TIMEOUT, skep_tunnel::serve(Sent(&bytes), Arc::new(Nothing))).await
        };
        // An end without an error is as good.
        let _ = SERVER.runtime.block_on(served).expect("an end");
    }
}

/// A server's end of a tunnel, to which an agent sends these bytes, while a connection is asked for.
pub fn tunnel_server(bytes: &[u8]) {
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    for bytes in [bytes.to_vec(), [settings, bytes].concat()] {
        let tunnels = Tunnels::default();
        let ended = async {
            let served = async {
                let _ = tunnels.serve("a", Sent(&bytes), None).await;
            };
            let dialled = tunnels.dial("a", ([192, 0, 2, 1], 80).into());
            tokio::select! {
                () = served => {}
                _ = dialled => {}
            }
        };
        SERVER.runtime.block_on(async { tokio::time::timeout(END_TIMEOUT, ended).await }).expect("an end");
    }
}

/// A request's host, target and method, each in a line: what is accepted has one form, and a route or none.
pub fn route(bytes: &[u8]) {
    static TABLE: LazyLock<RouteTable<u8>> = LazyLock::new(|| {
        let hosts = [HostPattern::Any, HostPattern::of_ingress("a.b"), HostPattern::of_ingress("*.b")];
        let paths =
            [PathMatch::Prefix("/".into()), PathMatch::Prefix("/a/b".into()), PathMatch::Exact("/a/".into())];
        let pairs = hosts.iter().flat_map(|host| paths.iter().map(move |path| (host.clone(), path.clone())));
        let query = vec![("a".to_owned(), "b".to_owned())];
        let conditions = Conditions { query, ..Conditions::default() };
        let rules = pairs.zip(0..).map(|((host, path), target)| {
            let conditions = if target % 2 == 0 { Conditions::default() } else { conditions.clone() };
            Rule { host, path, conditions, target }
        });
        RouteTable::compile(rules, [])
    });
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (host, uri, method) = (line(), line(), line());
    let request = Request::builder().method(method).uri(uri).header("host", host);
    let Ok((head, ())) = request.body(()).map(Request::into_parts) else { return };
    let Ok(target) = Target::read(&head) else { return };
    assert_eq!(host_of(&target.host).as_deref(), Ok(&*target.host));
    let again = normalise(&target.path.sent).expect("a path that was sent");
    assert_eq!(again, target.path);
    assert!(!target.path.matched.split('/').any(|segment| segment == ".."));
    // Some rule has every host and path.
    assert!(TABLE.find(&target.head(&head)).is_ok());
}
