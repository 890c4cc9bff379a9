//! Endpoints behind TLS: which of them get requests, and what they are presented.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use skep_gateway::authorities::Authorities;
use skep_gateway::backend_tls::{BackendTls, BackendTlsSpec, EndpointCheck, SubjectName, TlsVersions};
use skep_gateway::config::Protocol;
use tokio::net::TcpStream;

use crate::harness::{Http1, Routes, TestGateway, get, http_2, read};
use crate::tls_endpoint::{self, Authority, Signed};

const HOST: &str = "backend.example";
const URI: &str = "spiffe://example.com/backend";

fn name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap()
}

/// The endpoint's certificate must have one of the names.
fn spec(authority: &Authority, names: Vec<SubjectName>) -> BackendTlsSpec {
    BackendTlsSpec {
        server_name: Some(name(HOST)),
        check: EndpointCheck::Names(authority.authorities(), names),
        max_depth: None,
        identity: None,
        versions: TlsVersions::Both,
    }
}

fn of_host(authority: &Authority) -> BackendTlsSpec {
    spec(authority, vec![SubjectName::Host(name(HOST))])
}

async fn status(presented: &Signed, spec: BackendTlsSpec) -> StatusCode {
    let (endpoint, _) = tls_endpoint::start(presented, None).await;
    let routes = Routes::to(&[endpoint.address]).endpoint_tls(BackendTls::new(spec).unwrap());
    let gateway = TestGateway::start(&routes).await;
    let status = get(gateway.http, "a.com", "/").await.status;
    let is_ok = status == StatusCode::OK;
    assert_eq!(endpoint.count() > 0, is_ok, "a request reached an endpoint that is another one");
    status
}

#[tokio::test]
async fn only_an_endpoint_that_is_who_it_should_be_gets_requests() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let good = ours.sign(HOST, Some(URI));
    let uri = |uri: &str| SubjectName::Uri(uri.into());
    let host = |host: &str| SubjectName::Host(name(host));
    for (presented, spec, expected) in [
        (&good, of_host(&ours), StatusCode::OK),
        (&good, spec(&ours, vec![uri("spiffe://example.com/other"), uri(URI)]), StatusCode::OK),
        (&good, spec(&ours, vec![host("other.example"), host(HOST)]), StatusCode::OK),
        (&good, spec(&ours, vec![uri("spiffe://example.com/other")]), StatusCode::BAD_GATEWAY),
        (&good, spec(&ours, vec![host("other.example")]), StatusCode::BAD_GATEWAY),
        (&good, spec(&ours, Vec::new()), StatusCode::BAD_GATEWAY),
        (&others.sign(HOST, Some(URI)), of_host(&ours), StatusCode::BAD_GATEWAY),
        (
            &good,
            BackendTlsSpec {
                check: EndpointCheck::Names(Authorities::of_system(), vec![host(HOST)]),
                ..of_host(&ours)
            },
            StatusCode::BAD_GATEWAY,
        ),
        (
            &others.sign("any.example", None),
            BackendTlsSpec { check: EndpointCheck::None, ..of_host(&ours) },
            StatusCode::OK,
        ),
    ] {
        let described = format!("{spec:?}");
        assert_eq!(status(presented, spec).await, expected, "{described}");
    }
}

#[tokio::test]
async fn an_endpoint_without_tls_gets_nothing_in_the_clear() {
    let authority = Authority::new("ours");
    let endpoint = crate::endpoint::Endpoint::start("plain").await;
    let tls = BackendTls::new(of_host(&authority)).unwrap();
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address]).endpoint_tls(tls)).await;
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(endpoint.count(), 0);
}

#[tokio::test]
async fn a_connection_over_tls_has_many_requests_and_their_bodies() {
    let authority = Authority::new("ours");
    let (endpoint, handshakes) = tls_endpoint::start(&authority.sign(HOST, None), None).await;
    let tls = BackendTls::new(of_host(&authority)).unwrap();
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address]).endpoint_tls(tls)).await;
    let mut client = Http1::connect(gateway.http).await;
    for size in [0, 10, 20_000, 3 << 20, 1] {
        let body = Bytes::from(vec![b'x'; size]);
        let request = Request::post("/echo").header("host", "a.com").body(Full::new(body.clone())).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status, answer.text.len()), (StatusCode::OK, size));
        assert!(answer.text.as_bytes() == body);
    }
    assert_eq!(endpoint.count(), 5);
    assert_eq!(handshakes.count.load(Ordering::Relaxed), 1, "a connection is kept");
    assert_eq!(*handshakes.names.lock().unwrap(), [Some(HOST.to_owned())]);
}

#[tokio::test]
async fn http_2_is_agreed_on_in_the_handshake() {
    let authority = Authority::new("ours");
    let (endpoint, handshakes) = tls_endpoint::start(&authority.sign(HOST, None), None).await;
    let routes = Routes::default()
        .rule("", "/", Protocol::H2c, &[endpoint.address])
        .endpoint_tls(BackendTls::new(of_host(&authority)).unwrap());
    let gateway = TestGateway::start(&routes).await;
    let client = http_2(TcpStream::connect(gateway.http).await.unwrap()).await;
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move {
            let call = Request::post("http://a.com/trailers").header("te", "trailers").body(Full::default());
            read(client.send_request(call.unwrap()).await.unwrap()).await.unwrap()
        }
    });
    for answer in futures::future::join_all(calls).await {
        assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "onetwo"));
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    assert_eq!(handshakes.count.load(Ordering::Relaxed), 1, "requests share a connection");
}

#[tokio::test]
async fn an_endpoint_is_presented_the_certificate_of_the_listener() {
    let (authority, of_clients) = (Authority::new("ours"), Authority::new("clients"));
    let (endpoint, _) = tls_endpoint::start(&authority.sign(HOST, None), Some(&of_clients)).await;
    let routes =
        || Routes::to(&[endpoint.address]).endpoint_tls(BackendTls::new(of_host(&authority)).unwrap());
    let identity = of_clients.sign("gateway.example", None).certificate();
    let gateway = TestGateway::start(&routes().identity(&identity)).await;
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::OK);
    // Another one signs it: the endpoint does not want the gateway.
    let other = authority.sign("gateway.example", None).certificate();
    gateway.gateway.apply(&routes().identity(&other).config());
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::BAD_GATEWAY);
    gateway.gateway.apply(&routes().config());
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::BAD_GATEWAY);
    gateway.gateway.apply(&routes().identity(&identity).config());
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::OK);
}
