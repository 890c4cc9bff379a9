//! Ingresses to configurations, as objects in and routes out.

mod changes;

use http::{HeaderMap, Method};
use k8s_openapi::ByteString;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::config::Backend;
use crate::routing::RequestHead;

/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const PORTS: Ports = Ports { http: Some(80), https: Some(443) };

fn index() -> Index {
    let mut index = Index::new(PORTS);
    for (name, controller) in [("skep", CONTROLLER), ("other", "example.com/other")] {
        let class = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
        index.apply_class(&serde_json::from_value(class).unwrap());
    }
    index
}

fn ingress(name: &str, created: &str, spec: Value) -> Ingress {
    let metadata = json!({"namespace": "ns", "name": name, "creationTimestamp": created});
    let mut spec = spec;
    if spec.get("ingressClassName").is_none() {
        spec["ingressClassName"] = json!("skep");
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn backend(name: &str) -> Value {
    json!({"service": {"name": name, "port": {"number": 80}}})
}

fn path(kind: &str, path: &str, service: &str) -> Value {
    json!({"pathType": kind, "path": path, "backend": backend(service)})
}

fn service(index: &mut Index, name: &str, ips: &[&str]) {
    let spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "rpc", "port": 90, "appProtocol": "kubernetes.io/h2c"}]});
    let object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
    index.apply_service(&serde_json::from_value(object).unwrap());
    let endpoints: Vec<_> =
        ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    slice(index, name, name, json!(endpoints));
}

fn slice(index: &mut Index, name: &str, service: &str, endpoints: Value) {
    let object = json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {SERVICE_LABEL: service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "rpc", "port": 9090, "protocol": "TCP"}],
    });
    index.apply_slice(&serde_json::from_value(object).unwrap());
}

/// The backend of a request; `None`: no route.
fn found(config: &Config, host: &str, path: &str) -> Option<Arc<Backend>> {
    let head = RequestHead { method: &Method::GET, host, path, query: None, headers: &HeaderMap::new() };
    let route = config.listeners.get(&80)?.hosts.find(host).next()?.find(&head).ok()?;
    Some(config.backends[route.backends.first()?.backend?].clone())
}

fn name(config: &Config, host: &str, path: &str) -> Option<String> {
    found(config, host, path).map(|backend| backend.name.to_string())
}

fn reasons(compiled: &Compiled) -> Vec<&'static str> {
    compiled.problems.iter().map(Problem::reason).collect()
}

#[test]
fn only_ingresses_of_own_classes_are_served() {
    let mut index = index();
    service(&mut index, "web", &["192.0.2.1"]);
    let default = json!({"defaultBackend": backend("web")});
    for class in ["other", "missing"] {
        let mut spec = default.clone();
        spec["ingressClassName"] = json!(class);
        index.apply_ingress(&ingress(class, "2026-01-01T00:00:00Z", spec));
    }
    let compiled = index.compile(NOW);
    assert!(
        compiled.config.listeners.is_empty()
            && compiled.problems.is_empty()
            && index.statuses().next().is_none()
    );
    let mut by_annotation = ingress("old", "2026-01-01T00:00:00Z", default);
    by_annotation.spec.as_mut().unwrap().ingress_class_name = None;
    by_annotation.metadata.annotations =
        Some(BTreeMap::from([("kubernetes.io/ingress.class".into(), "skep".into())]));
    index.apply_ingress(&by_annotation);
    assert_eq!(name(&index.compile(NOW).config, "any", "/").as_deref(), Some("ns/web:80"));
    index.delete_class("skep");
    assert!(index.compile(NOW).config.listeners.is_empty());
}

#[test]
fn hosts_paths_and_defaults_lead_to_their_services() {
    let mut index = index();
    for name in ["a", "b", "c", "d", "e"] {
        service(&mut index, name, &["192.0.2.1"]);
    }
    let rules = json!([
        {"host": "a.com", "http": {"paths": [path("Prefix", "/", "a"), path("Exact", "/b", "b"), path("ImplementationSpecific", "/c", "c")]}},
        {"host": "*.b.com", "http": {"paths": [path("Prefix", "/x/", "b")]}},
        {"http": {"paths": [path("Prefix", "/any", "d")]}},
    ]);
    index.apply_ingress(&ingress("one", "2026-01-01T00:00:00Z", json!({"rules": rules})));
    let own = json!([{"host": "own.com", "http": {"paths": [path("Prefix", "/own", "a")]}}]);
    index.apply_ingress(&ingress(
        "two",
        "2026-01-02T00:00:00Z",
        json!({"rules": own, "defaultBackend": backend("e")}),
    ));
    let compiled = index.compile(NOW);
    for (host, path, wanted) in [
        ("a.com", "/", "a"),
        ("a.com", "/b", "b"),
        ("a.com", "/b/", "a"),
        ("a.com", "/c/d", "c"),
        ("x.b.com", "/x", "b"),
        ("x.b.com", "/y", "e"),
        ("x.y.b.com", "/x", "e"),
        ("x.b.com", "/any", "d"),
        ("own.com", "/own", "a"),
        ("own.com", "/any", "d"),
        ("own.com", "/", "e"),
        ("", "/", "e"),
    ] {
        let wanted = format!("ns/{wanted}:80");
        assert_eq!(name(&compiled.config, host, path), Some(wanted), "{host}{path}");
    }
    assert_eq!(reasons(&compiled), Vec::<&str>::new());
}

#[test]
fn the_older_of_two_equal_rules_is_in_force() {
    let mut index = index();
    let spec = |to| json!({"rules": [{"host": "a.com", "http": {"paths": [path("Prefix", "/", to)]}}]});
    service(&mut index, "new", &[]);
    service(&mut index, "old", &[]);
    index.apply_ingress(&ingress("a", "2026-01-02T00:00:00Z", spec("new")));
    index.apply_ingress(&ingress("z", "2026-01-01T00:00:00Z", spec("old")));
    let compiled = index.compile(NOW);
    assert_eq!(name(&compiled.config, "a.com", "/").as_deref(), Some("ns/old:80"));
    assert_eq!(reasons(&compiled), ["DuplicateRule"]);
    assert_eq!(
        compiled.problems[0].to_string(),
        "Ingress ns/a: the rule a.com/ has no effect; Ingress ns/z is older"
    );
    index.delete_ingress("ns/z");
    assert_eq!(name(&index.compile(NOW).config, "a.com", "/").as_deref(), Some("ns/new:80"));
}

#[test]
fn endpoints_follow_ports_and_conditions() {
    let mut index = index();
    service(&mut index, "web", &["192.0.2.1", "192.0.2.2"]);
    let by_name = json!({"service": {"name": "web", "port": {"name": "rpc"}}});
    index.apply_ingress(&ingress("one", "2026-01-01T00:00:00Z", json!({"defaultBackend": by_name})));
    let endpoints = |index: &mut Index| {
        let backend = found(&index.compile(NOW).config, "", "/").unwrap();
        assert_eq!(backend.protocol, crate::config::Protocol::H2c);
        backend.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&mut index), ["192.0.2.1:9090", "192.0.2.2:9090"]);
    let of = |ip: &str, ready: bool, serving: bool, terminating: bool| json!({"addresses": [ip], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    slice(
        &mut index,
        "web",
        "web",
        json!([
            of("192.0.2.1", false, true, true),
            of("192.0.2.2", true, true, false),
            of("192.0.2.3", false, false, false)
        ]),
    );
    assert_eq!(endpoints(&mut index), ["192.0.2.2:9090"]);
    slice(
        &mut index,
        "web",
        "web",
        json!([of("192.0.2.1", false, true, true), of("192.0.2.2", false, false, true)]),
    );
    assert_eq!(endpoints(&mut index), ["192.0.2.1:9090"]);
    // A second slice, and one that moves to another Service.
    slice(&mut index, "web-2", "web", json!([{"addresses": ["192.0.2.9"]}]));
    assert_eq!(endpoints(&mut index), ["192.0.2.9:9090"]);
    slice(&mut index, "web-2", "other", json!([{"addresses": ["192.0.2.9"]}]));
    assert_eq!(endpoints(&mut index), ["192.0.2.1:9090"]);
    index.keep_slices(&HashSet::new());
    assert_eq!(endpoints(&mut index), Vec::<String>::new());
}

#[test]
fn endpoints_of_the_zone_are_preferred_and_annotations_say_how_much_they_get() {
    let mut index = index().at("n1");
    let service = json!({
        "metadata": {"namespace": "ns", "name": "zoned", "annotations": {"skep.io/slow-start": "1m", "skep.io/max-requests": "7"}},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]},
    });
    index.apply_service(&serde_json::from_value(service).unwrap());
    let endpoint = |ip: &str, zone: &str| json!({"addresses": [ip], "hints": {"forZones": [{"name": zone}]}});
    let slice = json!({
        "metadata": {"namespace": "ns", "name": "zoned-1", "labels": {"kubernetes.io/service-name": "zoned"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "endpoints": [endpoint("10.1.0.1", "a"), endpoint("10.1.0.2", "b")],
    });
    index.apply_slice(&serde_json::from_value(slice).unwrap());
    let backend = json!({"service": {"name": "zoned", "port": {"number": 80}}});
    let ingress = json!({
        "metadata": {"namespace": "ns", "name": "zoned"},
        "spec": {"ingressClassName": "skep", "defaultBackend": backend},
    });
    index.apply_ingress(&serde_json::from_value(ingress).unwrap());
    let mut endpoints = |zone: Option<&str>| {
        let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone})).unwrap_or_default();
        let node = json!({"metadata": {"name": "n1", "labels": labels}});
        index.apply_node(&serde_json::from_value(node).unwrap());
        let config = index.compile(0).config;
        let found =
            config.backends.iter().find(|backend| backend.name.starts_with("ns/zoned")).unwrap().clone();
        let demand = (found.demand.slow_start.as_secs(), found.demand.at_once);
        assert_eq!(demand, (60, Some(7)));
        found.endpoints.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints(None), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(endpoints(Some("b")), ["10.1.0.2"]);
    assert_eq!(endpoints(Some("c")), ["10.1.0.1", "10.1.0.2"]);
}

#[test]
fn what_cannot_be_served_is_said_and_takes_no_other_rule() {
    let mut index = index();
    service(&mut index, "web", &["192.0.2.1"]);
    let external = json!({"metadata": {"namespace": "ns", "name": "external"}, "spec": {"type": "ExternalName", "externalName": "x.com"}});
    index.apply_service(&serde_json::from_value(external).unwrap());
    let resource = json!({"pathType": "Prefix", "path": "/resource", "backend": {"resource": {"kind": "Bucket", "name": "x"}}});
    let port = json!({"pathType": "Prefix", "path": "/port", "backend": {"service": {"name": "web", "port": {"number": 81}}}});
    let paths = json!([
        resource,
        port,
        path("Prefix", "/external", "external"),
        path("Prefix", "/missing", "missing"),
        path("ImplementationSpecific", "/a/..%2fb", "web"),
        path("Prefix", "/", "web"),
    ]);
    index.apply_ingress(&ingress(
        "one",
        "2026-01-01T00:00:00Z",
        json!({"rules": [{"http": {"paths": paths}}]}),
    ));
    let compiled = index.compile(NOW);
    assert_eq!(
        reasons(&compiled),
        ["ResourceBackend", "ServiceNotFound", "ServicePortNotFound", "ExternalNameService", "InvalidPath"]
    );
    assert_eq!(name(&compiled.config, "", "/resource"), None);
    for path in ["/port", "/external", "/missing"] {
        assert_eq!(found(&compiled.config, "", path).unwrap().endpoints, []);
    }
    assert_eq!(name(&compiled.config, "", "/x").as_deref(), Some("ns/web:80"));
}

/// `not_after`: in seconds since 1970.
fn secret(host: &str, not_after: i64) -> Secret {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let day = jiff::Timestamp::from_second(not_after).unwrap().to_zoned(jiff::tz::TimeZone::UTC).date();
    params.not_after =
        rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs());
    let chain = params.self_signed(&key).unwrap().pem();
    let data = [("tls.crt", chain), ("tls.key", key.serialize_pem())];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret { data: Some(data.into()), ..Secret::default() }
}

#[test]
fn a_certificate_that_does_not_parse_leaves_the_last_one_in_force() {
    let mut index = index();
    service(&mut index, "web", &["192.0.2.1"]);
    let tls = json!([{"hosts": ["a.com", "*.b.com"], "secretName": "cert"}, {"hosts": ["c.com"]}]);
    index.apply_ingress(&ingress(
        "one",
        "2026-01-01T00:00:00Z",
        json!({"defaultBackend": backend("web"), "tls": tls}),
    ));
    let wanted = index.secrets();
    assert_eq!(wanted.iter().map(|key| &**key).collect::<Vec<_>>(), ["ns/cert"]);
    let certificate = |index: &mut Index, host: &str| {
        let compiled = index.compile(NOW);
        let table = compiled.config.listeners[&443].tls.clone().unwrap();
        let found = table.find(host).map(|server| Arc::as_ptr(&server.certificates[0]) as usize);
        (found, reasons(&compiled))
    };
    assert_eq!(certificate(&mut index, "a.com"), (None, vec![]));
    let key: Arc<str> = "ns/cert".into();
    index.apply_secret(&key, None, NOW);
    assert_eq!(certificate(&mut index, "a.com"), (None, vec!["SecretNotFound"]));
    index.apply_secret(&key, Some(&secret("a.com", NOW + 10 * DAY)), NOW);
    let (first, problems) = certificate(&mut index, "a.com");
    assert!(first.is_some() && problems.is_empty());
    assert_eq!(certificate(&mut index, "x.b.com").0, first);
    assert_eq!(certificate(&mut index, "c.com").0, None);
    for _ in 0..2 {
        index.apply_secret(&key, Some(&Secret::default()), NOW);
        assert_eq!(certificate(&mut index, "a.com"), (first, vec!["InvalidCertificate"]));
    }
    // So does one that has expired.
    index.apply_secret(&key, Some(&secret("a.com", NOW - 2 * DAY)), NOW);
    assert_eq!(certificate(&mut index, "a.com"), (first, vec!["InvalidCertificate"]));
    index.apply_secret(&key, Some(&secret("a.com", NOW + 10 * DAY)), NOW);
    assert_ne!(certificate(&mut index, "a.com").0, first);
    index.delete_ingress("ns/one");
    assert!(index.secrets().is_empty() && index.secrets.is_empty());
}

/// The certificate stays, as clients may accept it; the problem appears when it expires, and goes with the next certificate.
#[test]
fn a_certificate_that_expires_is_said() {
    let mut index = index();
    service(&mut index, "web", &["192.0.2.1"]);
    let tls = json!([{"hosts": ["a.com"], "secretName": "cert"}]);
    let spec = json!({"defaultBackend": backend("web"), "tls": tls});
    index.apply_ingress(&ingress("one", "2026-01-01T00:00:00Z", spec));
    let key: Arc<str> = "ns/cert".into();
    index.apply_secret(&key, Some(&secret("a.com", NOW + 2 * DAY)), NOW);
    let compiled = index.compile(NOW);
    let at = compiled.next_expiry.unwrap();
    assert!(compiled.problems.is_empty() && (NOW..=NOW + 2 * DAY).contains(&at));
    assert!(index.compile(at - 1).problems.is_empty());
    let expired = index.compile(at);
    assert_eq!((reasons(&expired), expired.next_expiry), (vec!["CertificateExpired"], None));
    assert!(expired.config.listeners[&443].tls.as_ref().unwrap().find("a.com").is_some());
    index.apply_secret(&key, Some(&secret("a.com", NOW + 90 * DAY)), at);
    assert!(index.compile(at).problems.is_empty());
}

#[test]
fn a_status_changes_no_route() {
    let mut index = index();
    let mut object = ingress("one", "2026-01-01T00:00:00Z", json!({"defaultBackend": backend("web")}));
    index.apply_ingress(&object);
    let routes = |index: &mut Index| Arc::as_ptr(&index.compile(NOW).config.listeners[&80].hosts) as usize;
    let first = routes(&mut index);
    object.status = serde_json::from_value(
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "x"}]}}),
    )
    .unwrap();
    index.apply_ingress(&object);
    assert_eq!(routes(&mut index), first);
    let statuses: Vec<_> = index.statuses().map(|(key, all)| (key.to_string(), all.len())).collect();
    assert_eq!(statuses, [("ns/one".to_owned(), 1)]);
}
