//! The created objects: a ConfigMap of 1 KiB, a pod like a Deployment's.

use serde_json::json;

pub(crate) fn namespace(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()
}

pub(crate) fn configmap(name: &str) -> String {
    let object = |filler: usize| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench"}},
            "data": {"config": "x".repeat(filler)},
        })
        .to_string()
    };
    object(1024 - object(0).len())
}

/// A ready node of 32 cores.
pub(crate) fn node(at: usize) -> String {
    let name = format!("node-{at:05}");
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", at % 3),
        }},
        "status": {
            "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    })
    .to_string()
}

/// Its scheduler does not exist: only the API server is measured.
pub(crate) fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web", "pod-template-hash": "6d4b75cb6d"}},
        "spec": {
            "schedulerName": "none",
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3", "ports": [{"containerPort": 8080}],
                "env": [{"name": "MODE", "value": "production"}, {"name": "LEVEL", "value": "info"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
            }],
        },
    })
    .to_string()
}

/// The object of the watched writes. It carries the time at which it was sent.
pub(crate) fn stamped(name: &str, sent: u128) -> String {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"sent": format!("{sent:020}")},
    })
    .to_string()
}
