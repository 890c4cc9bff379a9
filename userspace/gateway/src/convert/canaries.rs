//! Canaries: Ingresses that take a part of the requests of others.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::rules::{backend_ref, rules_of};
use super::source::{Note, Ports, Source};

/// By namespace, host and path.
type Key = (String, String, String);

pub(super) struct Canaries {
    all: BTreeMap<Key, Canary>,
    used: RefCell<BTreeSet<Key>>,
}

struct Canary {
    note: Note,
    backend: Value,
    weight: u32,
    total: u32,
    /// A header's name and value that lead to the canary.
    header: Option<(String, String)>,
}

impl Canaries {
    pub(super) fn find(sources: &[Source<'_>], ports: &Ports, notes: &mut BTreeSet<Note>) -> Canaries {
        let mut all = BTreeMap::new();
        for source in sources.iter().filter(|source| source.is("canary")) {
            for unsupported in ["canary-by-header-pattern", "canary-by-cookie"] {
                if source.annotations.contains_key(unsupported) {
                    notes.insert(source.lost(format!("{unsupported} has no counterpart")));
                }
            }
            for (host, path) in rules_of(source) {
                let Some(backend) = backend_ref(source, &path.backend, ports, notes) else { continue };
                let number = |name: &str| source.annotations.get(name).and_then(|text| text.parse().ok());
                let header = source.annotations.get("canary-by-header").map(|name| {
                    let value = source.annotations.get("canary-by-header-value").unwrap_or(&"always");
                    ((*name).to_owned(), (*value).to_owned())
                });
                let canary = Canary {
                    note: source.lost("no other Ingress has its host and path: the canary is lost"),
                    backend,
                    weight: number("canary-weight").unwrap_or(0),
                    total: number("canary-weight-total").unwrap_or(100),
                    header,
                };
                let path = path.path.clone().unwrap_or_else(|| "/".to_owned());
                all.insert((source.namespace.to_owned(), host.to_owned(), path), canary);
            }
        }
        Canaries { all, used: RefCell::default() }
    }

    /// Adds the canary of a rule: its part of the backends, and the rule for its header, which comes first.
    pub(super) fn apply(
        &self,
        source: &Source<'_>,
        host: &str,
        path: &str,
        rule: &mut Value,
    ) -> Option<Value> {
        let key = (source.namespace.to_owned(), host.to_owned(), path.to_owned());
        let canary = self.all.get(&key)?;
        self.used.borrow_mut().insert(key);
        let by_header = canary.header.as_ref().map(|(name, value)| {
            let mut other = rule.clone();
            other["matches"][0]["headers"] = json!([{"name": name, "value": value}]);
            other["backendRefs"] = json!([canary.backend]);
            other
        });
        if canary.weight > 0 {
            let main = canary.total.saturating_sub(canary.weight);
            rule["backendRefs"][0]["weight"] = json!(main);
            let mut part = canary.backend.clone();
            part["weight"] = json!(canary.weight);
            if let Some(backends) = rule["backendRefs"].as_array_mut() {
                backends.push(part);
            }
        }
        by_header
    }

    /// Those whose rule no other Ingress has.
    pub(super) fn unused(&self) -> Vec<Note> {
        let used = self.used.borrow();
        let unused = self.all.iter().filter(|(key, _)| !used.contains(*key));
        unused.map(|(_, canary)| canary.note.clone()).collect()
    }
}
