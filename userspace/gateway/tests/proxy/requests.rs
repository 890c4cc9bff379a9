//! Requests as endpoints see them.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use skep_gateway::config::Protocol;

use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{Http1, Routes, TestGateway, get, raw};

#[tokio::test]
async fn an_endpoint_sees_the_request_and_who_sent_it() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let request = Request::post("/a/b?c=d")
        .header("host", "Example.com:8080")
        .header("x-forwarded-for", "10.0.0.1")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .body(Full::new(Bytes::from_static(b"body")))
        .unwrap();
    let answer = Http1::connect(gateway.http).await.send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let text = &answer.text;
    assert_eq!(
        (field(text, "method"), field(text, "uri"), field(text, "bytes")),
        ("POST".into(), "/a/b?c=d".into(), "4".into())
    );
    for (name, value) in [
        ("host", Some("Example.com:8080")),
        ("content-length", Some("4")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-host", Some("Example.com:8080")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-port", Some("80")),
        ("x-real-ip", Some("127.0.0.1")),
        ("forwarded", Some("for=127.0.0.1;host=\"Example.com:8080\";proto=http")),
        ("x-secret", None),
        ("connection", None),
    ] {
        assert_eq!(echoed(text, name).as_deref(), value, "{name} in {text}");
    }
    assert_eq!(answer.headers.get("x-hop"), None);
    assert!(answer.headers.contains_key("date") && answer.headers["server"] == "skep");
}

#[tokio::test]
async fn host_and_path_choose_the_endpoint() {
    let (a, b, c) = (Endpoint::start("a").await, Endpoint::start("b").await, Endpoint::start("c").await);
    let routes = Routes::default()
        .rule("a.com", "/", Protocol::Http1, &[a.address])
        .rule("a.com", "/b", Protocol::Http1, &[b.address])
        .rule("*.c.com", "/", Protocol::Http1, &[c.address])
        .rule("empty.com", "/", Protocol::Http1, &[]);
    let gateway = TestGateway::start(&routes).await;
    for (host, path, wanted) in [
        ("a.com", "/", Ok("a")),
        ("A.COM.:80", "/x", Ok("a")),
        ("a.com", "/b/x", Ok("b")),
        ("a.com", "//b", Ok("b")),
        ("a.com", "/x/../b", Ok("b")),
        ("a.com", "/%62", Ok("b")),
        ("a.com", "/bb", Ok("a")),
        ("x.c.com", "/", Ok("c")),
        ("x.x.c.com", "/", Err(404)),
        ("d.com", "/", Err(404)),
        ("empty.com", "/", Err(503)),
        ("a.com", "/x/..%2fb", Err(400)),
        ("a.com", "/../b", Err(400)),
        ("a.com", "/%", Err(400)),
    ] {
        let answer = get(gateway.http, host, path).await;
        match wanted {
            Ok(server) => assert_eq!(field(&answer.text, "server"), server, "{host} {path}"),
            Err(status) => assert_eq!(answer.status, status, "{host} {path}"),
        }
    }
    let metrics = gateway.metrics();
    assert!(metrics.contains("requests_total{route=\"test/0\",code=\"2xx\"} 3"), "{metrics}");
}

#[tokio::test]
async fn an_endpoint_sees_the_path_that_was_matched() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    for (path, received) in [
        ("/a/../b/./c", "/b/c"),
        ("/%7Ea%2fb", "/~a%2Fb"),
        ("//a//b", "//a//b"),
        ("/a?b=/../c", "/a?b=/../c"),
        ("/a;v=1", "/a;v=1"),
    ] {
        assert_eq!(field(&get(gateway.http, "a", path).await.text, "uri"), received);
    }
    let absolute =
        raw(gateway.http, b"GET http://a.com/x HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await;
    assert!(absolute.contains("\"uri\":\"/x\"") && absolute.contains("[\"host\",\"a.com\"]"), "{absolute}");
}

#[tokio::test]
async fn ten_endpoints_get_their_turns() {
    let mut endpoints = Vec::new();
    for _ in 0..10 {
        endpoints.push(Endpoint::start("one of ten").await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let gateway = TestGateway::start(&Routes::to(&addresses)).await;
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..100 {
        assert_eq!(client.get("a", "/").await.unwrap().status, StatusCode::OK);
    }
    let counts: Vec<_> = endpoints.iter().map(Endpoint::count).collect();
    assert!(counts.iter().all(|count| (5..=20).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn head_and_old_clients_are_served() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let head = raw(gateway.http, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("content-length:") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let old = raw(gateway.http, b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200") && old.contains("\"uri\":\"/old\""), "{old}");
}
