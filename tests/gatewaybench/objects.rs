//! The objects of the benchmark: Ingresses of one host each, and the Service that they all lead to.

use std::net::SocketAddr;

use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const CLASS: &str = "skep";
pub(crate) const SERVICE: &str = "web";
pub(crate) const SECRET: &str = "certificate";
/// Its endpoints answer with this many bytes.
pub(crate) const BODY_BYTES: usize = 1_024;

/// The first one is the host of the load, whose tools look names up.
pub(crate) fn host(number: usize) -> String {
    match number {
        0 => "localhost".to_owned(),
        _ => format!("app-{number}.example.com"),
    }
}

pub(crate) fn class() -> Value {
    json!({"metadata": {"name": CLASS}, "spec": {"controller": skep_gateway::ingress::CONTROLLER}})
}

/// `path`: the prefix that leads to the Service.
pub(crate) fn ingress(number: usize, path: &str, tls: bool) -> Value {
    let backend = json!({"service": {"name": SERVICE, "port": {"number": 80}}});
    let rule = json!({"host": host(number), "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}});
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": NAMESPACE, "name": format!("app-{number}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"ingressClassName": CLASS, "rules": [rule]},
    });
    if tls {
        object["spec"]["tls"] = json!([{"hosts": [host(number)], "secretName": SECRET}]);
    }
    object
}

/// The Service and its EndpointSlice.
pub(crate) fn service(upstream: SocketAddr) -> [Value; 2] {
    [
        json!({
            "metadata": {"namespace": NAMESPACE, "name": SERVICE},
            "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        }),
        json!({
            "metadata": {"namespace": NAMESPACE, "name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": upstream.port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [upstream.ip()], "conditions": {"ready": true}}],
        }),
    ]
}

pub(crate) fn secret(certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": NAMESPACE, "name": SECRET},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    })
}
