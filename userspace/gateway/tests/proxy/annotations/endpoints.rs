//! How endpoints are spoken to, and what of their answers reaches clients.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{NOW, World, header, says, send, send_as, simple};
use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{TestGateway, limits, raw};

pub(super) const ATTEMPTS: &[&str] = &[
    "proxy-connect-timeout",
    "proxy-send-timeout",
    "proxy-read-timeout",
    "proxy-next-upstream",
    "proxy-next-upstream-tries",
    "proxy-next-upstream-timeout",
    "backend-protocol",
];

#[tokio::test]
async fn times_and_attempts_are_those_that_annotations_say() {
    let web = Endpoint::start("web").await;
    let bad = says("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let times = [("proxy-connect-timeout", "1"), ("proxy-read-timeout", "1"), ("proxy-send-timeout", "1")];
    let gateway = simple(&times, &[web.address]).await;
    let begun = Instant::now();
    assert_eq!(send(&gateway, "a.com/?ms=10000", &[]).await.status, 504);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stalled = b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nx";
    let answer = raw(gateway.http, stalled).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // Nothing answers at this address.
    let gateway = simple(&times, &["192.0.2.1:80".parse().unwrap()]).await;
    let begun = Instant::now();
    assert!(send(&gateway, "a.com/", &[]).await.status.is_server_error());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for (value, tries, method, status) in [
        ("http_503", "2", "GET", 200),
        ("http_503", "1", "GET", 503),
        ("http_502", "2", "GET", 503),
        ("off", "2", "GET", 503),
        ("http_503", "2", "POST", 503),
        ("http_503 non_idempotent", "2", "POST", 200),
    ] {
        let all = [
            ("proxy-next-upstream", value),
            ("proxy-next-upstream-tries", tries),
            ("proxy-next-upstream-timeout", "10"),
        ];
        let gateway = simple(&all, &[web.address, bad.address]).await;
        let mut statuses = BTreeSet::new();
        for _ in 0..6 {
            statuses.insert(send_as(&gateway, method, "a.com/", &[], "x").await.status.as_u16());
        }
        assert_eq!(statuses.into_iter().max(), Some(status), "{value} {tries} {method}");
    }
    for (protocol, version) in [("GRPC", "HTTP/2.0"), ("HTTP", "HTTP/1.1"), ("AUTO_HTTP", "HTTP/1.1")] {
        let gateway = simple(&[("backend-protocol", protocol)], &[web.address]).await;
        assert_eq!(field(&send(&gateway, "a.com/", &[]).await.text, "version"), version);
    }
}

pub(super) const ERRORS: &[&str] =
    &["custom-http-errors", "default-backend", "mirror-target", "mirror-request-body", "mirror-host"];

#[tokio::test]
async fn errors_have_pages_and_requests_have_copies() {
    let (errors, copies) = (Endpoint::start("errors").await, Endpoint::start("copies").await);
    let bad = says("HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno").await;
    let world = || World::new().service("errors", &[errors.address]).service("bad", &[bad.address]);
    let pages = [("custom-http-errors", "404,503"), ("default-backend", "errors")];
    let gateway = world().service("none", &[]).ingress("web", &pages, &[("/", "bad"), ("/none", "none")]);
    let gateway = gateway.start().await;
    let page = send(&gateway, "a.com/x?q", &[("accept", "application/json")]).await;
    assert_eq!(field(&page.text, "server"), "errors");
    for (name, value) in [
        ("x-code", "404"),
        ("x-format", "application/json"),
        ("x-original-uri", "/x?q"),
        ("x-namespace", "ns"),
        ("x-ingress-name", "web"),
    ] {
        assert_eq!(echoed(&page.text, name).as_deref(), Some(value), "{name}");
    }
    // A Service without endpoints.
    assert_eq!(field(&send(&gateway, "a.com/none", &[]).await.text, "server"), "errors");
    let web = Endpoint::start("web").await;
    let target = format!("http://copies.ns.svc:{}$request_uri", copies.address.port());
    let mirror = [("mirror-target", &*target), ("mirror-request-body", "on")];
    let gateway = World::new()
        .service("web", &[web.address])
        .service("copies", &[copies.address])
        .ingress("web", &mirror, &[("/", "web")])
        .start()
        .await;
    assert_eq!(field(&send_as(&gateway, "POST", "a.com/x", &[], "body").await.text, "server"), "web");
    let end = Instant::now() + Duration::from_secs(10);
    while copies.count() == 0 {
        assert!(Instant::now() < end, "no copy came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_copy_has_the_host_of_the_annotation() {
    let (web, hosts) = (Endpoint::start("web").await, Arc::new(Mutex::new(Vec::new())));
    let received = hosts.clone();
    let copies = Endpoint::of(move |mut stream: TcpStream| {
        let received = received.clone();
        async move {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            received.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).to_ascii_lowercase());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let target = format!("http://copies.ns.svc:{}$request_uri", copies.address.port());
    let mirror = [("mirror-target", &*target), ("mirror-host", "copy-of.$host")];
    let world = World::new().service("web", &[web.address]).service("copies", &[copies.address]);
    let gateway = world.ingress("web", &mirror, &[("/", "web")]).start().await;
    assert_eq!(send(&gateway, "a.com/x", &[]).await.status, 200);
    let end = Instant::now() + Duration::from_secs(10);
    while hosts.lock().unwrap().is_empty() {
        assert!(Instant::now() < end, "no copy came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let head = hosts.lock().unwrap().concat();
    assert!(head.lines().any(|line| line == "host: copy-of.a.com"), "{head}");
}

pub(super) const RESPONSES: &[&str] = &[
    "proxy-cookie-domain",
    "proxy-cookie-path",
    "proxy-redirect-from",
    "proxy-redirect-to",
    "custom-headers",
];

#[tokio::test]
async fn responses_have_the_headers_of_a_config_map() {
    let web = Endpoint::start("web").await;
    let named = [("custom-headers", "ns/headers")];
    let start = async |data: &[(&str, &str)]| {
        let mut world = World::new()
            .service("web", &[web.address])
            .ingress("web", &named, &[("/", "web")])
            .config_map("headers", data);
        let compiled = world.index.compile(NOW);
        let reasons: Vec<_> = compiled.problems.iter().map(|problem| problem.reason()).collect();
        (send(&TestGateway::of(&compiled.config, limits()).await, "a.com/", &[]).await, reasons)
    };
    let (answer, reasons) = start(&[("Strict-Transport-Security", "max-age=1"), ("X-A", "b")]).await;
    assert_eq!((answer.status.as_u16(), reasons), (200, Vec::new()));
    assert_eq!(header(&answer.headers, "strict-transport-security"), Some("max-age=1"));
    assert_eq!(header(&answer.headers, "x-a"), Some("b"));
    for (name, value) in [("Content-Length", "1"), ("a b", "c"), ("X-A", "b\nc")] {
        let (answer, reasons) = start(&[(name, value)]).await;
        assert_eq!((answer.status.as_u16(), reasons), (503, vec!["InvalidHeaders"]), "{name}");
    }
}

#[tokio::test]
async fn responses_name_what_clients_see() {
    let inner = says("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://inner/x\r\nSet-Cookie: s=1; Domain=inner; Path=/in/y\r\n\r\n").await;
    let all = [
        ("proxy-cookie-domain", "inner a.com"),
        ("proxy-cookie-path", "/in /out"),
        ("proxy-redirect-from", "http://inner/"),
        ("proxy-redirect-to", "https://a.com/app/"),
    ];
    let answer = send(&simple(&all, &[inner.address]).await, "a.com/", &[]).await;
    assert_eq!(header(&answer.headers, "location"), Some("https://a.com/app/x"));
    assert_eq!(header(&answer.headers, "set-cookie"), Some("s=1; Domain=a.com; Path=/out/y"));
}
