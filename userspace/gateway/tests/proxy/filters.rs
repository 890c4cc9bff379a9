//! What routes do with their requests: headers, rewrites, redirects, other origins, copies, times, attempts, weights.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use skep_gateway::config::{Config, Mirror, Protocol, Retry, Route, RouteBackend, Timeouts};
use skep_gateway::filters::{Cors, Filters, HeaderChanges, Origin, PathRewrite, Redirect, Rewrite};
use skep_gateway::policy::{Balance, Policy, SessionCookie, SessionHeader};
use skep_gateway::routing::{Conditions, HostPattern, HostTable, PathMatch, RouteTable, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{HTTP, Http1, Routes, TestGateway, get, limits};

/// A gateway with one route for everything, and these endpoints as backends 0, 1, 2.
async fn gateway(endpoints: &[&Endpoint], change: impl FnOnce(&mut Route)) -> TestGateway {
    let all = endpoints.iter().enumerate().fold(Routes::default(), |routes, (at, endpoint)| {
        routes.rule("", &format!("/{at}"), Protocol::Http1, &[endpoint.address])
    });
    let mut config: Config = all.config();
    let mut route = Route::to(config.counters[0].clone(), 0);
    change(&mut route);
    let path = PathMatch::Prefix("/".into());
    let rule =
        Rule { host: HostPattern::Any, path, conditions: Conditions::default(), target: Arc::new(route) };
    let table = HostTable::of_any(Arc::new(RouteTable::compile([rule], [])));
    config.listeners.get_mut(&HTTP).unwrap().hosts = Arc::new(table);
    TestGateway::of(&config, limits()).await
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

async fn send(gateway: &TestGateway, request: Request<&'static str>) -> crate::harness::Answer {
    let request = request.map(|body| Full::new(Bytes::from_static(body.as_bytes())));
    Http1::connect(gateway.http).await.send(request).await.unwrap()
}

#[tokio::test]
async fn headers_are_removed_set_and_added_both_ways_by_route_and_backend() {
    let endpoint = Endpoint::start("a").await;
    let changes = || HeaderChanges {
        remove: vec![HeaderName::from_static("x-gone")],
        set: vec![header("x-set", "1")],
        add: vec![header("x-add", "1")],
    };
    let gateway = gateway(&[&endpoint], |route| {
        route.filters = Filters { request: changes(), response: changes(), rewrite: Rewrite::default() };
        let set = vec![header("x-set", "backend")];
        route.backends[0].filters.request = HeaderChanges { set, ..HeaderChanges::default() };
    })
    .await;
    let request = Request::get("/").header("host", "a.com").header("x-gone", "1").header("x-set", "0");
    let answer = send(&gateway, request.body("").unwrap()).await;
    assert_eq!(echoed(&answer.text, "x-set").as_deref(), Some("backend"));
    assert_eq!(echoed(&answer.text, "x-add").as_deref(), Some("1"));
    assert_eq!(echoed(&answer.text, "x-gone"), None);
    assert_eq!(
        (&answer.headers["x-set"], &answer.headers["x-add"]),
        (&"1".parse().unwrap(), &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_backend_gets_another_host_and_path_and_still_knows_the_clients() {
    let endpoint = Endpoint::start("a").await;
    let gateway = gateway(&[&endpoint], |route| {
        let path = PathRewrite::Prefix { matched: "/old".into(), with: "/new".into() };
        route.filters.rewrite = Rewrite { host: Some("inner.example".into()), path: Some(path) };
    })
    .await;
    let answer = get(gateway.http, "a.com", "/old/x?q=1").await;
    assert_eq!(field(&answer.text, "uri"), "/new/x?q=1");
    assert_eq!(echoed(&answer.text, "host").as_deref(), Some("inner.example"));
    assert_eq!(echoed(&answer.text, "x-forwarded-host").as_deref(), Some("a.com"));
}

#[tokio::test]
async fn a_redirect_is_answered_without_an_endpoint() {
    let endpoint = Endpoint::start("a").await;
    let gateway = gateway(&[&endpoint], |route| {
        let status = StatusCode::PERMANENT_REDIRECT;
        route.redirect =
            Some(Redirect { scheme: Some("https".into()), host: None, path: None, port: None, status });
    })
    .await;
    let answer = get(gateway.http, "a.com:8080", "/x?q=1").await;
    assert_eq!((answer.status, endpoint.count()), (StatusCode::PERMANENT_REDIRECT, 0));
    assert_eq!(answer.headers["location"], "https://a.com/x?q=1");
}

#[tokio::test]
async fn a_preflight_is_answered_and_a_response_names_the_origin() {
    let endpoint = Endpoint::start("a").await;
    let cors = Cors { origins: vec![Origin::parse("https://*.b.com")], ..Cors::default() };
    let gateway = gateway(&[&endpoint], |route| route.cors = Some(cors)).await;
    let ask = |method: &'static str, origin: &'static str| {
        let request =
            Request::builder().method(method).uri("/").header("host", "a.com").header("origin", origin);
        request.header("access-control-request-method", "GET").body("").unwrap()
    };
    let allow = "access-control-allow-origin";
    let answer = send(&gateway, ask("OPTIONS", "https://x.b.com")).await;
    assert_eq!(
        (answer.status, &answer.headers[allow]),
        (StatusCode::NO_CONTENT, &"https://x.b.com".parse().unwrap())
    );
    assert_eq!(endpoint.count(), 0);
    let answer = send(&gateway, ask("GET", "https://x.b.com")).await;
    assert_eq!(
        (answer.status, &answer.headers[allow]),
        (StatusCode::OK, &"https://x.b.com".parse().unwrap())
    );
    let answer = send(&gateway, ask("GET", "https://evil.com")).await;
    assert_eq!((answer.status, answer.headers.get(allow)), (StatusCode::OK, None));
}

#[tokio::test]
async fn a_mirror_gets_the_body_too_and_a_part_of_the_requests_if_so_asked() {
    let (endpoint, all, none) =
        (Endpoint::start("a").await, Endpoint::start("all").await, Endpoint::start("none").await);
    let gateway = gateway(&[&endpoint, &all, &none], |route| {
        let mirror = |backend, numerator| Mirror { backend, numerator, denominator: 100 };
        route.mirrors = vec![mirror(1, 100), mirror(2, 0)];
    })
    .await;
    for _ in 0..20 {
        let request = Request::post("/").header("host", "a.com").body("payload").unwrap();
        assert_eq!(field(&send(&gateway, request).await.text, "bytes"), "7");
    }
    let end = Instant::now() + Duration::from_secs(10);
    while all.count() < 20 {
        assert!(Instant::now() < end, "{} copies", all.count());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((endpoint.count(), none.count()), (20, 0));
    assert_eq!(gateway.counter("upstream_failures_total"), 0);
}

#[tokio::test]
async fn a_request_and_an_attempt_have_their_time() {
    let endpoint = Endpoint::start("a").await;
    let short = Some(Duration::from_millis(100));
    for timeouts in [Timeouts { request: short, attempt: None }, Timeouts { request: None, attempt: short }] {
        let gateway = gateway(&[&endpoint], |route| route.timeouts = timeouts).await;
        assert_eq!(get(gateway.http, "a.com", "/?ms=5000").await.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(get(gateway.http, "a.com", "/?ms=1").await.status, StatusCode::OK);
    }
    let off = Timeouts { request: Some(Duration::ZERO), attempt: None };
    let gateway = gateway(&[&endpoint], |route| route.timeouts = off).await;
    assert_eq!(get(gateway.http, "a.com", "/?ms=200").await.status, StatusCode::OK);
}

/// An endpoint that fails twice, by status or by closing, then answers with what it got.
async fn flaky(closes: bool) -> Endpoint {
    let requests: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
    let counted = requests.clone();
    let mut endpoint = Endpoint::of(move |mut stream| {
        let counted = counted.clone();
        async move {
            let mut buffer = vec![0; 65_536];
            let mut got = String::new();
            while !got.contains("payload") {
                match stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => got.push_str(&String::from_utf8_lossy(&buffer[..count])),
                    _ => return,
                }
            }
            let attempt = counted.fetch_add(1, Ordering::Relaxed);
            let answer: &[u8] = match (attempt, closes) {
                (0 | 1, true) => return,
                (0 | 1, false) => b"HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                _ => b"HTTP/1.1 200 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            };
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    endpoint.requests = requests;
    endpoint
}

#[tokio::test]
async fn a_route_that_says_so_sends_a_body_again_after_a_status_or_a_lost_connection() {
    for (closes, attempts, status) in [
        (false, 2, StatusCode::OK),
        (true, 2, StatusCode::OK),
        (false, 1, StatusCode::SERVICE_UNAVAILABLE),
        (true, 1, StatusCode::BAD_GATEWAY),
    ] {
        let endpoint = flaky(closes).await;
        let retry = Retry {
            statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
            attempts,
            backoff: Duration::from_millis(1),
        };
        let gateway = gateway(&[&endpoint], |route| route.retry = Some(retry)).await;
        let request = Request::post("/").header("host", "a.com").body("payload").unwrap();
        assert_eq!(send(&gateway, request).await.status, status, "{closes} {attempts}");
        assert_eq!(endpoint.count(), attempts + 1);
    }
}

#[tokio::test]
async fn backends_get_their_parts_and_one_that_is_nowhere_answers_500() {
    let (a, b) = (Endpoint::start("a").await, Endpoint::start("b").await);
    let gateway = gateway(&[&a, &b], |route| {
        let part = |backend, weight| RouteBackend { backend, weight, ..RouteBackend::default() };
        route.backends = vec![part(Some(0), 60), part(Some(1), 0), part(None, 40)];
    })
    .await;
    let (mut client, mut failed) = (Http1::connect(gateway.http).await, 0);
    for _ in 0..500 {
        failed +=
            usize::from(client.get("a.com", "/").await.unwrap().status == StatusCode::INTERNAL_SERVER_ERROR);
    }
    // Five standard deviations.
    assert!((145..=255).contains(&failed), "{failed}");
    assert_eq!((a.count() + failed, b.count()), (500, 0));
}

/// With several backends too, whatever their weights.
#[tokio::test]
async fn a_session_keeps_its_endpoint_by_cookie_and_by_header() {
    let endpoints = [Endpoint::start("a").await, Endpoint::start("b").await, Endpoint::start("c").await];
    let cookie =
        SessionCookie { name: "s".into(), attributes: "; Path=/".into(), ..SessionCookie::default() };
    for (balance, given, sent) in [
        (Balance::Cookie(cookie), "set-cookie", "cookie"),
        (Balance::Header(session_header(None)), "x-session", "x-session"),
    ] {
        let gateway = gateway(&[&endpoints[0], &endpoints[1], &endpoints[2]], |route| {
            route.backends = (0..3)
                .map(|at| RouteBackend { backend: Some(at), weight: 1, ..RouteBackend::default() })
                .collect();
            route.policy = Some(Arc::new(Policy { balance, ..Policy::default() }));
        })
        .await;
        for _ in 0..5 {
            let first = get(gateway.http, "a.com", "/").await;
            let session = first.headers[given].to_str().unwrap().split(';').next().unwrap().to_owned();
            for _ in 0..10 {
                let request = Request::get("/").header("host", "a.com").header(sent, &session);
                let answer = send(&gateway, request.body("").unwrap()).await;
                assert_eq!(field(&answer.text, "server"), field(&first.text, "server"));
                assert_eq!(answer.headers.get(given), None, "the session goes on");
            }
        }
        // A session of an endpoint that is gone begins again.
        let request = Request::get("/").header("host", "a.com").header(sent, "s=00000000000000ab");
        let answer = send(&gateway, request.body("").unwrap()).await;
        assert!(answer.status == StatusCode::OK && answer.headers.contains_key(given));
    }
}

fn session_header(lifetime: Option<Duration>) -> SessionHeader {
    SessionHeader { name: HeaderName::from_static("x-session"), lifetime }
}

/// The gateway counts, whatever the client keeps.
#[tokio::test]
async fn a_session_ends_after_its_lifetime() {
    let endpoints = [Endpoint::start("a").await, Endpoint::start("b").await];
    let lifetime = Some(Duration::from_secs(3600));
    let cookie = SessionCookie { name: "s".into(), lifetime, ..SessionCookie::default() };
    for (balance, given, sent) in [
        (Balance::Cookie(cookie), "set-cookie", "cookie"),
        (Balance::Header(session_header(lifetime)), "x-session", "x-session"),
    ] {
        let gateway = gateway(&[&endpoints[0], &endpoints[1]], |route| {
            route.policy = Some(Arc::new(Policy { balance, ..Policy::default() }));
        })
        .await;
        let first = get(gateway.http, "a.com", "/").await;
        let session = first.headers[given].to_str().unwrap().to_owned();
        let next = async |session: &str| {
            let request = Request::get("/").header("host", "a.com").header(sent, session);
            send(&gateway, request.body("").unwrap()).await
        };
        let answer = next(&session).await;
        assert_eq!(field(&answer.text, "server"), field(&first.text, "server"));
        assert_eq!(answer.headers.get(given), None, "the session goes on");
        // The same endpoint, in a session of 1970.
        let (endpoint, _) = session.split_once('.').unwrap();
        let answer = next(&format!("{endpoint}.1")).await;
        let begun = answer.headers[given].to_str().unwrap();
        assert_ne!(begun.split_once('.').unwrap().1, "1");
    }
}
