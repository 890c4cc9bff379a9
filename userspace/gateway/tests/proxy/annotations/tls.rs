//! Certificates of clients, and TLS towards endpoints.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;

use super::{NOW, World, header, send};
use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{Answer, TestGateway, http_2, limits, read};
use crate::mutual_tls::{client, connect};
use crate::tls_endpoint::{self, Authority, Signed};

const HOST: &str = "a.example.com";

pub(super) const CERTIFICATES: &[&str] = &[
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-tls-error-page",
    "auth-tls-match-cn",
    "auth-tls-pass-certificate-to-upstream",
];

struct Clients {
    web: Endpoint,
    ours: Authority,
    others: Authority,
    server: Signed,
}

impl Clients {
    async fn start() -> Clients {
        let ours = Authority::new("ours");
        let server = ours.sign(HOST, None);
        Clients { web: Endpoint::start("web").await, others: Authority::new("others"), server, ours }
    }

    fn world(&self, annotations: &[(&str, &str)]) -> World {
        World::new()
            .service("web", &[self.web.address])
            .secret("server", &[("tls.crt", &self.server.chain), ("tls.key", &self.server.key)])
            .secret("clients", &[("ca.crt", &self.ours.pem)])
            .tls("server")
            .ingress_of(HOST, "web", annotations, &[("/", "web")])
    }

    async fn get(&self, gateway: &TestGateway, presented: Option<&Signed>, headers: &HeaderMap) -> Answer {
        let stream = connect(&client(&self.ours.pem, presented), gateway.https, HOST).await.unwrap();
        let mut request: Request<Full<Bytes>> =
            Request::get(format!("https://{HOST}/x")).body(Full::default()).unwrap();
        *request.headers_mut() = headers.clone();
        read(http_2(stream).await.send_request(request).await.unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_client_needs_the_certificate_that_annotations_ask_for() {
    let clients = Clients::start().await;
    let (good, bad) = (clients.ours.sign("ann", None), clients.others.sign("ann", None));
    let (good, bad) = (Some(&good), Some(&bad));
    let page = [("auth-tls-error-page", "https://a.com/why?$request_uri")];
    for (annotations, presented, status) in [
        (&[][..], good, 200),
        (&[], bad, 400),
        (&[], None, 400),
        (&page, good, 200),
        (&page, None, 302),
        (&[("auth-tls-verify-client", "off")], None, 200),
        (&[("auth-tls-verify-client", "optional")], None, 200),
        (&[("auth-tls-verify-client", "optional")], bad, 400),
        (&[("auth-tls-verify-client", "optional_no_ca")], bad, 200),
        (&[("auth-tls-match-cn", "CN=an+$")], good, 200),
        (&[("auth-tls-match-cn", "CN=ben")], good, 403),
        (&[("auth-tls-verify-depth", "0")], good, 200),
    ] {
        let before = clients.web.count();
        let all = [&[("auth-tls-secret", "ns/clients")], annotations].concat();
        let gateway = clients.world(&all).start().await;
        let answer = clients.get(&gateway, presented, &HeaderMap::new()).await;
        assert_eq!(answer.status, status, "{annotations:?} {}", presented.is_some());
        assert_eq!(clients.web.count() - before, usize::from(status == 200));
        if status == 302 {
            assert_eq!(header(&answer.headers, "location"), Some("https://a.com/why?/x"));
        }
    }
}

/// Another name of the rules is checked as they are.
#[tokio::test]
async fn a_client_needs_its_certificate_for_an_alias_too() {
    let clients = Clients::start().await;
    let alias = "alias.example.com";
    let server = clients.ours.sign(alias, None);
    let gateway = clients
        .world(&[("auth-tls-secret", "ns/clients"), ("server-alias", alias)])
        .secret("server", &[("tls.crt", &server.chain), ("tls.key", &server.key)])
        .start()
        .await;
    let ann = clients.ours.sign("ann", None);
    for (presented, status) in [(Some(&ann), 200), (None, 400)] {
        let stream = connect(&client(&clients.ours.pem, presented), gateway.https, alias).await.unwrap();
        let request = Request::get(format!("https://{alias}/")).body(Full::default()).unwrap();
        let answer = read(http_2(stream).await.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

/// The check is of the host: other ways to it are none.
#[tokio::test]
async fn there_is_no_way_past_the_certificate() {
    let clients = Clients::start().await;
    let locked = [("auth-tls-secret", "ns/clients")];
    // Without TLS, and by an Ingress of another name with the same certificate.
    let world = clients.world(&locked).ingress_of("b.example.com", "other", &[], &[("/", "web")]);
    let gateway = world.start().await;
    assert_eq!(send(&gateway, "a.example.com/", &[]).await.status, 400);
    let anybody = client(&clients.ours.pem, None);
    let stream = connect(&anybody, gateway.https, HOST).await.unwrap();
    let mut sender = http_2(stream).await;
    let request = Request::get("https://b.example.com/").body(Full::default()).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.unwrap().status, 421);
    assert_eq!(clients.web.count(), 0);
    // A Secret that is of another namespace, or has no authorities.
    for secret in ["other/clients", "ns/server", "ns/missing"] {
        let mut world = clients.world(&[("auth-tls-secret", secret)]);
        let compiled = world.index.compile(NOW);
        let reasons: Vec<_> = compiled.problems.iter().map(|problem| problem.reason()).collect();
        assert_eq!(reasons, ["InvalidAuthorities"], "{secret}");
        let gateway = TestGateway::of(&compiled.config, limits()).await;
        let answer = clients.get(&gateway, Some(&clients.ours.sign("ann", None)), &HeaderMap::new()).await;
        assert_eq!(answer.status, 503, "{secret}");
    }
}

#[tokio::test]
async fn endpoints_learn_who_the_client_is_from_the_gateway_only() {
    let clients = Clients::start().await;
    let forged = HeaderMap::from_iter(
        ["ssl-client-verify", "ssl-client-subject-dn", "ssl-client-issuer-dn", "ssl-client-cert"]
            .map(|name| (name.parse().unwrap(), "forged".parse().unwrap())),
    );
    let names = [("auth-tls-secret", "ns/clients"), ("auth-tls-verify-client", "optional_no_ca")];
    let passes = [&names[..], &[("auth-tls-pass-certificate-to-upstream", "true")]].concat();
    let ann = clients.ours.sign("ann", None);
    let passed = |answer: &Answer, name: &str| echoed(&answer.text, name);
    let gateway = clients.world(&passes).start().await;
    let answer = clients.get(&gateway, Some(&ann), &forged).await;
    assert_eq!(passed(&answer, "ssl-client-verify").as_deref(), Some("SUCCESS"));
    assert_eq!(passed(&answer, "ssl-client-subject-dn").as_deref(), Some("CN=ann"));
    assert_eq!(passed(&answer, "ssl-client-issuer-dn").as_deref(), Some("CN=ours"));
    let certificate = passed(&answer, "ssl-client-cert").unwrap();
    let certificate = percent_encoding::percent_decode_str(&certificate).decode_utf8().unwrap();
    assert_eq!(certificate.replace('\n', ""), ann.chain.replace(['\n', '\r'], ""));
    let answer = clients.get(&gateway, None, &forged).await;
    assert_eq!(passed(&answer, "ssl-client-verify").as_deref(), Some("NONE"));
    assert_eq!(passed(&answer, "ssl-client-subject-dn"), None);
    let stranger = clients.others.sign("ann", None);
    let gateway = clients.world(&names).start().await;
    let answer = clients.get(&gateway, Some(&stranger), &forged).await;
    assert!(passed(&answer, "ssl-client-verify").unwrap().starts_with("FAILED:"));
    assert_eq!(passed(&answer, "ssl-client-cert"), None);
}

pub(super) const ENDPOINTS: &[&str] = &[
    "ssl-passthrough",
    "proxy-ssl-secret",
    "proxy-ssl-verify",
    "proxy-ssl-verify-depth",
    "proxy-ssl-name",
    "proxy-ssl-server-name",
    "proxy-ssl-protocols",
];

#[tokio::test]
async fn endpoints_are_spoken_to_as_annotations_say() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let identity = ours.sign("gateway", None);
    let (web, handshakes) = tls_endpoint::start(&ours.sign("web.ns.svc", None), Some(&ours)).await;
    let (odd, _) = tls_endpoint::start(&others.sign("odd", None), None).await;
    let world = |endpoint: SocketAddr, annotations: &[(&str, &str)]| {
        World::new()
            .service("web", &[endpoint])
            .secret("all", &[("tls.crt", &identity.chain), ("tls.key", &identity.key), ("ca.crt", &ours.pem)])
            .secret("cas", &[("ca.crt", &ours.pem)])
            .ingress("web", &[&[("backend-protocol", "HTTPS")], annotations].concat(), &[("/", "web")])
    };
    let verified = [("proxy-ssl-secret", "ns/all"), ("proxy-ssl-verify", "on")];
    for (endpoint, annotations, status) in [
        (&web, &[("proxy-ssl-secret", "ns/all")][..], 200),
        // The endpoint wants a certificate.
        (&web, &[], 502),
        (&web, &[("proxy-ssl-secret", "ns/cas")], 502),
        (&web, &verified, 200),
        (&web, &[&verified[..], &[("proxy-ssl-verify-depth", "0")]].concat(), 200),
        (&web, &[&verified[..], &[("proxy-ssl-name", "other.example")]].concat(), 502),
        (&web, &[&verified[..], &[("proxy-ssl-protocols", "TLSv1.2")]].concat(), 200),
        (&odd, &[], 200),
        (&odd, &verified, 502),
        (&odd, &[("proxy-ssl-secret", "ns/cas"), ("proxy-ssl-verify", "on"), ("proxy-ssl-name", "odd")], 502),
    ] {
        let gateway = world(endpoint.address, annotations).start().await;
        assert_eq!(send(&gateway, "a.com/", &[]).await.status, status, "{annotations:?}");
    }
    let named = [&verified[..], &[("proxy-ssl-server-name", "on")]].concat();
    let before = handshakes.count.load(Ordering::Relaxed);
    assert_eq!(send(&world(web.address, &named).start().await, "a.com/", &[]).await.status, 200);
    let names = handshakes.names.lock().unwrap().split_off(before);
    assert_eq!(names, [Some("web.ns.svc".to_owned())]);
    assert!(
        handshakes.names.lock().unwrap().iter().all(Option::is_none),
        "a name is sent only if it should be"
    );
    let grpc = World::new().service("web", &[odd.address]);
    let grpc = grpc.ingress("web", &[("backend-protocol", "GRPCS")], &[("/", "web")]).start().await;
    assert_eq!(field(&send(&grpc, "a.com/", &[]).await.text, "version"), "HTTP/2.0");
    for annotations in [
        &[("proxy-ssl-verify", "on")][..],
        &[("proxy-ssl-secret", "ns/missing")],
        &[("proxy-ssl-secret", "other/all")],
    ] {
        let mut world = world(odd.address, annotations);
        let compiled = world.index.compile(NOW);
        let reasons: Vec<_> = compiled.problems.iter().map(|problem| problem.reason()).collect();
        assert_eq!(reasons, ["InvalidBackendTLS"], "{annotations:?}");
        let gateway = TestGateway::of(&compiled.config, limits()).await;
        assert_eq!(send(&gateway, "a.com/", &[]).await.status, 503, "{annotations:?}");
    }
}

#[tokio::test]
async fn the_endpoint_answers_the_handshakes_of_its_host() {
    let (inner, outer) = (Authority::new("inner"), Authority::new("outer"));
    let (endpoint, handshakes) = tls_endpoint::start(&inner.sign(HOST, None), None).await;
    let (web, server) = (Endpoint::start("web").await, outer.sign("b.example.com", None));
    let gateway = World::new()
        .service("inner", &[endpoint.address])
        .service("web", &[web.address])
        .ingress_of(HOST, "inner", &[("ssl-passthrough", "true")], &[("/", "inner")])
        .secret("server", &[("tls.crt", &server.chain), ("tls.key", &server.key)])
        .tls("server")
        .ingress_of("b.example.com", "web", &[], &[("/", "web")])
        .start()
        .await;
    for (authority, host, name) in [(&inner, HOST, "tls"), (&outer, "b.example.com", "web")] {
        let stream = connect(&client(&authority.pem, None), gateway.https, host).await.unwrap();
        let request = Request::get(format!("https://{host}/")).body(Full::default()).unwrap();
        let answer = read(http_2(stream).await.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*field(&answer.text, "server")), (200, name));
    }
    assert_eq!(handshakes.count.load(Ordering::Relaxed), 1);
}
