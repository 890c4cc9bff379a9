//! A real API server with the controllers, in one process.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_apiserver::{
    ApiServer, Config, FrontProxy, Identity, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) struct Cluster {
    pub(crate) client: Client,
    controllers: JoinHandle<()>,
    _folder: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

pub(crate) async fn cluster() -> Cluster {
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
    let identity = Identity::new("system:kube-controller-manager", &["system:masters"]);
    let client = Client::new(server.in_process(identity), "default");
    // The nodes have no agents: they must not be found dead while a test runs.
    let config = skep_control::Config {
        root_ca_pem: "PEM".into(),
        node_startup_grace: Duration::from_secs(3600),
        ..Default::default()
    };
    let running = client.clone();
    let controllers = tokio::spawn(async move { drop(skep_control::run(running, config).await) });
    Cluster { client, controllers, _folder: folder }
}

pub(crate) fn parsed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Long enough for a machine that does much else; a passing test never waits for it.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("not seen in {limit:?}: {what}"))
}
