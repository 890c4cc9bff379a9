//! Which requests a rule has, and where they go.

use std::collections::BTreeSet;

use super::{World, header, send, simple};
use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::Http1;

pub(super) const PATHS: &[&str] = &[
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

pub(super) const REDIRECTS: &[&str] = &[
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

pub(super) const CANARIES: &[&str] = &[
    "canary",
    "canary-by-header",
    "canary-by-header-value",
    "canary-by-header-pattern",
    "canary-by-cookie",
    "canary-weight",
    "canary-weight-total",
    "affinity-canary-behavior",
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

#[tokio::test]
async fn a_session_goes_on_where_it_began() {
    let (web, new) = (Endpoint::start("web").await, Endpoint::start("new").await);
    let start = async |weight: &str, behavior: &str| {
        let canary = [("canary", "true"), ("canary-weight", weight)];
        let main = [("affinity", "cookie"), ("affinity-canary-behavior", behavior)];
        let world = World::new().service("web", &[web.address]).service("new", &[new.address]);
        world.ingress("web", &main, &[("/", "web")]).ingress("new", &canary, &[("/", "new")]).start().await
    };
    let begin = async |weight: &str| {
        let first = send(&start(weight, "sticky").await, "a.com/", &[]).await;
        let set = header(&first.headers, "set-cookie").unwrap();
        (set.split_once(';').unwrap().0.to_owned(), field(&first.text, "server"))
    };
    let (at_web, at_new) = (begin("0").await, begin("100").await);
    assert_eq!((&*at_web.1, &*at_new.1), ("web", "new"));
    for (weight, behavior, cookie, server) in [
        ("100", "sticky", &at_web.0, "web"),
        ("0", "sticky", &at_new.0, "new"),
        ("100", "legacy", &at_web.0, "new"),
        ("0", "legacy", &at_new.0, "web"),
    ] {
        let gateway = start(weight, behavior).await;
        let answer = send(&gateway, "a.com/", &[("cookie", cookie)]).await;
        assert_eq!(field(&answer.text, "server"), server, "{weight} {behavior} {cookie}");
    }
}

pub(super) const SESSIONS: &[&str] = &[
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
    "upstream-hash-by-subset",
    "upstream-hash-by-subset-size",
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

#[tokio::test]
async fn a_key_keeps_its_few_endpoints() {
    let mut endpoints = Vec::new();
    for name in ["0", "1", "2", "3"] {
        endpoints.push(Endpoint::start(name).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let subset = [
        ("upstream-hash-by", "$arg_user"),
        ("upstream-hash-by-subset", "true"),
        ("upstream-hash-by-subset-size", "2"),
    ];
    let gateway = simple(&subset, &addresses).await;
    let mut of_one_key = BTreeSet::new();
    for _ in 0..60 {
        of_one_key.insert(field(&send(&gateway, "a.com/?user=1", &[]).await.text, "server"));
    }
    assert_eq!(of_one_key.len(), 2, "{of_one_key:?}");
}
