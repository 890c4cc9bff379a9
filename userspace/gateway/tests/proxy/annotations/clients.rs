//! Which clients may send requests, how many, and who may read the responses.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{NOW, World, header, says, send, send_as, simple};
use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{Http1, TestGateway, limits, raw};

pub(super) const CLIENTS: &[&str] = &[
    "auth-type",
    "auth-secret",
    "auth-secret-type",
    "auth-realm",
    "satisfy",
    "whitelist-source-range",
    "denylist-source-range",
];

#[tokio::test]
async fn only_clients_that_may_come_in_do() {
    let web = Endpoint::start("web").await;
    let basic = |more: &[(&'static str, &'static str)]| {
        [&[("auth-type", "basic"), ("auth-secret", "users"), ("auth-realm", "inner")], more].concat()
    };
    let (right, wrong) = (BASE64_STANDARD.encode("ann:password"), BASE64_STANDARD.encode("ann:no"));
    let (right, wrong) = (format!("Basic {right}"), format!("Basic {wrong}"));
    let hash = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
    for (annotations, authorization, status) in [
        (basic(&[]), None, 401),
        (basic(&[]), Some(&wrong), 401),
        (basic(&[]), Some(&right), 200),
        (basic(&[("auth-secret-type", "auth-map"), ("auth-secret", "map")]), Some(&right), 200),
        (basic(&[("satisfy", "any"), ("whitelist-source-range", "127.0.0.0/8")]), None, 200),
        (basic(&[("satisfy", "any"), ("whitelist-source-range", "10.0.0.0/8")]), None, 401),
        (basic(&[("satisfy", "any"), ("whitelist-source-range", "10.0.0.0/8")]), Some(&right), 200),
        (basic(&[("satisfy", "all"), ("whitelist-source-range", "10.0.0.0/8")]), Some(&right), 403),
        (vec![("whitelist-source-range", "10.0.0.0/8,127.0.0.1")], None, 200),
        (vec![("whitelist-source-range", "10.0.0.0/8")], None, 403),
        (vec![("denylist-source-range", "127.0.0.0/8")], None, 403),
        (vec![("denylist-source-range", "10.0.0.0/8")], None, 200),
    ] {
        let before = web.count();
        let gateway = World::new()
            .service("web", &[web.address])
            .ingress("web", &annotations, &[("/", "web")])
            .secret("users", &[("auth", &format!("ann:{hash}\n"))])
            .secret("map", &[("ann", hash)])
            .start()
            .await;
        let headers: Vec<_> = authorization.map(|value| ("authorization", &**value)).into_iter().collect();
        let answer = send(&gateway, "a.com/", &headers).await;
        assert_eq!(answer.status, status, "{annotations:?} {authorization:?}");
        assert_eq!(web.count() - before, usize::from(status == 200));
        if status == 401 {
            assert_eq!(header(&answer.headers, "www-authenticate"), Some("Basic realm=\"inner\""));
        }
    }
}

/// What is invalid keeps requests out, and is said.
#[tokio::test]
async fn a_lock_that_does_not_work_is_locked() {
    let web = Endpoint::start("web").await;
    for (annotations, reason) in [
        (&[("auth-type", "basic"), ("auth-secret", "missing")][..], "InvalidUsers"),
        (&[("auth-type", "basic")], "InvalidUsers"),
        (&[("auth-type", "basic"), ("auth-secret", "other/users")], "InvalidUsers"),
        (&[("auth-type", "digest")], "InvalidAnnotation"),
        (&[("whitelist-source-range", "10.0.0.0/8, nonsense")], "InvalidAnnotation"),
        (&[("configuration-snippet", "deny all;")], "AnnotationRefused"),
        (&[("enable-modsecurity", "true")], "AnnotationRefused"),
    ] {
        let mut world =
            World::new().service("web", &[web.address]).ingress("web", annotations, &[("/", "web")]);
        let compiled = world.index.compile(NOW);
        let reasons: Vec<_> = compiled.problems.iter().map(|problem| problem.reason()).collect();
        assert_eq!(reasons, [reason], "{annotations:?}");
        let gateway = TestGateway::of(&compiled.config, limits()).await;
        assert_eq!(send(&gateway, "a.com/", &[]).await.status, 503, "{annotations:?}");
    }
    assert_eq!(web.count(), 0);
}

pub(super) const EXTERNAL: &[&str] = &[
    "auth-url",
    "auth-method",
    "auth-signin",
    "auth-signin-redirect-param",
    "auth-response-headers",
    "auth-request-redirect",
    "auth-always-set-cookie",
    "auth-cache-key",
    "auth-cache-duration",
    "auth-proxy-set-headers",
];

#[tokio::test]
async fn another_service_says_whether_a_request_goes_on() {
    let web = Endpoint::start("web").await;
    let yes = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User: ann\r\nSet-Cookie: s=1\r\n\r\n").await;
    let no = says("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nWWW-Authenticate: Bearer\r\n\r\n").await;
    let broken = says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
    let start = async |auth: &Endpoint, more: &[(&str, &str)]| {
        let url = format!("http://auth.ns.svc.cluster.local:{}/check?of=$host", auth.address.port());
        let all = [&[("auth-url", &*url)], more].concat();
        let world = World::new().service("web", &[web.address]).service("auth", &[auth.address]);
        let world = world.config_map("asked", &[("X-Asked-By", "the gateway")]);
        world.ingress("web", &all, &[("/", "web")]).start().await
    };
    let gateway =
        start(&yes, &[("auth-response-headers", "X-User, X-Group"), ("auth-always-set-cookie", "true")])
            .await;
    let forged = [("x-user", "eve"), ("x-group", "admins")];
    let answer = send_as(&gateway, "POST", "a.com/x", &forged, "body").await;
    let seen = |name| echoed(&answer.text, name);
    assert_eq!(
        (answer.status.as_u16(), seen("x-user").as_deref(), seen("x-group")),
        (200, Some("ann"), None)
    );
    assert_eq!(
        (field(&answer.text, "bytes"), header(&answer.headers, "set-cookie")),
        ("4".into(), Some("s=1"))
    );
    let sign_in = [("auth-signin", "https://login.com/?a=b"), ("auth-signin-redirect-param", "back")];
    for (auth, more, status, name, value) in [
        (&no, &[][..], 401, "www-authenticate", "Bearer"),
        (&no, &sign_in, 302, "location", "https://login.com/?a=b&back=http%3A%2F%2Fa%2Ecom%2Fx%3Fq%3D1"),
        (&broken, &[], 500, "content-type", "text/plain; charset=utf-8"),
    ] {
        let before = web.count();
        let answer = send(&start(auth, more).await, "a.com/x?q=1", &[]).await;
        assert_eq!((answer.status.as_u16(), header(&answer.headers, name)), (status, Some(value)));
        assert_eq!(web.count(), before);
    }
    // What the service is asked.
    let recorded = record().await;
    let options = [
        ("auth-method", "HEAD"),
        ("auth-request-redirect", "/from$uri"),
        ("auth-proxy-set-headers", "ns/asked"),
    ];
    let gateway = start(&recorded.0, &options).await;
    assert_eq!(send(&gateway, "a.com/x?q=1", &[("cookie", "c=1")]).await.status, 200);
    let asked = recorded.1.lock().unwrap().to_ascii_lowercase();
    for line in [
        "head /check?of=a.com http/1.1",
        "x-original-url: http://a.com/x?q=1",
        "x-original-method: get",
        "x-auth-request-redirect: /from/x",
        "x-real-ip: 127.0.0.1",
        "cookie: c=1",
        "x-asked-by: the gateway",
    ] {
        assert!(asked.lines().any(|found| found == line), "{line} in {asked}");
    }
}

/// An endpoint that answers 200, and the last request that it got.
async fn record() -> (Endpoint, std::sync::Arc<std::sync::Mutex<String>>) {
    let last = std::sync::Arc::<std::sync::Mutex<String>>::default();
    let write = last.clone();
    let endpoint = Endpoint::of(move |mut stream: TcpStream| {
        let write = write.clone();
        async move {
            let mut buffer = [0; 4096];
            while let Ok(count) = stream.read(&mut buffer).await {
                if count == 0 {
                    return;
                }
                *write.lock().unwrap() = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    (endpoint, last)
}

#[tokio::test]
async fn an_answer_is_kept_for_requests_that_are_alike() {
    let (web, auth) = (Endpoint::start("web").await, Endpoint::start("auth").await);
    let url = format!("http://auth.ns.svc:{}/", auth.address.port());
    let cached = [("auth-url", &*url), ("auth-cache-key", "$http_authorization")];
    let start = async |more: &[(&str, &str)]| {
        let world = World::new().service("web", &[web.address]).service("auth", &[auth.address]);
        world.ingress("web", &[&cached, more].concat(), &[("/", "web")]).start().await
    };
    let questions = async |gateway: &TestGateway, user: &str| {
        let before = auth.count();
        for path in ["a.com/x", "a.com/y"] {
            assert_eq!(send(gateway, path, &[("authorization", user)]).await.status, 200);
        }
        auth.count() - before
    };
    let gateway = start(&[]).await;
    assert_eq!((questions(&gateway, "ann").await, questions(&gateway, "ben").await), (1, 1));
    assert_eq!(questions(&gateway, "ann").await, 0);
    let gateway = start(&[("auth-cache-duration", "401 403 1h, any 0")]).await;
    assert_eq!(questions(&gateway, "ann").await, 2);
}

pub(super) const RATES: &[&str] = &[
    "limit-rps",
    "limit-rpm",
    "limit-burst-multiplier",
    "limit-connections",
    "limit-whitelist",
    "limit-rate",
    "limit-rate-after",
    "proxy-body-size",
];

#[tokio::test]
async fn a_client_has_its_rate() {
    let web = Endpoint::start("web").await;
    for (annotations, passed) in [
        (&[("limit-rpm", "2"), ("limit-burst-multiplier", "2")][..], 5),
        (&[("limit-rpm", "1")], 6),
        (&[("limit-rps", "1"), ("limit-rpm", "1"), ("limit-burst-multiplier", "3")], 4),
        (&[("limit-rpm", "1"), ("limit-whitelist", "127.0.0.0/8")], 10),
    ] {
        let gateway = simple(annotations, &[web.address]).await;
        let mut client = Http1::connect(gateway.http).await;
        let mut statuses = Vec::new();
        for _ in 0..10 {
            statuses.push(client.get("a.com", "/").await.unwrap().status.as_u16());
        }
        let ok = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(ok, passed, "{annotations:?} {statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)));
    }
    let gateway = simple(&[("limit-connections", "2")], &[web.address]).await;
    let slow = || send(&gateway, "a.com/?ms=300", &[]);
    let (a, b, c) = tokio::join!(slow(), slow(), slow());
    let mut statuses = [a, b, c].map(|answer| answer.status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    assert_eq!(send(&gateway, "a.com/", &[]).await.status, 200);
    let gateway = simple(&[("proxy-body-size", "1k")], &[web.address]).await;
    for (size, status) in [(1_024, 200), (1_025, 413)] {
        assert_eq!(send_as(&gateway, "POST", "a.com/", &[], &"x".repeat(size)).await.status, status);
    }
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = raw(gateway.http, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_is_sent_at_the_rate_of_its_route() {
    let web = Endpoint::start("web").await;
    let body = "x".repeat(300 << 10);
    let took = async |annotations: &[(&str, &str)]| {
        let unbounded = [&[("proxy-body-size", "0")], annotations].concat();
        let gateway = simple(&unbounded, &[web.address]).await;
        let begun = Instant::now();
        let answer = send_as(&gateway, "POST", "a.com/echo", &[], &body).await;
        assert!(answer.text == body);
        begun.elapsed()
    };
    // 200 KB of it are paced.
    let paced = took(&[("limit-rate", "100"), ("limit-rate-after", "100")]).await;
    assert!(paced > Duration::from_millis(700), "{paced:?}");
    let free = took(&[("limit-rate", "1"), ("limit-rate-after", "1000")]).await;
    assert!(free < Duration::from_secs(60), "{free:?}");
}

pub(super) const CORS: &[&str] = &[
    "enable-cors",
    "cors-allow-origin",
    "cors-allow-methods",
    "cors-allow-headers",
    "cors-expose-headers",
    "cors-allow-credentials",
    "cors-max-age",
];

#[tokio::test]
async fn pages_of_other_origins_may_read() {
    let web = Endpoint::start("web").await;
    let all = [
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.b.com, http://c.com:8080"),
        ("cors-allow-methods", "GET, PUT"),
        ("cors-allow-headers", "X-One"),
        ("cors-expose-headers", "X-Two"),
        ("cors-allow-credentials", "false"),
        ("cors-max-age", "60"),
    ];
    let (usual, special) = (simple(&all[..1], &[web.address]).await, simple(&all, &[web.address]).await);
    let ask = [("origin", "https://x.b.com"), ("access-control-request-method", "PUT")];
    for (gateway, wanted) in [
        (
            &usual,
            [
                Some("https://x.b.com"),
                Some("GET, PUT, POST, DELETE, PATCH, OPTIONS"),
                Some("true"),
                Some("1728000"),
                None,
            ],
        ),
        (&special, [Some("https://x.b.com"), Some("GET, PUT"), None, Some("60"), Some("X-Two")]),
    ] {
        let answer = send_as(gateway, "OPTIONS", "a.com/", &ask, "").await;
        assert_eq!(answer.status, 204);
        let names = ["allow-origin", "allow-methods", "allow-credentials", "max-age", "expose-headers"];
        for (name, wanted) in names.into_iter().zip(wanted) {
            assert_eq!(header(&answer.headers, &format!("access-control-{name}")), wanted, "{name}");
        }
    }
    for (origin, allowed) in [("http://c.com:8080", true), ("http://c.com", false)] {
        let answer = send(&special, "a.com/", &[("origin", origin)]).await;
        assert_eq!(answer.status, 200);
        let found = header(&answer.headers, "access-control-allow-origin");
        assert_eq!(found, allowed.then_some(origin));
    }
}
