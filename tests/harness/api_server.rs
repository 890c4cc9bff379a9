//! A real API server in the test's process: embedded store in a temporary folder, no controllers; with TLS if it listens.
//!
//! Out: clients of any identity, clients whose requests are recorded, and clients whose connection the test can cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use skep_apiserver::{
    AccessRules, ApiServer, Config, FrontProxy, Identity, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_store::Store;
use skep_store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The program that requests in this process come from.
const AGENT: &str = "skep-tests";

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pem {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority for tests.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    pub certificate: String,
}

impl Authority {
    pub fn new() -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// For a user in a group, and for a server on 127.0.0.1.
    pub fn issue(&self, user: &str, group: &str) -> Result<Pem> {
        self.issue_for(user, group, "127.0.0.1")
    }

    /// For a server under another name than its address.
    pub fn issue_for(&self, user: &str, group: &str, host: &str) -> Result<Pem> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        Ok(Pem { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

impl Authority {
    /// Signs a request, in DER, for a time that begins now; returns the certificate in PEM.
    pub fn sign_request(&self, request: &[u8], lifetime: Duration) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_der(&request.into())?;
        let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        (request.params.not_before, request.params.not_after) = (now, now + lifetime);
        request.params.use_authority_key_identifier_extension = true;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

/// Ends with its drop, like every connection to it.
pub struct TestApiServer {
    server: ApiServer,
    store: Arc<dyn Store>,
    /// Signs clients, kubelets, and the server itself.
    pub ca: Authority,
    /// By which other servers know this one.
    pub front_proxy_ca: String,
    listening: Option<Listening>,
    _folder: Option<TempDir>,
}

/// Where it listens. Its drop ends the listener.
struct Listening {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestApiServer {
    pub async fn start() -> Result<TestApiServer> {
        TestApiServer::start_with(|_| {}).await
    }

    /// A server whose configuration `change` has changed.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Result<TestApiServer> {
        TestApiServer::new(None, "127.0.0.1:6443".parse()?, change).await
    }

    /// A server on a store that outlives it.
    pub async fn start_on(store: Arc<dyn Store>) -> Result<TestApiServer> {
        TestApiServer::new(Some(store), "127.0.0.1:6443".parse()?, |_| {}).await
    }

    /// With TLS on a port of its own. `edit` changes the configuration.
    pub async fn listen(edit: impl FnOnce(&mut Config)) -> Result<TestApiServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut test = TestApiServer::new(None, address, edit).await?;
        let (server, serving) = (test.server.clone(), test.ca.issue("server", "x")?);
        let task = tokio::spawn(async move {
            // The listener of a test does not fail; if it does, the test's requests do.
            let _ = server.serve(&listener, &serving.certificate, &serving.key).await;
        });
        test.listening = Some(Listening { address, task });
        Ok(test)
    }

    async fn new(
        store: Option<Arc<dyn Store>>,
        advertise: SocketAddr,
        edit: impl FnOnce(&mut Config),
    ) -> Result<TestApiServer> {
        let folder = store.is_none().then(tempfile::tempdir).transpose()?;
        let store: Arc<dyn Store> = match (store, &folder) {
            (None, Some(folder)) => Arc::new(EmbeddedStore::open(&folder.path().join("store.redb"))?),
            (store, _) => store.context("no store")?,
        };
        let (ca, proxy_ca) = (Authority::new()?, Authority::new()?);
        let (nodes, proxy) = (ca.issue("admin", "system:masters")?, proxy_ca.issue("front-proxy", "x")?);
        let front_proxy_ca = proxy_ca.certificate;
        let tokens = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut config = Config {
            store: store.clone(),
            shared_store: false,
            services: ServiceNetwork {
                cidrs: vec!["10.96.0.0/12".parse()?],
                pod_cidrs: vec!["10.244.0.0/16".parse()?],
                node_ports: NODE_PORTS,
            },
            advertise,
            client_ca: ca.certificate.clone(),
            tokens: TokenKeys {
                private: tokens.serialize_pem(),
                public: vec![tokens.public_key_pem()],
                issuer: "https://kubernetes.default.svc".to_owned(),
            },
            access: AccessRules::default(),
            front_proxy: FrontProxy {
                certificate: proxy.certificate,
                key: proxy.key,
                ca: front_proxy_ca.clone(),
                names: vec!["front-proxy".to_owned()],
            },
            node_tls: NodeTls {
                certificate: nodes.certificate,
                key: nodes.key,
                ca: ca.certificate.clone(),
                client_ca: ca.certificate.clone(),
            },
            audit: None,
            neighbours: Vec::new(),
        };
        edit(&mut config);
        let server = ApiServer::new(config).await?;
        Ok(TestApiServer { server, store, ca, front_proxy_ca, listening: None, _folder: folder })
    }

    /// The store beneath the server: nothing checks what is written here.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listening.as_ref().context("the server does not listen")?.address)
    }

    /// The API for a caller in this process, under the name of a test's program.
    pub fn in_process(&self, identity: Identity) -> Router {
        self.server.in_process(identity, AGENT)
    }

    /// A client that may do everything.
    pub fn client(&self) -> kube::Client {
        self.client_of(Identity::new("admin", &["system:masters"]))
    }

    pub fn client_of(&self, identity: Identity) -> kube::Client {
        kube::Client::new(self.server.in_process(identity, AGENT), "default")
    }

    /// The running server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// A client without a certificate, with a bearer token if one is given.
    pub fn client_by_token(&self, token: Option<&str>) -> kube::Client {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let router = self.server.router().layer(from_fn(move |mut request: Request, next: Next| {
            let header = bearer.as_ref().and_then(|text| HeaderValue::from_str(text).ok());
            request.headers_mut().extend(header.map(|value| (AUTHORIZATION, value)));
            next.run(request)
        }));
        kube::Client::new(router, "default")
    }

    /// Clients of users with the rights that the default roles give them; their requests are recorded.
    pub fn clients_by_user(&self) -> (impl Fn(&str) -> kube::Client + Send + Sync + use<>, Requests) {
        let requests = Requests::default();
        let (server, recorded) = (self.server.clone(), requests.clone());
        let client = move |user: &str| {
            let recorded = recorded.clone();
            let record = from_fn(move |request: Request, next: Next| {
                recorded.push(format!("{} {}", request.method(), request.uri().path()));
                next.run(request)
            });
            kube::Client::new(server.in_process(Identity::of_user(user), AGENT).layer(record), "default")
        };
        (client, requests)
    }

    /// A client that reaches the server only while `up` is true; watches end when it becomes false.
    pub fn cuttable_client(&self, identity: Identity, up: &watch::Receiver<bool>) -> kube::Client {
        let up = up.clone();
        let router: Router = self.server.in_process(identity, AGENT);
        let router = router.layer(from_fn(move |request, next| pass_if(up.clone(), request, next)));
        kube::Client::new(router, "default")
    }
}

/// Method and path of each request of some clients, in order.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<String>>>);

impl Requests {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, request: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

async fn pass_if(mut up: watch::Receiver<bool>, request: Request, next: Next) -> Response {
    if !*up.borrow() {
        // No Status object: the client must not take this for an answer of the API.
        return (StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
    }
    let (parts, body) = next.run(request).await.into_parts();
    let cut = async move { drop(up.wait_for(|up| !*up).await) };
    Response::from_parts(parts, Body::from_stream(body.into_data_stream().take_until(Box::pin(cut))))
}
