//! Any changes, one after the other, make the same configuration and statuses as an index that begins with the last state.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Secret;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};

use super::super::kinds::{BackendTlsPolicy, GrpcRoute};
use super::super::statuses::StatusUpdate;
use super::*;

const HOSTS: [&str; 4] = ["a.com", "b.com", "*.com", "x.org"];
const PATHS: [&str; 3] = ["/", "/x", "/x/y"];

#[derive(Clone, Debug)]
enum Change {
    Http(HttpRoute),
    Grpc(GrpcRoute),
    Delete(&'static str, String),
    /// With the host of its second listener.
    Gateway(&'static str),
    Grant(bool),
    Service(bool),
    /// That of a listener: none, or one that is not a certificate.
    Secret(bool),
    Policy(BackendTlsPolicy),
    DeletePolicy(String),
    /// With the authorities of policies.
    ConfigMap(bool),
}

static AUTHORITY: LazyLock<String> = LazyLock::new(tls::authority);

/// Of a route: its name and age, hosts, parent's listener, and the namespace of its backend.
fn a_route() -> impl Strategy<Value = (String, u8, Vec<&'static str>, Option<&'static str>, &'static str)> {
    let hosts = prop::collection::vec(prop::sample::select(&HOSTS), 0..3);
    let section = prop::sample::select(vec![None, Some("one"), Some("two"), Some("none")]);
    (0..4u8, 0..3u8, hosts, section, prop::sample::select(vec!["a", "b"]))
        .prop_map(|(name, age, hosts, section, backend)| (format!("a/r{name}"), age, hosts, section, backend))
}

fn aged<K: DeserializeOwned>(key: &str, age: u8, spec: Value) -> K {
    let (namespace, name) = key.split_once('/').unwrap();
    let meta = json!({
        "namespace": namespace, "name": name, "uid": format!("{key} {age}"), "resourceVersion": "7",
        "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1),
    });
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn change() -> impl Strategy<Value = Change> {
    let path = prop::sample::select(&PATHS);
    let http =
        (a_route(), path, any::<bool>()).prop_map(|((key, age, hosts, section, backend), path, is_valid)| {
            let kind = if is_valid { "PathPrefix" } else { "RegularExpression" };
            let rules = json!([{
                "matches": [{"path": {"type": kind, "value": path}}],
                "backendRefs": [{"name": "web", "namespace": backend, "port": 80}],
            }]);
            let parents = json!([{"name": "main", "sectionName": section}]);
            Change::Http(aged(&key, age, json!({"parentRefs": parents, "hostnames": hosts, "rules": rules})))
        });
    let grpc = a_route().prop_map(|(key, age, hosts, section, backend)| {
        let rules = json!([{"backendRefs": [{"name": "web", "namespace": backend, "port": 80}]}]);
        let parents = json!([{"name": "main", "sectionName": section}]);
        Change::Grpc(aged(&key, age, json!({"parentRefs": parents, "hostnames": hosts, "rules": rules})))
    });
    let kind = prop::sample::select(vec!["HTTPRoute", "GRPCRoute"]);
    prop_oneof![
        6 => http,
        2 => grpc,
        2 => (kind, 0..4u8).prop_map(|(kind, name)| Change::Delete(kind, format!("a/r{name}"))),
        1 => prop::sample::select(vec!["*.com", "a.com", ""]).prop_map(Change::Gateway),
        1 => any::<bool>().prop_map(Change::Grant),
        1 => any::<bool>().prop_map(Change::Service),
        1 => any::<bool>().prop_map(Change::Secret),
        2 => a_policy(),
        1 => (0..3u8).prop_map(|name| Change::DeletePolicy(format!("a/p{name}"))),
        1 => any::<bool>().prop_map(Change::ConfigMap),
    ]
}

fn a_policy() -> impl Strategy<Value = Change> {
    let section = prop::sample::select(vec![None, Some("http"), Some("none")]);
    (0..3u8, 0..3u8, section).prop_map(|(name, age, section)| {
        let target = json!({"group": "", "kind": "Service", "name": "web", "sectionName": section});
        let validation = tls::of_ca("ca", &format!("p{name}.com"));
        let spec = json!({"targetRefs": [target], "validation": validation});
        Change::Policy(aged(&format!("a/p{name}"), age, spec))
    })
}

fn apply(index: &mut Index, change: &Change) {
    match change {
        Change::Http(route) => index.gateway_api().apply_http_route(route),
        Change::Grpc(route) => index.gateway_api().apply_grpc_route(route),
        Change::Delete("HTTPRoute", key) => index.gateway_api().delete_http_route(key),
        Change::Delete(_, key) => index.gateway_api().delete_grpc_route(key),
        Change::Gateway(host) => {
            let one = json!({"name": "one", "port": 80, "protocol": "HTTP"});
            let two = json!({"name": "two", "port": 81, "protocol": "HTTP", "hostname": host});
            let tls = json!({"certificateRefs": [{"name": "cert"}]});
            let three = json!({"name": "three", "port": 443, "protocol": "HTTPS", "tls": tls});
            gateway(index, "a/main", json!([one, two, three]));
        }
        Change::Grant(true) => {
            let from = |kind| json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "a"});
            let grant = json!({
                "from": [from("HTTPRoute"), from("GRPCRoute")], "to": [{"group": "", "kind": "Service"}],
            });
            index.gateway_api().apply_grant(&object::<ReferenceGrant>("b/grant", grant));
        }
        Change::Grant(false) => index.gateway_api().delete_grant("b/grant"),
        Change::Service(true) => {
            let ports = json!([{"name": "http", "port": 80}]);
            let object = json!({"metadata": {"namespace": "a", "name": "web"}, "spec": {"ports": ports}});
            index.apply_service(&serde_json::from_value(object).unwrap());
        }
        Change::Service(false) => index.delete_service("a/web"),
        Change::Secret(exists) => {
            index.apply_secret(&"a/cert".into(), exists.then(Secret::default).as_ref(), 0)
        }
        Change::Policy(policy) => index.gateway_api().apply_policy(policy),
        Change::DeletePolicy(key) => index.gateway_api().delete_policy(key),
        Change::ConfigMap(true) => tls::trusts(index, "a/ca", &AUTHORITY),
        Change::ConfigMap(false) => index.apply_config_map(&"a/ca".into(), None),
    }
}

/// What a configuration does, without indexes.
fn described(index: &mut Index) -> (Vec<String>, Vec<StatusUpdate>) {
    let config = index.compile(0).config;
    let mut out: Vec<String> = config.counters.iter().map(|counters| counters.name.to_string()).collect();
    out.sort();
    out.push(format!("{:?}", config.listeners.keys().collect::<Vec<_>>()));
    for (port, host) in
        [80, 81].into_iter().flat_map(|port| ["a.com", "b.com", "c.com", "x.org"].map(|host| (port, host)))
    {
        for path in PATHS {
            let route = found(&config, port, host, path);
            let backend = |at: usize| format!("{:?}", config.backends[at]);
            let text = route.map(|route| {
                let backends: Vec<_> =
                    route.backends.iter().map(|found| found.backend.map(backend)).collect();
                format!("{} {backends:?}", route.counters.name)
            });
            out.push(format!("{port} {host}{path}: {text:?}"));
        }
    }
    let mut updates = index.status_updates(NOW);
    updates.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
    (out, updates)
}

/// An index that is given each object once, as it is now.
fn of_now(changes: &[Change]) -> Index {
    let mut last: BTreeMap<String, &Change> = BTreeMap::new();
    for change in changes {
        let of_route =
            |kind: &str, name: &Option<String>| format!("{kind} a/{}", name.as_deref().unwrap_or_default());
        let key = match change {
            Change::Http(route) => of_route("HTTPRoute", &route.metadata.name),
            Change::Grpc(route) => of_route("GRPCRoute", &route.metadata.name),
            Change::Delete(kind, key) => format!("{kind} {key}"),
            Change::Gateway(_) => "gateway".to_owned(),
            Change::Grant(_) => "grant".to_owned(),
            Change::Service(_) => "service".to_owned(),
            Change::Secret(_) => "secret".to_owned(),
            Change::Policy(policy) => of_route("policy", &policy.metadata.name),
            Change::DeletePolicy(key) => format!("policy {key}"),
            Change::ConfigMap(_) => "config map".to_owned(),
        };
        last.insert(key, change);
    }
    let mut index = index();
    last.values().for_each(|change| apply(&mut index, change));
    index
}

/// A status that was written in the meantime is the one that the next one differs from.
#[test]
fn a_status_is_made_from_the_object_as_it_is_now() {
    let mut index = index();
    let key = "a/main";
    let spec = json!({
        "gatewayClassName": "skep", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
    });
    let mut object: Gateway = object(key, spec);
    index.gateway_api().apply_gateway(&object);
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    for (round, is_attached) in [false, true, false, true].into_iter().enumerate() {
        let version = format!("{}", round + 7);
        object.metadata.resource_version = Some(version.clone());
        index.gateway_api().apply_gateway(&object);
        match is_attached {
            true => {
                http_route(&mut index, "a/one", json!({"parentRefs": [{"name": "main"}], "rules": rules}))
            }
            false => index.gateway_api().delete_http_route("a/one"),
        }
        index.compile(0);
        let updates = index.status_updates(NOW);
        let update = updates.into_iter().find(|update| update.kind == "Gateway").unwrap();
        assert_eq!(update.status["listeners"][0]["attachedRoutes"], u8::from(is_attached));
        assert_eq!(update.resource_version, version);
        object.status = update.status;
    }
}

#[test]
fn a_service_or_a_secret_that_nothing_names_makes_nothing_again() {
    let named = |index: &mut Index, name: &str| {
        let ports = json!([{"name": "http", "port": 80}]);
        let object = json!({"metadata": {"namespace": "a", "name": name}, "spec": {"ports": ports}});
        index.apply_service(&serde_json::from_value(object).unwrap());
    };
    let mut index = index();
    let tls = json!({"certificateRefs": [{"name": "cert"}]});
    let https = json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls});
    let http = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let tcp = json!({"name": "tcp", "port": 9000, "protocol": "TCP"});
    gateway(&mut index, "a/main", json!([http, https, tcp]));
    let spec = |service: &str| json!({"parentRefs": [{"name": "main"}], "rules": [{"backendRefs": [{"name": service, "port": 80}]}]});
    http_route(&mut index, "a/one", spec("late"));
    index.gateway_api().apply_tcp_route(&object::<TcpRoute>("a/tcp", spec("db")));
    let hosts = |index: &mut Index| index.compile(0).config.listeners[&80].hosts.clone();
    let resolved = |index: &Index, kind| said(index, kind, "/parents/0/conditions", "ResolvedRefs");
    let mut last = hosts(&mut index);
    let mut is_made_again = |index: &mut Index| {
        let before = std::mem::replace(&mut last, hosts(index));
        !Arc::ptr_eq(&before, &last)
    };
    named(&mut index, "other");
    assert!(!is_made_again(&mut index));
    index.delete_service("a/other");
    assert!(!is_made_again(&mut index));
    index.apply_secret(&"a/other".into(), None, 0);
    assert!(!is_made_again(&mut index));
    for (service, kind) in [("late", "HTTPRoute"), ("db", "TCPRoute")] {
        assert_eq!(resolved(&index, kind), "False/BackendNotFound");
        named(&mut index, service);
        assert!(is_made_again(&mut index));
        assert_eq!(resolved(&index, kind), "True/ResolvedRefs");
        index.delete_service(&format!("a/{service}"));
        assert!(is_made_again(&mut index));
        assert_eq!(resolved(&index, kind), "False/BackendNotFound");
    }
}

#[test]
fn a_certificate_that_changes_compiles_no_route_again() {
    let mut index = index();
    let tls = json!({"certificateRefs": [{"name": "cert"}]});
    gateway(&mut index, "a/main", json!([{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]));
    let spec =
        json!({"parentRefs": [{"name": "main"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    http_route(&mut index, "a/one", spec);
    let served = |index: &mut Index| {
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&key).unwrap();
        let bytes = |pem: String| k8s_openapi::ByteString(pem.into_bytes());
        let data = [("tls.crt", chain.pem()), ("tls.key", key.serialize_pem())];
        let data = data.map(|(name, pem)| (name.to_owned(), bytes(pem)));
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        index.apply_secret(&"a/cert".into(), Some(&secret), 0);
        let config = index.compile(0).config;
        let listener = &config.listeners[&443];
        let server = listener.tls.as_ref().unwrap().find("a.com").unwrap().clone();
        let routes = listener.hosts.find("a.com").next().unwrap().clone();
        (server.certificates[0].clone(), routes)
    };
    let (first, second) = (served(&mut index), served(&mut index));
    assert!(!Arc::ptr_eq(&first.0, &second.0) && Arc::ptr_eq(&first.1, &second.1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_changes_end_like_a_new_index(changes in prop::collection::vec(change(), 1..12)) {
        let changes = [vec![Change::Gateway("*.com")], changes].concat();
        let mut index = index();
        for at in 0..changes.len() {
            apply(&mut index, &changes[at]);
            prop_assert_eq!(described(&mut index), described(&mut of_now(&changes[..=at])));
        }
    }
}
