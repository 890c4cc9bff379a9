//! Clients that are asked for a certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use skep_gateway::certificate::Certificate;
use skep_gateway::client_check::{ClientCheck, ClientMode};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint::Endpoint;
use crate::harness::{Routes, TestGateway, certificate, http_2, read};
use crate::tls_endpoint::{Authority, Signed};

/// A client that trusts `trusted`, with a certificate if there is one.
pub(crate) fn client(trusted: &str, presented: Option<&Signed>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(PemObject::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match presented {
        Some(signed) => builder.with_client_auth_cert(signed.chain(), signed.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// The statuses of requests for the hosts on a connection for `name`; `None`: there is no connection, or it ends. In TLS 1.3 a client
/// learns only then that it is refused.
async fn statuses(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    hosts: &[&str],
) -> Option<Vec<StatusCode>> {
    let mut sender = http_2(connect(config, address, name).await.ok()?).await;
    let mut all = Vec::new();
    for host in hosts {
        let request: Request<Full<Bytes>> =
            Request::get(format!("https://{host}/")).body(Full::default()).unwrap();
        all.push(read(sender.send_request(request).await.ok()?).await.ok()?.status);
    }
    Some(all)
}

fn check(authority: &Authority, mode: ClientMode) -> Arc<ClientCheck> {
    Arc::new(ClientCheck::new(authority.authorities(), mode, None).unwrap())
}

struct World {
    gateway: TestGateway,
    endpoint: Endpoint,
    server: Arc<Certificate>,
    pem: String,
    ours: Authority,
    others: Authority,
}

impl World {
    async fn start(mode: ClientMode) -> World {
        let endpoint = Endpoint::start("a").await;
        let (server, pem) = certificate("*.example.com");
        let (ours, others) = (Authority::new("ours"), Authority::new("others"));
        let routes = Routes::to(&[endpoint.address])
            .checked("a.example.com", &server, &check(&ours, mode))
            .certificate("b.example.com", &server);
        let gateway = TestGateway::start(&routes).await;
        World { gateway, endpoint, server, pem, ours, others }
    }

    async fn get(&self, presented: Option<&Signed>, name: &str, hosts: &[&str]) -> Option<Vec<StatusCode>> {
        statuses(&client(&self.pem, presented), self.gateway.https, name, hosts).await
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_authority_gets_no_handshake() {
    let world = World::start(ClientMode::Required).await;
    let (good, bad) = (world.ours.sign("client", None), world.others.sign("client", None));
    assert_eq!(world.get(Some(&good), "a.example.com", &["a.example.com"]).await, Some(vec![StatusCode::OK]));
    assert_eq!(world.get(Some(&bad), "a.example.com", &["a.example.com"]).await, None);
    assert_eq!(world.get(None, "a.example.com", &["a.example.com"]).await, None);
    assert_eq!(world.get(None, "b.example.com", &["b.example.com"]).await, Some(vec![StatusCode::OK]));
    assert_eq!(world.endpoint.count(), 2);
}

#[tokio::test]
async fn a_connection_for_another_host_is_no_way_around_the_check() {
    let world = World::start(ClientMode::Required).await;
    let hosts = ["b.example.com", "a.example.com", "b.example.com"];
    let expected = [StatusCode::OK, StatusCode::MISDIRECTED_REQUEST, StatusCode::OK];
    assert_eq!(world.get(None, "b.example.com", &hosts).await, Some(expected.to_vec()));
    let good = world.ours.sign("client", None);
    assert_eq!(world.get(Some(&good), "b.example.com", &hosts).await, Some(expected.to_vec()));
}

#[tokio::test]
async fn any_client_comes_in_where_certificates_are_optional() {
    let world = World::start(ClientMode::Optional).await;
    let (good, bad) = (world.ours.sign("client", None), world.others.sign("client", None));
    for presented in [Some(&good), Some(&bad), None] {
        assert_eq!(
            world.get(presented, "a.example.com", &["a.example.com"]).await,
            Some(vec![StatusCode::OK])
        );
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_under_other_authorities() {
    let world = World::start(ClientMode::Required).await;
    let good = world.ours.sign("client", None);
    // The client keeps its tickets from one connection to the next.
    let config = client(&world.pem, Some(&good));
    let get = || statuses(&config, world.gateway.https, "a.example.com", &["a.example.com"]);
    assert_eq!(get().await, Some(vec![StatusCode::OK]));
    let resumed = connect(&config, world.gateway.https, "a.example.com").await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    let routes = |authority: &Authority| {
        let check = check(authority, ClientMode::Required);
        Routes::to(&[world.endpoint.address]).checked("a.example.com", &world.server, &check)
    };
    world.gateway.gateway.apply(&routes(&world.others).config());
    assert_eq!(get().await, None);
    world.gateway.gateway.apply(&routes(&world.ours).config());
    assert_eq!(get().await, Some(vec![StatusCode::OK]));
}

#[tokio::test]
async fn a_connection_from_before_the_check_ends_there() {
    let endpoint = Endpoint::start("a").await;
    let (server, pem) = certificate("a.example.com");
    let gateway =
        TestGateway::start(&Routes::to(&[endpoint.address]).certificate("a.example.com", &server)).await;
    let stream = connect(&client(&pem, None), gateway.https, "a.example.com").await.unwrap();
    let mut sender = http_2(stream).await;
    let mut get = async || {
        let request: Request<Full<Bytes>> =
            Request::get("https://a.example.com/").body(Full::default()).unwrap();
        read(sender.send_request(request).await.unwrap()).await.unwrap().status
    };
    assert_eq!(get().await, StatusCode::OK);
    let check = check(&Authority::new("ours"), ClientMode::Required);
    gateway
        .gateway
        .apply(&Routes::to(&[endpoint.address]).checked("a.example.com", &server, &check).config());
    assert_eq!(get().await, StatusCode::MISDIRECTED_REQUEST);
}
