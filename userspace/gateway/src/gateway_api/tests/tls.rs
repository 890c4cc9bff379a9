//! Clients that are asked for certificates, what endpoints are presented, and BackendTLSPolicies.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use super::super::kinds::{BackendTlsPolicy, Gateway, TcpRoute, TlsRoute};
use super::{gateway, http_route, index, object, said};
use crate::backend_tls::BackendTls;
use crate::client_check::ClientCheck;
use crate::config::{Backend, Config, TlsAction};
use crate::ingress::Index;

pub(super) fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// A ConfigMap with certificates of authorities.
pub(super) fn trusts(index: &mut Index, key: &str, pem: &str) {
    let data = [("ca.crt".to_owned(), pem.to_owned())].into();
    let config_map = ConfigMap { data: Some(data), ..ConfigMap::default() };
    index.apply_config_map(&key.into(), Some(&config_map));
}

/// A Secret with a certificate for `a.com`.
fn certifies(index: &mut Index, key: &str) {
    let pair = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let data = [("tls.crt", chain.pem()), ("tls.key", pair.serialize_pem())];
    let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes())));
    index.apply_secret(&key.into(), Some(&Secret { data: Some(data.into()), ..Secret::default() }), 0);
}

fn validation(name: &str, mode: &str) -> Value {
    let reference = json!({"group": "", "kind": "ConfigMap", "name": name});
    json!({"validation": {"caCertificateRefs": [reference], "mode": mode}})
}

/// A Gateway with listeners of HTTPS and of HTTP.
fn gateway_with(index: &mut Index, tls: &Value) {
    let certificates = json!({"certificateRefs": [{"name": "cert"}]});
    let listeners = json!([
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": certificates},
        {"name": "http", "port": 80, "protocol": "HTTP"},
    ]);
    let spec = json!({"gatewayClassName": "skep", "listeners": listeners, "tls": tls});
    index.gateway_api().apply_gateway(&object::<Gateway>("a/main", spec));
}

/// How clients of the listener of HTTPS are checked; `None`: it is closed.
fn clients(index: &mut Index) -> Option<Option<Arc<ClientCheck>>> {
    let config = index.compile(0).config;
    let server = config.listeners.get(&443)?.tls.as_ref()?.find("a.com")?.clone();
    Some(server.clients.clone())
}

#[test]
fn a_listener_lets_in_clients_of_its_authorities_and_none_if_there_is_no_authority() {
    let valid = || validation("ca", "AllowValidOnly");
    let of_kind = |kind: &str, namespace: &str| json!({"validation": {"caCertificateRefs": [{"group": "", "kind": kind, "name": "ca", "namespace": namespace}]}});
    let mixed = json!({"validation": {"caCertificateRefs": [
        {"group": "", "kind": "ConfigMap", "name": "none"}, {"group": "", "kind": "ConfigMap", "name": "ca"},
    ]}});
    let (refused, open) = ("False/NoValidCACertificate", "True/Accepted");
    // What is said of all ports and of 443, the conditions Accepted and ResolvedRefs, and whether clients are asked, if any get in.
    let rows = [
        (valid(), None, open, "True/ResolvedRefs", Some(true)),
        (json!({}), Some(valid()), open, "True/ResolvedRefs", Some(true)),
        (valid(), Some(json!({})), open, "True/ResolvedRefs", Some(false)),
        (validation("none", ""), None, refused, "False/InvalidCACertificateRef", None),
        (validation("empty", ""), None, refused, "False/InvalidCACertificateRef", None),
        (of_kind("Service", "a"), None, refused, "False/InvalidCACertificateKind", None),
        (of_kind("ConfigMap", "b"), None, refused, "False/RefNotPermitted", None),
        (mixed, None, open, "False/InvalidCACertificateRef", Some(true)),
    ];
    for (of_all, of_port, accepted, resolved, asked) in rows {
        let mut index = index();
        let per_port: Vec<Value> = of_port.iter().map(|tls| json!({"port": 443, "tls": tls})).collect();
        let frontend = json!({"default": of_all, "perPort": per_port});
        gateway_with(&mut index, &json!({"frontend": frontend}));
        certifies(&mut index, "a/cert");
        trusts(&mut index, "a/ca", &authority());
        trusts(&mut index, "b/ca", &authority());
        trusts(&mut index, "a/empty", "");
        index.apply_config_map(&"a/none".into(), None);
        assert_eq!(clients(&mut index).map(|check| check.is_some()), asked, "{frontend}");
        let condition =
            |at: usize, kind| said(&index, "Gateway", &format!("/listeners/{at}/conditions"), kind);
        assert_eq!(condition(0, "Accepted"), accepted, "{frontend}");
        assert_eq!(condition(0, "ResolvedRefs"), resolved, "{frontend}");
        let programmed = if accepted == open && resolved.starts_with("True") { "True" } else { "False" };
        assert!(condition(0, "Programmed").starts_with(programmed), "{frontend}");
        assert_eq!(condition(1, "Accepted"), open, "{frontend}");
        assert_eq!(condition(1, "Programmed"), "True/Programmed", "{frontend}");
    }
}

#[test]
fn a_check_of_clients_stays_the_same_while_its_authorities_do() {
    let (mut index, first) = (index(), authority());
    gateway_with(&mut index, &json!({"frontend": {"default": validation("ca", "AllowValidOnly")}}));
    certifies(&mut index, "a/cert");
    let mut with = |pem: &str| {
        trusts(&mut index, "a/ca", pem);
        clients(&mut index).flatten()
    };
    let same = |a: &Option<Arc<ClientCheck>>, b: &Option<Arc<ClientCheck>>| {
        Arc::ptr_eq(a.as_ref().unwrap(), b.as_ref().unwrap())
    };
    let made = with(&first);
    assert!(same(&made, &with(&first)));
    assert!(!same(&made, &with(&authority())));
    assert!(with("").is_none());
    assert_eq!(index.config_maps(), ["a/ca".into()].into());
}

#[test]
fn a_gateway_says_that_it_lets_in_clients_without_a_certificate_that_verifies() {
    let mut index = index();
    certifies(&mut index, "a/cert");
    trusts(&mut index, "a/ca", &authority());
    for (mode, condition) in
        [("AllowValidOnly", "-/-"), ("AllowInsecureFallback", "True/ConfigurationChanged"), ("", "-/-")]
    {
        gateway_with(&mut index, &json!({"frontend": {"default": validation("ca", mode)}}));
        assert!(clients(&mut index).flatten().is_some());
        assert_eq!(said(&index, "Gateway", "/conditions", "InsecureFrontendValidationMode"), condition);
    }
}

#[test]
fn a_gateway_presents_the_certificate_that_it_names() {
    for (reference, verdict) in [
        (json!({"name": "identity"}), "True/ResolvedRefs"),
        (json!({"name": "none"}), "False/InvalidClientCertificateRef"),
        (json!({"name": "malformed"}), "False/InvalidClientCertificateRef"),
        (json!({"kind": "ConfigMap", "name": "identity"}), "False/InvalidClientCertificateRef"),
        (json!({"group": "x.io", "name": "identity"}), "False/InvalidClientCertificateRef"),
        (json!({"namespace": "b", "name": "identity"}), "False/RefNotPermitted"),
    ] {
        let mut index = index();
        gateway_with(&mut index, &json!({"backend": {"clientCertificateRef": reference}}));
        ["a/cert", "a/identity", "b/identity"].iter().for_each(|key| certifies(&mut index, key));
        index.apply_secret(&"a/none".into(), None, 0);
        index.apply_secret(&"a/malformed".into(), Some(&Secret::default()), 0);
        let config = index.compile(0).config;
        let is_presented = config.listeners.values().map(|listener| listener.identity.is_some());
        assert!(is_presented.clone().count() == 2, "{reference}");
        assert!(is_presented.clone().all(|is| is == verdict.starts_with("True")), "{reference}");
        assert_eq!(said(&index, "Gateway", "/conditions", "ResolvedRefs"), verdict, "{reference}");
        assert_eq!(said(&index, "Gateway", "/conditions", "Accepted"), "True/Accepted", "{reference}");
    }
}

/// An index with a Gateway, and a route to `a/web`.
fn routed() -> Index {
    let mut index = index();
    gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    http_route(&mut index, "a/web", json!({"parentRefs": [{"name": "main"}], "rules": rules}));
    trusts(&mut index, "a/ca", &authority());
    index
}

fn policy(index: &mut Index, key: &str, section: Option<&str>, validation: Value) {
    let target = json!({"group": "", "kind": "Service", "name": "web", "sectionName": section});
    let spec = json!({"targetRefs": [target], "validation": validation});
    index.gateway_api().apply_policy(&object::<BackendTlsPolicy>(key, spec));
}

pub(super) fn of_ca(name: &str, hostname: &str) -> Value {
    json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}], "hostname": hostname})
}

fn backend<'c>(config: &'c Config, name: &str) -> &'c Backend {
    config.backends.iter().find(|backend| &*backend.name == name).unwrap()
}

/// The first one's TLS, and its endpoints.
fn web(index: &mut Index) -> (Option<Arc<BackendTls>>, Vec<SocketAddr>) {
    let config = index.compile(0).config;
    let backend = backend(&config, "a/web:80");
    (backend.tls.clone(), backend.endpoints.clone())
}

fn conditions(index: &Index) -> (String, String) {
    let one = |kind| said(index, "BackendTLSPolicy", "/ancestors/0/conditions", kind);
    (one("Accepted"), one("ResolvedRefs"))
}

#[test]
fn endpoints_of_a_policy_get_requests_over_tls_or_not_at_all() {
    let (accepted, resolved) = ("True/Accepted", "True/ResolvedRefs");
    let with_names = |names: Value| {
        let mut validation = of_ca("ca", "a.com");
        validation["subjectAltNames"] = names;
        validation
    };
    let of_kind =
        json!({"caCertificateRefs": [{"group": "", "kind": "Service", "name": "ca"}], "hostname": "a.com"});
    let system = |set: &str| json!({"wellKnownCACertificates": set, "hostname": "a.com"});
    for (validation, verdicts) in [
        (of_ca("ca", "a.com"), (accepted, resolved)),
        (system("System"), (accepted, resolved)),
        (with_names(json!([{"type": "URI", "uri": "spiffe://a/b"}])), (accepted, resolved)),
        (with_names(json!([{"type": "Hostname", "hostname": "b.com"}])), (accepted, resolved)),
        (of_ca("none", "a.com"), ("False/NoValidCACertificate", "False/InvalidCACertificateRef")),
        (of_ca("empty", "a.com"), ("False/NoValidCACertificate", "False/InvalidCACertificateRef")),
        (of_kind, ("False/NoValidCACertificate", "False/InvalidKind")),
        (system("example.com/other"), ("False/Invalid", resolved)),
    ] {
        let mut index = routed();
        index.apply_config_map(&"a/none".into(), None);
        trusts(&mut index, "a/empty", "");
        assert_eq!(web(&mut index).0, None);
        policy(&mut index, "a/policy", None, validation.clone());
        let (tls, endpoints) = web(&mut index);
        let is_valid = verdicts.0 == accepted;
        assert_eq!((tls.is_some(), endpoints.len()), (is_valid, usize::from(is_valid)), "{validation}");
        let found = conditions(&index);
        assert_eq!((found.0.as_str(), found.1.as_str()), verdicts, "{validation}");
        index.gateway_api().delete_policy("a/policy");
        assert_eq!(web(&mut index).0, None);
    }
}

#[test]
fn authorities_of_a_policy_may_change_and_no_route_is_compiled_again() {
    let (mut index, first) = (routed(), authority());
    policy(&mut index, "a/policy", None, of_ca("ca", "a.com"));
    let mut with = |pem: &str| {
        trusts(&mut index, "a/ca", pem);
        let hosts = index.compile(0).config.listeners[&80].hosts.find("a.com").next().unwrap().clone();
        (web(&mut index), hosts)
    };
    let ((made, _), routes) = with(&first);
    let made = made.unwrap();
    assert!(Arc::ptr_eq(&made, &with(&first).0.0.unwrap()));
    let ((other, _), of_other) = with(&authority());
    assert!(*made != *other.unwrap() && Arc::ptr_eq(&routes, &of_other));
    let ((none, endpoints), _) = with("");
    assert!(none.is_none() && endpoints.is_empty());
    assert!(*made == *with(&first).0.0.unwrap());
}

#[test]
fn the_older_of_two_policies_for_a_target_is_in_force_and_that_of_a_port_before_that_of_all() {
    let mut index = routed();
    policy(&mut index, "a/b", None, of_ca("ca", "b.com"));
    let of_all = web(&mut index).0.unwrap();
    policy(&mut index, "a/c", None, of_ca("ca", "c.com"));
    assert_eq!(web(&mut index).0.unwrap(), of_all);
    let verdict = |index: &Index, policy: &str| {
        let updates = index.status_updates(super::NOW);
        let update = updates.iter().find(|update| &*update.key == policy).unwrap();
        update.status["ancestors"][0]["conditions"][0]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!((verdict(&index, "a/b"), verdict(&index, "a/c")), ("Accepted".into(), "Conflicted".into()));
    policy(&mut index, "a/d", Some("http"), of_ca("ca", "d.com"));
    let of_port = web(&mut index).0.unwrap();
    assert_ne!(of_port, of_all);
    assert_eq!((verdict(&index, "a/b"), verdict(&index, "a/d")), ("Accepted".into(), "Accepted".into()));
    // The API does not let requests go in the clear because the policy of the port is not valid.
    policy(&mut index, "a/d", Some("http"), of_ca("none", "d.com"));
    assert_eq!(web(&mut index), (None, Vec::new()));
    policy(&mut index, "a/d", Some("dns"), of_ca("ca", "d.com"));
    assert_eq!(web(&mut index).0.unwrap(), of_all);
    index.gateway_api().delete_policy("a/b");
    assert_ne!(web(&mut index).0.unwrap(), of_all);
    assert_eq!(verdict(&index, "a/c"), "Accepted");
}

#[test]
fn only_what_is_said_inside_tls_that_ends_here_is_said_over_tls_of_a_policy() {
    let mut index = index();
    let tls = |mode: &str| json!({"mode": mode, "certificateRefs": [{"name": "cert"}]});
    let listeners = json!([
        {"name": "ends", "port": 443, "protocol": "TLS", "hostname": "a.com", "tls": tls("Terminate")},
        {"name": "passes", "port": 443, "protocol": "TLS", "hostname": "b.com", "tls": tls("Passthrough")},
        {"name": "tcp", "port": 90, "protocol": "TCP"},
    ]);
    gateway(&mut index, "a/main", listeners);
    certifies(&mut index, "a/cert");
    trusts(&mut index, "a/ca", &authority());
    policy(&mut index, "a/policy", None, of_ca("ca", "a.com"));
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    let spec = json!({"parentRefs": [{"name": "main"}], "hostnames": ["a.com", "b.com"], "rules": rules});
    index.gateway_api().apply_tls_route(&object::<TlsRoute>("a/tls", spec));
    let spec = json!({"parentRefs": [{"name": "main", "sectionName": "tcp"}], "rules": rules});
    index.gateway_api().apply_tcp_route(&object::<TcpRoute>("a/tcp", spec));
    let config = index.compile(0).config;
    let over_tls = |backend: Option<usize>| config.backends[backend.unwrap()].tls.is_some();
    for (host, wanted) in [("a.com", true), ("b.com", false)] {
        let server = config.listeners[&443].tls.as_ref().unwrap().find(host).unwrap();
        let (TlsAction::Terminate(stream) | TlsAction::Passthrough(stream)) = &server.action else {
            panic!("{host} is of HTTP")
        };
        assert_eq!(over_tls(stream.parts[0].backend), wanted, "{host}");
    }
    let stream = config.listeners[&90].stream.as_ref().unwrap();
    assert!(!over_tls(stream.parts[0].backend));
}
