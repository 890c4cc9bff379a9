//! From objects to routes and statuses.

mod changes;
mod tls;

use std::time::Duration;

use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::kinds::{
    Gateway, GatewayClass, HttpRoute, ListenerSet, LoadBalancerPool, ReferenceGrant, TcpRoute, UdpRoute,
};
use crate::config::{Config, Route};
use crate::ingress::{Index, Ports};
use crate::routing::RequestHead;

const NOW: &str = "2026-01-02T00:00:00Z";

fn object<K: DeserializeOwned>(key: &str, spec: Value) -> K {
    let (namespace, name) = key.split_once('/').unwrap();
    let meta = json!({
        "namespace": namespace, "name": name, "uid": key, "generation": 3, "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

/// A class, the namespaces `a` and `b`, and in each a Service `web` at port 80 with one endpoint.
fn index() -> Index {
    let mut index = Index::new(Ports::default());
    let class = json!({"metadata": {"name": "skep"}, "spec": {"controllerName": super::CONTROLLER}});
    let class: GatewayClass = serde_json::from_value(class).unwrap();
    index.gateway_api().apply_class(&class);
    for (namespace, ip) in [("a", "192.0.2.1"), ("b", "192.0.2.2")] {
        let object = json!({"metadata": {"name": namespace, "labels": {"name": namespace}}});
        index.gateway_api().apply_namespace(&serde_json::from_value(object).unwrap());
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let service = json!({"metadata": {"namespace": namespace, "name": "web"}, "spec": {"ports": ports}});
        index.apply_service(&serde_json::from_value(service).unwrap());
        let slice = json!({
            "metadata": {"namespace": namespace, "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [ip]}],
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        });
        index.apply_slice(&serde_json::from_value(slice).unwrap());
    }
    let node = json!({
        "metadata": {"name": "node"},
        "status": {
            "conditions": [{"type": "GatewayReady", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.9"}],
        },
    });
    index.gateway_api().apply_node(&serde_json::from_value(node).unwrap());
    index
}

fn gateway(index: &mut Index, key: &str, listeners: Value) {
    let spec = json!({"gatewayClassName": "skep", "listeners": listeners, "allowedListeners": {"namespaces": {"from": "Same"}}});
    index.gateway_api().apply_gateway(&object::<Gateway>(key, spec));
}

fn pool(index: &mut Index) {
    let pool = json!({"metadata": {"name": "pool"}, "spec": {"cidrs": ["192.0.2.128/25"]}});
    index.gateway_api().apply_pool(&serde_json::from_value::<LoadBalancerPool>(pool).unwrap());
}

fn http_route(index: &mut Index, key: &str, spec: Value) {
    index.gateway_api().apply_http_route(&object::<HttpRoute>(key, spec));
}

fn found<'c>(config: &'c Config, port: u16, host: &str, path: &str) -> Option<&'c Route> {
    let head = RequestHead { method: &Method::GET, host, path, query: None, headers: &HeaderMap::new() };
    config.listeners.get(&port)?.hosts.find(host).next()?.find(&head).ok().map(|route| &**route)
}

/// The Service of a request; `None`: the answer is 500.
fn service(config: &Config, port: u16, host: &str, path: &str) -> Option<String> {
    let backend = found(config, port, host, path)?.backends.first()?.backend?;
    Some(config.backends[backend].name.to_string())
}

/// `STATUS/REASON` of a condition in the status that an object should have.
fn said(index: &Index, kind: &str, pointer: &str, condition: &str) -> String {
    let updates = index.status_updates(NOW);
    let status = updates.iter().find(|update| update.kind == kind).map(|update| &update.status);
    let conditions = status.and_then(|status| status.pointer(pointer)).and_then(Value::as_array);
    let mut all = conditions.into_iter().flatten();
    let found = all.find(|found| found["type"] == condition).cloned().unwrap_or_default();
    format!("{}/{}", found["status"].as_str().unwrap_or("-"), found["reason"].as_str().unwrap_or("-"))
}

#[test]
fn a_request_has_the_routes_of_the_most_specific_listener_only() {
    let mut index = index();
    let listeners = json!([
        {"name": "any", "port": 80, "protocol": "HTTP"},
        {"name": "com", "port": 80, "protocol": "HTTP", "hostname": "*.com"},
    ]);
    gateway(&mut index, "a/main", listeners);
    for (name, section, path) in [("any", "any", "/any"), ("com", "com", "/com")] {
        let rules = json!([{"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": "web", "port": 80}]}]);
        http_route(
            &mut index,
            &format!("a/{name}"),
            json!({"parentRefs": [{"name": "main", "sectionName": section}], "rules": rules}),
        );
    }
    let config = index.compile(0).config;
    assert_eq!(service(&config, 80, "x.org", "/any").as_deref(), Some("a/web:80"));
    assert_eq!(service(&config, 80, "x.com", "/com").as_deref(), Some("a/web:80"));
    assert!(found(&config, 80, "x.com", "/any").is_none() && found(&config, 80, "x.org", "/com").is_none());
}

#[test]
fn a_reference_to_another_namespace_needs_a_grant() {
    let mut index = index();
    gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    let rules = json!([{"backendRefs": [{"name": "web", "namespace": "b", "port": 80}]}]);
    http_route(&mut index, "a/one", json!({"parentRefs": [{"name": "main"}], "rules": rules}));
    let config = index.compile(0).config;
    assert_eq!(service(&config, 80, "x.com", "/"), None);
    assert_eq!(said(&index, "HTTPRoute", "/parents/0/conditions", "ResolvedRefs"), "False/RefNotPermitted");
    let grant = json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"}],
        "to": [{"group": "", "kind": "Service"}],
    });
    index.gateway_api().apply_grant(&object::<ReferenceGrant>("b/grant", grant));
    let config = index.compile(0).config;
    assert_eq!(service(&config, 80, "x.com", "/").as_deref(), Some("b/web:80"));
    assert_eq!(said(&index, "HTTPRoute", "/parents/0/conditions", "ResolvedRefs"), "True/ResolvedRefs");
    index.gateway_api().delete_grant("b/grant");
    assert_eq!(service(&index.compile(0).config, 80, "x.com", "/"), None);
}

#[test]
fn what_does_not_attach_says_why() {
    for (spec, reason) in [
        (json!({"parentRefs": [{"name": "main", "sectionName": "none"}]}), "False/NoMatchingParent"),
        (json!({"parentRefs": [{"name": "main", "port": 81}]}), "False/NoMatchingParent"),
        (json!({"parentRefs": [{"name": "main", "namespace": "b"}]}), "False/NotAllowedByListeners"),
        (
            json!({"parentRefs": [{"name": "main"}], "hostnames": ["b.com"]}),
            "False/NoMatchingListenerHostname",
        ),
        (json!({"parentRefs": [{"name": "main"}], "hostnames": ["a.com"]}), "True/Accepted"),
        (
            json!({"parentRefs": [{"name": "main"}], "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "/.*"}}]}]}),
            "False/UnsupportedValue",
        ),
        (json!({"parentRefs": [{"name": "unknown"}]}), "-/-"),
    ] {
        let mut index = index();
        let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.com"}]);
        gateway(&mut index, "a/main", listeners.clone());
        gateway(&mut index, "b/main", listeners);
        http_route(&mut index, "a/one", spec.clone());
        index.compile(0);
        assert_eq!(said(&index, "HTTPRoute", "/parents/0/conditions", "Accepted"), reason, "{spec}");
    }
}

#[test]
fn other_controllers_parents_and_times_of_conditions_stay() {
    let mut index = index();
    gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    let mut route: HttpRoute =
        object("a/one", json!({"parentRefs": [{"name": "main"}, {"name": "foreign"}]}));
    index.gateway_api().apply_http_route(&route);
    index.compile(0);
    let update = |index: &Index, now: &str| {
        index
            .status_updates(now)
            .into_iter()
            .find(|update| update.kind == "HTTPRoute")
            .map(|update| update.status)
    };
    let first = update(&index, NOW).unwrap();
    let foreign =
        json!({"parentRef": {"name": "foreign"}, "controllerName": "example.com/other", "conditions": []});
    route.status = json!({"parents": [foreign, first["parents"][0]]});
    index.gateway_api().apply_http_route(&route);
    index.compile(0);
    assert_eq!(update(&index, "2027-01-01T00:00:00Z"), None);
    index.gateway_api().delete_gateway("a/main");
    index.compile(0);
    assert_eq!(update(&index, NOW), Some(json!({"parents": [foreign]})));
}

#[test]
fn a_listener_set_adds_listeners_and_loses_conflicts() {
    let mut index = index();
    gateway(
        &mut index,
        "a/main",
        json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.com"}]),
    );
    let set = json!({"parentRef": {"name": "main"}, "listeners": [
        {"name": "same", "port": 80, "protocol": "HTTP", "hostname": "a.com"},
        {"name": "other", "port": 80, "protocol": "HTTP", "hostname": "b.com"},
    ]});
    index.gateway_api().apply_listener_set(&object::<ListenerSet>("a/set", set));
    index.compile(0);
    assert_eq!(said(&index, "Gateway", "/listeners/0/conditions", "Conflicted"), "False/NoConflicts");
    assert_eq!(
        said(&index, "ListenerSet", "/listeners/0/conditions", "Programmed"),
        "False/HostnameConflict"
    );
    assert_eq!(said(&index, "ListenerSet", "/listeners/0/conditions", "Conflicted"), "True/HostnameConflict");
    assert_eq!(said(&index, "ListenerSet", "/listeners/1/conditions", "Programmed"), "True/Programmed");
    assert_eq!(said(&index, "ListenerSet", "/conditions", "Accepted"), "True/ListenersNotValid");
}

#[test]
fn a_gateways_service_leads_to_nodes_and_for_datagrams_to_endpoints() {
    let mut index = index();
    pool(&mut index);
    gateway(
        &mut index,
        "a/main",
        json!([{"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
    );
    let rules = json!([{"backendRefs": [{"name": "web", "port": 53}]}]);
    let route = object::<UdpRoute>("a/dns", json!({"parentRefs": [{"name": "main"}], "rules": rules}));
    index.gateway_api().apply_udp_route(&route);
    index.compile(0);
    let (publications, ..) = index.publications();
    let [publication] = publications.as_slice() else { panic!("{publications:?}") };
    let ports = &publication.service["spec"]["ports"];
    let target = ports[0]["targetPort"].clone();
    assert_eq!(
        (&ports[0]["port"], &ports[1]["port"], &ports[1]["protocol"]),
        (&json!(80), &json!(53), &json!("UDP"))
    );
    let mut leads: Vec<_> = publication
        .slices
        .iter()
        .map(|slice| (slice["endpoints"][0]["addresses"][0].clone(), slice["ports"][0]["port"].clone()))
        .collect();
    leads.sort_by_key(|(address, _)| address.to_string());
    assert_eq!(leads, [(json!("192.0.2.1"), json!(5353)), (json!("192.0.2.9"), target.clone())]);
    // The port of the nodes is chosen once, and the nodes listen there.
    index.apply_service(&serde_json::from_value(publication.service.clone()).unwrap());
    let config = index.compile(0).config;
    let target = u16::try_from(target.as_u64().unwrap()).unwrap();
    assert_eq!(config.listeners[&target].public_port, 80);
    assert_eq!(index.publications().0[0].service["spec"]["ports"][0]["targetPort"], target);
}

/// A node that says where its gateway listens.
fn listening_node(index: &mut Index, name: &str, ports: &str) {
    let node = json!({
        "metadata": {"name": name, "annotations": {"skep.io/gateway-ports": ports}},
        "status": {
            "conditions": [{"type": "GatewayReady", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.10"}],
        },
    });
    index.gateway_api().apply_node(&serde_json::from_value(node).unwrap());
}

#[test]
fn a_gateways_service_leads_only_to_nodes_that_listen_at_its_port() {
    let mut index = index();
    pool(&mut index);
    gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    index.compile(0);
    let publication = index.publications().0.remove(0);
    let target = publication.service["spec"]["ports"][0]["targetPort"].clone();
    index.apply_service(&serde_json::from_value(publication.service).unwrap());
    let before = index.gateway_api().revision();
    for (name, ports) in
        [("late", "80,443".to_owned()), ("ready", format!("443,{target}")), ("none", String::new())]
    {
        listening_node(&mut index, name, &ports);
    }
    index.compile(0);
    let endpoints = index.publications().0[0].slices[0]["endpoints"].clone();
    let names: Vec<&str> =
        endpoints.as_array().unwrap().iter().filter_map(|endpoint| endpoint["nodeName"].as_str()).collect();
    // An agent of an older release does not say where it listens.
    assert_eq!(names, ["node", "ready"]);
    // A node that opens a port changes no route.
    let routed = index.gateway_api().revision();
    listening_node(&mut index, "late", &target.to_string());
    assert!(routed > before && index.gateway_api().revision() == routed);
    assert_eq!(index.publications().0[0].slices[0]["endpoints"].as_array().unwrap().len(), 3);
}

#[test]
fn without_pools_nodes_pass_connections_on_and_datagrams_wait() {
    let mut index = index();
    let listeners = json!([{"name": "tcp", "port": 9000, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    gateway(&mut index, "a/main", listeners);
    let spec = |port: u16| json!({"parentRefs": [{"name": "main"}], "rules": [{"backendRefs": [{"name": "web", "port": port}]}]});
    index.gateway_api().apply_tcp_route(&object::<TcpRoute>("a/tcp", spec(80)));
    index.gateway_api().apply_udp_route(&object::<UdpRoute>("a/dns", spec(53)));
    let config = index.compile(0).config;
    assert!(config.listeners[&9000].stream.is_some());
    assert_eq!(said(&index, "Gateway", "/listeners/0/conditions", "Programmed"), "True/Programmed");
    assert_eq!(said(&index, "Gateway", "/listeners/1/conditions", "Programmed"), "False/Pending");
    pool(&mut index);
    assert!(index.compile(0).config.listeners.is_empty());
    assert_eq!(said(&index, "Gateway", "/listeners/1/conditions", "Programmed"), "True/Programmed");
}

#[test]
fn a_listener_set_without_a_listener_that_serves_is_not_accepted() {
    let mut index = index();
    gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    let tls = json!({"certificateRefs": [{"name": "cert", "namespace": "b"}]});
    let set = json!({"parentRef": {"name": "main"}, "listeners": [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]});
    index.gateway_api().apply_listener_set(&object::<ListenerSet>("a/set", set));
    index.compile(0);
    assert_eq!(said(&index, "ListenerSet", "/conditions", "Accepted"), "False/ListenersNotValid");
    assert_eq!(said(&index, "ListenerSet", "/conditions", "Programmed"), "False/ListenersNotValid");
    assert_eq!(
        said(&index, "ListenerSet", "/listeners/0/conditions", "ResolvedRefs"),
        "False/RefNotPermitted"
    );
}

#[test]
fn datagrams_weights_are_weights_of_endpoints() {
    let mut index = index();
    pool(&mut index);
    let slice = json!({
        "metadata": {"namespace": "b", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.2"]}, {"addresses": ["192.0.2.3"]}],
        "ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}],
    });
    index.apply_slice(&serde_json::from_value(slice).unwrap());
    let grant = json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "UDPRoute", "namespace": "a"}],
        "to": [{"group": "", "kind": "Service"}],
    });
    index.gateway_api().apply_grant(&object::<ReferenceGrant>("b/grant", grant));
    gateway(&mut index, "a/main", json!([{"name": "dns", "port": 53, "protocol": "UDP"}]));
    // Each of two endpoints has half of the smaller weight: 75 to 12.5.
    let rules = json!([{"backendRefs": [
        {"name": "web", "port": 53, "weight": 75}, {"name": "web", "namespace": "b", "port": 53, "weight": 25},
    ]}]);
    let route = object::<UdpRoute>("a/dns", json!({"parentRefs": [{"name": "main"}], "rules": rules}));
    index.gateway_api().apply_udp_route(&route);
    index.compile(0);
    let (publications, ..) = index.publications();
    let routes = &publications[0].service["metadata"]["annotations"]["skep.io/routes"];
    assert_eq!(routes, "53/UDP=udproute/a/dns");
    let slices = publications[0].slices.iter().map(|slice| {
        let weight = slice["metadata"]["annotations"]["skep.io/endpoint-weight"].as_str().unwrap_or("1");
        (weight.parse::<u32>().unwrap(), slice["endpoints"].as_array().unwrap().len())
    });
    assert_eq!(slices.collect::<Vec<_>>(), [(5, 2), (32, 1)]);
}

#[test]
fn a_gateway_without_an_open_listener_has_no_service() {
    let mut index = index();
    let conflict =
        json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 80, "protocol": "TCP"}]);
    gateway(&mut index, "a/main", conflict);
    index.compile(0);
    assert!(index.publications().0.is_empty());
}

#[test]
fn sessions_are_kept_by_a_cookie_or_a_header() {
    use crate::policy::{Balance, SessionHeader};
    let balance = |session: Value| {
        let mut index = index();
        gateway(&mut index, "a/main", json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
        let rules = json!([{"backendRefs": [{"name": "web", "port": 80}], "sessionPersistence": session}]);
        http_route(&mut index, "a/one", json!({"parentRefs": [{"name": "main"}], "rules": rules}));
        let config = index.compile(0).config;
        let route =
            found(&config, 80, "x.com", "/").map(|route| route.policy.as_ref().unwrap().balance.clone());
        route.ok_or_else(|| said(&index, "HTTPRoute", "/parents/0/conditions", "Accepted"))
    };
    let cookie = |session| match balance(session) {
        Ok(Balance::Cookie(cookie)) => {
            (cookie.name.to_string(), cookie.attributes.to_string(), cookie.lifetime)
        }
        other => panic!("{other:?}"),
    };
    let hour = Some(Duration::from_secs(3600));
    let plain = |lifetime| ("S".to_owned(), "; Path=/; HttpOnly".to_owned(), lifetime);
    assert_eq!(cookie(json!({"sessionName": "S"})), plain(None));
    assert_eq!(cookie(json!({"sessionName": "S", "absoluteTimeout": "1h"})), plain(hour));
    let permanent =
        json!({"sessionName": "S", "absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}});
    let (_, attributes, lifetime) = cookie(permanent);
    assert_eq!((&*attributes, lifetime), ("; Path=/; HttpOnly; Max-Age=3600", hour));
    assert!(cookie(json!({"type": "Cookie"})).0.starts_with("skep-session-"));
    let header = |lifetime| {
        Ok(Balance::Header(SessionHeader { name: http::HeaderName::from_static("x-session"), lifetime }))
    };
    let asked = json!({"type": "Header", "sessionName": "X-Session"});
    assert_eq!(balance(asked), header(None));
    let asked = json!({"type": "Header", "sessionName": "X-Session", "absoluteTimeout": "1h"});
    assert_eq!(balance(asked), header(hour));
    for bad in [
        json!({"sessionName": "a b"}),
        json!({"type": "Header", "sessionName": "Transfer-Encoding"}),
        json!({"type": "Header", "sessionName": "Set-Cookie"}),
        json!({"cookieConfig": {"lifetimeType": "Permanent"}}),
        json!({"absoluteTimeout": "1d"}),
    ] {
        assert_eq!(balance(bad.clone()), Err("False/UnsupportedValue".to_owned()), "{bad}");
    }
}
