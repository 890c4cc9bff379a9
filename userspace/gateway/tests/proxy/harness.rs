//! A gateway on loopback, its configuration, and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use skep_gateway::backend_tls::BackendTls;
use skep_gateway::certificate::Certificate;
use skep_gateway::client_check::ClientCheck;
use skep_gateway::config::{
    Backend, Config, EndpointDemand, Listener, Protocol, Route, TlsAction, TlsServer, TlsServers,
};
use skep_gateway::counters::RouteCounters;
use skep_gateway::routing::{Conditions, HostPattern, HostTable, PathMatch, RouteTable, Rule};
use skep_gateway::{Gateway, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const HTTP: u16 = 80;
pub(crate) const HTTPS: u16 = 443;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct TestGateway {
    pub(crate) gateway: Gateway,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    _stop: DropGuard,
}

/// Routes by host, path prefix and endpoints.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    rules: Vec<(String, String, Protocol, Vec<SocketAddr>)>,
    certificates: Vec<(String, Arc<Certificate>, Option<Arc<ClientCheck>>)>,
    endpoint_tls: Option<Arc<BackendTls>>,
    identity: Option<Arc<Certificate>>,
    demand: EndpointDemand,
}

/// A certificate that signs itself, and its PEM.
pub(crate) fn certificate(host: &str) -> (Arc<Certificate>, String) {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let parsed = Certificate::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    (Arc::new(parsed), chain)
}

impl Routes {
    pub(crate) fn to(endpoints: &[SocketAddr]) -> Routes {
        Routes::default().rule("", "/", Protocol::Http1, endpoints)
    }

    pub(crate) fn rule(
        mut self,
        host: &str,
        path: &str,
        protocol: Protocol,
        endpoints: &[SocketAddr],
    ) -> Routes {
        self.rules.push((host.to_owned(), path.to_owned(), protocol, endpoints.to_vec()));
        self
    }

    pub(crate) fn certificate(mut self, host: &str, certificate: &Arc<Certificate>) -> Routes {
        self.certificates.push((host.to_owned(), certificate.clone(), None));
        self
    }

    /// Clients of the host are asked for a certificate.
    pub(crate) fn checked(
        mut self,
        host: &str,
        certificate: &Arc<Certificate>,
        check: &Arc<ClientCheck>,
    ) -> Routes {
        self.certificates.push((host.to_owned(), certificate.clone(), Some(check.clone())));
        self
    }

    /// All endpoints are spoken to over TLS.
    pub(crate) fn endpoint_tls(mut self, tls: BackendTls) -> Routes {
        self.endpoint_tls = Some(Arc::new(tls));
        self
    }

    pub(crate) fn demand(mut self, demand: EndpointDemand) -> Routes {
        self.demand = demand;
        self
    }

    /// What endpoints are presented for requests without TLS.
    pub(crate) fn identity(mut self, identity: &Arc<Certificate>) -> Routes {
        self.identity = Some(identity.clone());
        self
    }

    pub(crate) fn config(&self) -> Config {
        let counters: Vec<_> =
            (0..self.rules.len()).map(|at| Arc::new(RouteCounters::new(format!("test/{at}")))).collect();
        let rules = self.rules.iter().enumerate().map(|(at, (host, path, _, _))| Rule {
            host: HostPattern::of_ingress(host),
            path: PathMatch::Prefix(path.as_str().into()),
            conditions: Conditions::default(),
            target: Arc::new(Route::to(counters[at].clone(), at)),
        });
        let hosts = Arc::new(HostTable::of_any(Arc::new(RouteTable::compile(rules, []))));
        let backends = self.rules.iter().enumerate().map(|(at, (_, _, protocol, endpoints))| {
            Arc::new(Backend {
                name: format!("test/{at}").into(),
                protocol: *protocol,
                tls: self.endpoint_tls.clone(),
                demand: self.demand,
                endpoints: endpoints.clone(),
            })
        });
        let mut tls = HostTable::default();
        for (host, certificate, clients) in &self.certificates {
            let server = || {
                Arc::new(TlsServer {
                    certificates: vec![certificate.clone()],
                    clients: clients.clone(),
                    action: TlsAction::Http,
                })
            };
            tls.entry(HostPattern::of_ingress(host), server);
        }
        let plain = Listener {
            public_port: HTTP,
            hosts: hosts.clone(),
            tls: None,
            stream: None,
            identity: self.identity.clone(),
        };
        let secure = Listener {
            public_port: HTTPS,
            hosts,
            tls: Some(Arc::new(TlsServers::new(tls))),
            stream: None,
            identity: None,
        };
        let backends = backends.collect();
        Config {
            listeners: BTreeMap::from([(HTTP, plain), (HTTPS, secure)]),
            backends,
            counters,
            ..Config::default()
        }
    }
}

pub(crate) fn limits() -> Limits {
    Limits::of_descriptors(4_096)
}

impl TestGateway {
    pub(crate) async fn start(routes: &Routes) -> TestGateway {
        TestGateway::start_with(routes, limits()).await
    }

    pub(crate) async fn start_with(routes: &Routes, limits: Limits) -> TestGateway {
        TestGateway::of(&routes.config(), limits).await
    }

    pub(crate) async fn of(config: &Config, limits: Limits) -> TestGateway {
        let gateway = Gateway::new(limits, None);
        gateway.apply(config);
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        for port in [HTTP, HTTPS] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let (gateway, stop) = (gateway.clone(), stop.clone());
            tokio::spawn(async move { gateway.serve(listener, port, stop).await.unwrap() });
        }
        TestGateway { gateway, http: addresses[0], https: addresses[1], _stop: stop.drop_guard() }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut out = String::new();
        self.gateway.write_metrics(&mut out);
        out
    }

    /// A counter without labels.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("skep_gateway_{name} ")));
        line.unwrap().parse().unwrap()
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) trailers: HeaderMap,
}

pub(crate) async fn read(response: Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Ok(Answer { status: head.status, headers: head.headers, text, trailers })
}

/// A client that keeps one connection of HTTP/1.1.
pub(crate) struct Http1(http1::SendRequest<Full<Bytes>>);

impl Http1 {
    pub(crate) async fn connect(address: SocketAddr) -> Http1 {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Http1(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
        self.0.ready().await?;
        let response = tokio::time::timeout(TIMEOUT, self.0.send_request(request))
            .await
            .expect("no response in time")?;
        read(response).await
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Result<Answer, hyper::Error> {
        let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
        self.send(request).await
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    Http1::connect(address).await.get(host, path).await.unwrap()
}

/// Sends bytes, and returns all that comes back until the end or until nothing comes for a time.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

pub(crate) async fn tls(
    address: SocketAddr,
    name: &str,
    trusted: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A client of HTTP/2 over any stream.
pub(crate) async fn http_2<S>(stream: S) -> http2::SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
