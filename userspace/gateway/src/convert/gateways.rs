//! One Gateway for each namespace and class, with a listener for each host with TLS.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::source::{GROUP, Source, slug};

/// Listeners that a Gateway or a ListenerSet may have.
const MAX_LISTENERS: usize = 64;
/// The listener without TLS.
const HTTP: &str = "http";

pub(super) struct Gateways<'a> {
    class: &'a str,
    /// By namespace and name.
    all: BTreeMap<(String, String), Vec<Value>>,
}

impl<'a> Gateways<'a> {
    pub(super) fn new(class: &'a str) -> Gateways<'a> {
        Gateways { class, all: BTreeMap::new() }
    }

    /// A parent of routes: the listener without TLS.
    pub(super) fn http(&mut self, source: &Source<'_>) -> Value {
        self.listener(source, json!({"name": HTTP, "port": 80, "protocol": "HTTP"}))
    }

    /// The listener of a host with the certificate of a Secret.
    pub(super) fn https(&mut self, source: &Source<'_>, host: &str, secret: &str) -> Value {
        let tls = json!({"certificateRefs": [{"name": secret}]});
        self.listener(source, of_host("https", host, json!({"port": 443, "protocol": "HTTPS", "tls": tls})))
    }

    /// The listener of a host whose handshakes are the endpoints'.
    pub(super) fn passthrough(&mut self, source: &Source<'_>, host: &str) -> Value {
        let tls = json!({"mode": "Passthrough"});
        self.listener(source, of_host("tls", host, json!({"port": 443, "protocol": "TLS", "tls": tls})))
    }

    fn listener(&mut self, source: &Source<'_>, listener: Value) -> Value {
        let gateway = source.class().unwrap_or("ingress").to_owned();
        let listeners = self.all.entry((source.namespace.to_owned(), gateway.clone())).or_default();
        let section = listener["name"].clone();
        let at = listeners.iter().position(|known| known["name"] == section).unwrap_or_else(|| {
            listeners.push(listener);
            listeners.len() - 1
        });
        match at / MAX_LISTENERS {
            0 => json!({"name": gateway, "sectionName": section}),
            set => json!({
                "group": GROUP, "kind": "ListenerSet", "name": set_name(&gateway, set), "sectionName": section,
            }),
        }
    }

    pub(super) fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for ((namespace, gateway), listeners) in &self.all {
            for (set, listeners) in listeners.chunks(MAX_LISTENERS).enumerate() {
                let meta = |name: &str| json!({"namespace": namespace, "name": name});
                objects.push(match set {
                    0 => self.gateway(&meta(gateway), listeners, listeners.len() == MAX_LISTENERS),
                    set => json!({
                        "apiVersion": format!("{GROUP}/v1"), "kind": "ListenerSet",
                        "metadata": meta(&set_name(gateway, set)),
                        "spec": {"parentRef": {"name": gateway}, "listeners": listeners},
                    }),
                });
            }
        }
        objects
    }

    fn gateway(&self, meta: &Value, listeners: &[Value], has_sets: bool) -> Value {
        let mut spec = json!({"gatewayClassName": self.class, "listeners": listeners});
        if has_sets {
            spec["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
        }
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "metadata": meta, "spec": spec})
    }
}

fn of_host(kind: &str, host: &str, mut listener: Value) -> Value {
    listener["name"] = match host {
        "" => json!(kind),
        host => json!(format!("{kind}-{}", slug(host))),
    };
    if !host.is_empty() {
        listener["hostname"] = json!(host);
    }
    listener
}

fn set_name(gateway: &str, set: usize) -> String {
    format!("{gateway}-{set}")
}
