//! Rules of Ingresses as rules of routes.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend};
use serde_json::{Value, json};

use super::source::{Note, Ports, Source};

/// What no plain path has.
const PATTERN: [char; 12] = ['^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|'];

/// Hosts and paths.
pub(super) fn rules_of<'a>(source: &Source<'a>) -> impl Iterator<Item = (&'a str, &'a HTTPIngressPath)> {
    let rules = source.ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    rules.flat_map(|rule| {
        let host = rule.host.as_deref().unwrap_or_default();
        rule.http.iter().flat_map(move |http| http.paths.iter().map(move |path| (host, path)))
    })
}

/// `None`: a note says why not.
pub(super) fn rule(
    source: &Source<'_>,
    path: &HTTPIngressPath,
    ports: &Ports,
    notes: &mut BTreeSet<Note>,
) -> Option<Value> {
    let text = path.path.as_deref().filter(|text| !text.is_empty()).unwrap_or("/");
    let is_exact = path.path_type == "Exact";
    let may_be_pattern = source.is("use-regex") || source.annotations.contains_key("rewrite-target");
    if !is_exact && may_be_pattern && text.contains(PATTERN) {
        notes.insert(
            source
                .lost(format!("the path {text} is a pattern, which Skep's routes have not; it is left out")),
        );
        return None;
    }
    let matched = if is_exact { json!({"path": {"type": "Exact", "value": text}}) } else { prefix(text) };
    let backend = backend_ref(source, &path.backend, ports, notes)?;
    Some(json!({"matches": [matched], "backendRefs": [backend]}))
}

pub(super) fn prefix(path: &str) -> Value {
    json!({"path": {"type": "PathPrefix", "value": path}})
}

/// A Service's port; `None`: a note says why not.
pub(super) fn backend_ref(
    source: &Source<'_>,
    backend: &IngressBackend,
    ports: &Ports,
    notes: &mut BTreeSet<Note>,
) -> Option<Value> {
    let Some(service) = &backend.service else {
        notes.insert(source.lost("a backend that is a resource is left out"));
        return None;
    };
    let port = service.port.as_ref();
    let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
    let number = match name {
        Some(name) => ports.number(source.namespace, &service.name, name),
        None => port.and_then(|port| port.number),
    };
    let Some(number) = number else {
        let port = name.unwrap_or_default();
        notes.insert(source.lost(format!(
            "the number of port {port:?} of Service {} is not known: its rules are left out; give the Service too",
            service.name
        )));
        return None;
    };
    Some(json!({"name": service.name, "port": number}))
}
