//! A real API server in this process, and the parts of `skep_control` that run against it.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use http::Request;
use kube::Client;
use kube::client::Body;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_apiserver::{
    ApiServer, Config, FrontProxy, Identity, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Long enough for a busy machine; a passing test does not wait for it.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    server: ApiServer,
    _folder: TempDir,
}

/// Parts at work; they stop on drop.
pub(crate) struct Running {
    task: JoinHandle<()>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Method and path of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Settings for nodes without agents: they must not be declared dead while a test runs.
pub(crate) fn config() -> skep_control::Config {
    skep_control::Config {
        root_ca_pem: "PEM".into(),
        node_startup_grace: Duration::from_secs(3600),
        ..Default::default()
    }
}

/// A cluster with all parts.
pub(crate) async fn cluster() -> (Cluster, Running) {
    let cluster = Cluster::new().await;
    let running = cluster.run(config());
    (cluster, running)
}

impl Cluster {
    /// A server without controllers and scheduler.
    pub(crate) async fn new() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let tokens = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let config = Config {
            store: Arc::new(EmbeddedStore::open(&folder.path().join("store")).unwrap()),
            services: ServiceNetwork { cidrs: vec!["10.96.0.0/12".parse().unwrap()], node_ports: NODE_PORTS },
            advertise: "127.0.0.1:6443".parse().unwrap(),
            client_ca: certificate.clone(),
            tokens: TokenKeys {
                private: tokens.serialize_pem(),
                public: tokens.public_key_pem(),
                issuer: "https://kubernetes.default.svc".to_owned(),
            },
            front_proxy: FrontProxy {
                certificate: certificate.clone(),
                key: key.serialize_pem(),
                ca: certificate.clone(),
                names: Vec::new(),
            },
            node_tls: NodeTls { certificate: certificate.clone(), key: key.serialize_pem(), ca: certificate },
            audit: None,
        };
        let server = ApiServer::new(config).await.unwrap();
        let client = Client::new(server.in_process(administrator()), "default");
        Cluster { client, server, _folder: folder }
    }

    /// Starts the parts that the configuration selects.
    pub(crate) fn run(&self, config: skep_control::Config) -> Running {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = requests.clone();
        let service = self.server.in_process(administrator()).map_request(move |request: Request<Body>| {
            recorded.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            request
        });
        let client = Client::new(service, "default");
        let task = tokio::spawn(async move { drop(skep_control::run(client, config).await) });
        Running { task, requests }
    }
}

fn administrator() -> Identity {
    Identity::new("system:kube-controller-manager", &["system:masters"])
}

pub(crate) fn parsed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Waits for a future until the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Polls a condition until it holds or the deadline passes.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}
