//! Annotations of ingress-nginx, each with real requests: an Ingress becomes a configuration, and the gateway serves it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use skep_gateway::ingress::annotations::{PREFIX, Support, names, support};
use skep_gateway::ingress::{CONTROLLER, Index, Ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{Answer, HTTP, HTTPS, Http1, TestGateway, limits, raw};

/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
/// Of the tests below, in their order.
const COVERED: [&[&str]; 11] =
    [PATHS, REDIRECTS, CANARIES, SESSIONS, CLIENTS, EXTERNAL, RATES, CORS, ATTEMPTS, ERRORS, RESPONSES];

#[test]
fn each_annotation_that_is_served_has_a_test() {
    let covered: BTreeSet<&str> = COVERED.iter().copied().flatten().copied().collect();
    let served: BTreeSet<&str> = names()
        .filter(|name| support(&format!("{PREFIX}{name}")).is_some_and(|(found, _)| found == Support::Served))
        .collect();
    assert_eq!(covered, served);
}

/// Objects of one namespace.
struct World {
    index: Index,
    problems: Vec<&'static str>,
}

impl World {
    fn new() -> World {
        let mut index = Index::new(Ports { http: Some(HTTP), https: Some(HTTPS) });
        for name in ["skep", "nginx"] {
            let class = json!({"metadata": {"name": name}, "spec": {"controller": CONTROLLER}});
            index.apply_class(&serde_json::from_value(class).unwrap());
        }
        World { index, problems: Vec::new() }
    }

    fn service(mut self, name: &str, endpoints: &[SocketAddr]) -> World {
        let port = endpoints.first().map_or(1, |endpoint| endpoint.port());
        let meta = json!({"namespace": "ns", "name": name});
        let spec = json!({"clusterIP": "127.0.0.1", "ports": [{"name": "http", "port": port}]});
        let service = json!({"metadata": meta, "spec": spec});
        self.index.apply_service(&serde_json::from_value(service).unwrap());
        for (at, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({
                "metadata": {"namespace": "ns", "name": format!("{name}-{at}"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": endpoint.port()}],
                "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
            });
            self.index.apply_slice(&serde_json::from_value(slice).unwrap());
        }
        self
    }

    fn secret(mut self, name: &str, data: &[(&str, &str)]) -> World {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), json!(BASE64_STANDARD.encode(text))));
        let secret = json!({"data": Value::Object(data.collect())});
        let key = format!("ns/{name}").as_str().into();
        self.index.apply_secret(&key, Some(&serde_json::from_value(secret).unwrap()), NOW);
        self
    }

    /// An Ingress of the host `a.com`, with paths and their Services.
    fn ingress(self, name: &str, annotations: &[(&str, &str)], paths: &[(&str, &str)]) -> World {
        self.ingress_of("a.com", name, annotations, paths)
    }

    fn ingress_of(
        mut self,
        host: &str,
        name: &str,
        annotations: &[(&str, &str)],
        paths: &[(&str, &str)],
    ) -> World {
        let annotations = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value)));
        let paths = paths.iter().map(|(path, service)| {
            json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"name": "http"}}}})
        });
        let rule = json!({"host": host, "http": {"paths": paths.collect::<Vec<_>>()}});
        let object = json!({
            "metadata": {"namespace": "ns", "name": name, "annotations": Value::Object(annotations.collect())},
            "spec": {"ingressClassName": "skep", "rules": [rule]},
        });
        self.index.apply_ingress(&serde_json::from_value(object).unwrap());
        self
    }

    async fn start(mut self) -> TestGateway {
        let compiled = self.index.compile(NOW);
        self.problems = compiled.problems.iter().map(|problem| problem.reason()).collect();
        assert!(self.problems.is_empty(), "{:?}", compiled.problems);
        TestGateway::of(&compiled.config, limits()).await
    }
}

/// The path `/` of `a.com` with these annotations.
async fn simple(annotations: &[(&str, &str)], endpoints: &[SocketAddr]) -> TestGateway {
    World::new().service("web", endpoints).ingress("web", annotations, &[("/", "web")]).start().await
}

async fn send(gateway: &TestGateway, uri: &str, headers: &[(&str, &str)]) -> Answer {
    send_as(gateway, "GET", uri, headers, "").await
}

/// `uri`: HOST and path.
async fn send_as(
    gateway: &TestGateway,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let (host, path) = uri.split_at(uri.find('/').unwrap());
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    Http1::connect(gateway.http).await.send(request).await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// An endpoint that answers each request with the same bytes.
async fn says(bytes: &'static str) -> Endpoint {
    Endpoint::of(move |mut stream: TcpStream| async move {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    })
    .await
}

const PATHS: &[&str] = &[
    "rewrite-target",
    "use-regex",
    "x-forwarded-prefix",
    "upstream-vhost",
    "server-alias",
    "app-root",
    "service-upstream",
    "load-balance",
    "enable-access-log",
];

#[tokio::test]
async fn paths_and_hosts_are_those_that_annotations_say() {
    let web = Endpoint::start("web").await;
    let other = Endpoint::start("other").await;
    let common = [
        ("rewrite-target", "/$2"),
        ("use-regex", "true"),
        ("x-forwarded-prefix", "/something"),
        ("upstream-vhost", "inner.local"),
        ("server-alias", "b.com, *.c.com, taken.com"),
        ("app-root", "/something/home"),
        ("service-upstream", "true"),
        ("load-balance", "ewma"),
        ("enable-access-log", "false"),
    ];
    let gateway = World::new()
        .service("web", &[web.address])
        .service("other", &[other.address])
        .ingress("web", &common, &[("/something(/|$)(.*)", "web"), ("/v[0-9]+", "other")])
        .ingress_of("taken.com", "taken", &[], &[("/", "other")])
        .start()
        .await;
    for (uri, server, path) in [
        ("a.com/something/new?q=1", "web", "/new?q=1"),
        ("a.com/SOMETHING/x/y", "web", "/x/y"),
        ("a.com/something", "web", "/"),
        ("b.com/something/z", "web", "/z"),
        ("x.c.com/something/z", "web", "/z"),
        ("a.com/v12/x", "other", "/"),
        ("taken.com/v12/x", "other", "/v12/x"),
    ] {
        let answer = send(&gateway, uri, &[]).await;
        assert_eq!(answer.status, 200, "{uri}");
        assert_eq!((&*field(&answer.text, "server"), &*field(&answer.text, "uri")), (server, path), "{uri}");
        if server == "web" {
            let seen = |name| echoed(&answer.text, name);
            assert_eq!(seen("host").as_deref(), Some("inner.local"));
            assert_eq!(seen("x-forwarded-prefix").as_deref(), Some("/something"));
        }
    }
    assert_eq!(send(&gateway, "a.com/other", &[]).await.status, 404);
    let root = send(&gateway, "a.com/", &[]).await;
    assert_eq!(
        (root.status.as_u16(), header(&root.headers, "location")),
        (302, Some("http://a.com/something/home"))
    );
}

const REDIRECTS: &[&str] = &[
    "permanent-redirect",
    "permanent-redirect-code",
    "temporal-redirect",
    "temporal-redirect-code",
    "ssl-redirect",
    "force-ssl-redirect",
    "from-to-www-redirect",
];

#[tokio::test]
async fn requests_are_redirected() {
    let web = Endpoint::start("web").await;
    for (annotations, uri, status, location) in [
        (
            &[("permanent-redirect", "https://new.com$request_uri")][..],
            "a.com/x?q",
            301,
            Some("https://new.com/x?q"),
        ),
        (
            &[("permanent-redirect", "https://new.com"), ("permanent-redirect-code", "308")],
            "a.com/",
            308,
            Some("https://new.com"),
        ),
        (
            &[("temporal-redirect", "https://tmp.com"), ("permanent-redirect", "https://new.com")],
            "a.com/",
            302,
            Some("https://tmp.com"),
        ),
        (
            &[("temporal-redirect", "https://tmp.com"), ("temporal-redirect-code", "307")],
            "a.com/",
            307,
            Some("https://tmp.com"),
        ),
        (&[("force-ssl-redirect", "true")], "a.com/x?q", 308, Some("https://a.com/x?q")),
        (&[("ssl-redirect", "true")], "a.com/", 200, None),
        (&[("from-to-www-redirect", "true")], "www.a.com/x", 308, Some("http://a.com/x")),
        (&[("from-to-www-redirect", "true")], "a.com/x", 200, None),
    ] {
        let gateway = simple(annotations, &[web.address]).await;
        let answer = send(&gateway, uri, &[]).await;
        let found = (answer.status.as_u16(), header(&answer.headers, "location"));
        assert_eq!(found, (status, location), "{annotations:?} {uri}");
    }
}

const CANARIES: &[&str] = &[
    "canary",
    "canary-by-header",
    "canary-by-header-value",
    "canary-by-header-pattern",
    "canary-by-cookie",
    "canary-weight",
    "canary-weight-total",
];

#[tokio::test]
async fn a_part_of_the_requests_goes_to_the_canary() {
    let (web, canary) = (Endpoint::start("web").await, Endpoint::start("canary").await);
    let start = async |annotations: &[(&str, &str)]| {
        let all = [&[("canary", "true")], annotations].concat();
        let world = World::new().service("web", &[web.address]).service("new", &[canary.address]);
        world.ingress("web", &[], &[("/", "web")]).ingress("new", &all, &[("/", "new")]).start().await
    };
    for (annotations, headers, server) in [
        (&[("canary-by-header", "X-New")][..], &[("x-new", "always")][..], "canary"),
        (&[("canary-by-header", "X-New")], &[("x-new", "never")], "web"),
        (&[("canary-by-header", "X-New")], &[], "web"),
        (&[("canary-by-header", "X-New"), ("canary-by-header-value", "yes")], &[("x-new", "yes")], "canary"),
        (&[("canary-by-header", "X-New"), ("canary-by-header-value", "yes")], &[("x-new", "always")], "web"),
        (
            &[("canary-by-header", "X-New"), ("canary-by-header-pattern", "^v[0-9]$")],
            &[("x-new", "v7")],
            "canary",
        ),
        (&[("canary-by-cookie", "new")], &[("cookie", "a=b; new=always")], "canary"),
        (&[("canary-by-cookie", "new")], &[("cookie", "new=x")], "web"),
        (&[("canary-weight", "100")], &[], "canary"),
        (&[("canary-weight", "100"), ("canary-by-cookie", "new")], &[("cookie", "new=never")], "web"),
    ] {
        let gateway = start(annotations).await;
        let answer = send(&gateway, "a.com/", headers).await;
        assert_eq!(field(&answer.text, "server"), server, "{annotations:?} {headers:?}");
    }
    let gateway = start(&[("canary-weight", "50"), ("canary-weight-total", "200")]).await;
    let before = canary.count();
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..400 {
        client.get("a.com", "/").await.unwrap();
    }
    let count = canary.count() - before;
    assert!((60..140).contains(&count), "{count} of 400");
}

const SESSIONS: &[&str] = &[
    "affinity",
    "session-cookie-name",
    "session-cookie-path",
    "session-cookie-domain",
    "session-cookie-samesite",
    "session-cookie-conditional-samesite-none",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-secure",
    "session-cookie-change-on-failure",
    "upstream-hash-by",
];

#[tokio::test]
async fn a_session_and_a_key_keep_their_endpoint() {
    let mut endpoints = Vec::new();
    for name in ["0", "1", "2", "3"] {
        endpoints.push(Endpoint::start(name).await);
    }
    let mut addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let session = [
        ("affinity", "cookie"),
        ("session-cookie-name", "route"),
        ("session-cookie-path", "/app"),
        ("session-cookie-domain", "a.com"),
        ("session-cookie-samesite", "None"),
        ("session-cookie-conditional-samesite-none", "true"),
        ("session-cookie-expires", "100"),
        ("session-cookie-max-age", "200"),
        ("session-cookie-secure", "true"),
        ("session-cookie-change-on-failure", "true"),
    ];
    let gateway = simple(&session, &addresses).await;
    let first = send(&gateway, "a.com/", &[]).await;
    let set = header(&first.headers, "set-cookie").unwrap();
    let (cookie, attributes) = set.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/app; Domain=a.com; Max-Age=200; Secure; HttpOnly; SameSite=None");
    assert!(cookie.starts_with("route="), "{cookie}");
    let server = field(&first.text, "server");
    for _ in 0..10 {
        let next = send(&gateway, "a.com/", &[("cookie", cookie)]).await;
        assert_eq!(
            (field(&next.text, "server"), header(&next.headers, "set-cookie")),
            (server.clone(), None)
        );
    }
    let old = send(&gateway, "a.com/", &[("user-agent", "Chrome/60.0")]).await;
    assert!(!header(&old.headers, "set-cookie").unwrap().contains("SameSite"));
    // The endpoint is gone: another one takes the session.
    endpoints.remove(server.parse().unwrap());
    let moved = send(&gateway, "a.com/", &[("cookie", cookie)]).await;
    assert!(
        moved.status == 200
            && header(&moved.headers, "set-cookie").is_some_and(|set| !set.starts_with(cookie))
    );
    addresses = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let gateway = simple(&[("upstream-hash-by", "$arg_user$http_x_key")], &addresses).await;
    let mut servers = BTreeSet::new();
    for key in 0..20 {
        let uri = format!("a.com/?user={key}");
        let server = field(&send(&gateway, &uri, &[("x-key", "k")]).await.text, "server");
        assert_eq!(field(&send(&gateway, &uri, &[("x-key", "k")]).await.text, "server"), server);
        servers.insert(server);
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
}

const CLIENTS: &[&str] = &[
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

const EXTERNAL: &[&str] = &[
    "auth-url",
    "auth-method",
    "auth-signin",
    "auth-signin-redirect-param",
    "auth-response-headers",
    "auth-request-redirect",
    "auth-always-set-cookie",
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
    let options = [("auth-method", "HEAD"), ("auth-request-redirect", "/from$uri")];
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

const RATES: &[&str] = &[
    "limit-rps",
    "limit-rpm",
    "limit-burst-multiplier",
    "limit-connections",
    "limit-whitelist",
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

const CORS: &[&str] = &[
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

const ATTEMPTS: &[&str] = &[
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

const ERRORS: &[&str] = &["custom-http-errors", "default-backend", "mirror-target", "mirror-request-body"];

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

const RESPONSES: &[&str] =
    &["proxy-cookie-domain", "proxy-cookie-path", "proxy-redirect-from", "proxy-redirect-to"];

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
