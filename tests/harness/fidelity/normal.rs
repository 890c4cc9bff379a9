//! What two correct servers answer differently, and why. Such values are replaced by their kind; that they are present is compared.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::answer::Answer;

/// A field whose value legitimately differs.
struct Field {
    /// Dots between names; `*` is one name or index, a leading `**` any number of them.
    path: &'static str,
    /// Written in its stead.
    kind: &'static str,
}

const fn field(path: &'static str, kind: &'static str) -> Field {
    Field { path, kind }
}

const FIELDS: &[Field] = &[
    // Random, chosen by each server.
    field("metadata.uid", "uid"),
    field("**.controller-uid", "uid"),
    field("**.batch\\.kubernetes\\.io/controller-uid", "uid"),
    field("spec.uid", "uid"),
    // The clock of each server.
    field("metadata.creationTimestamp", "time"),
    field("metadata.deletionTimestamp", "time"),
    field("metadata.managedFields.*.time", "time"),
    field("status.conditions.*.lastTransitionTime", "time"),
    field("status.conditions.*.lastUpdateTime", "time"),
    field("status.startTime", "time"),
    field("status.lastPhaseTransitionTime", "time"),
    // The history of each server's store.
    field("metadata.resourceVersion", "revision"),
    // Allocated out of ranges; an address or port that the input names is the same on both sides all the same.
    field("spec.clusterIP", "address"),
    field("spec.clusterIPs.*", "address"),
    field("spec.ports.*.nodePort", "port"),
    field("spec.healthCheckNodePort", "port"),
];

/// Texts within names and messages that legitimately differ.
static TEXTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let texts = [
        // Uids in messages.
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
        // The volume that ServiceAccount admission adds has a random suffix.
        ("kube-api-access-[a-z0-9]{5}", "kube-api-access-<random>"),
        // Go's decoders give the offset and the bytes around a fault.
        ("error found in #[0-9]+ byte of [^$]*", "error found in <offset>"),
    ];
    texts.iter().filter_map(|(pattern, text)| Some((Regex::new(pattern).ok()?, *text))).collect()
});

/// Replaces what legitimately differs, and takes the managers out of the object.
pub fn normalise(answer: &mut Answer, generated_name: bool) {
    let mut path = Vec::new();
    walk(&mut answer.body, &mut path);
    if generated_name && let Some(name) = answer.body.pointer_mut("/metadata/name") {
        *name = "<generated>".into();
    }
    answer.warnings.iter_mut().for_each(|text| *text = replaced(text));
    answer.take_managers();
}

fn walk(value: &mut Value, path: &mut Vec<String>) {
    if let Some(field) = FIELDS.iter().find(|field| matches(field.path, path)) {
        // Such fields hold values; null, "" and None are statements of their own.
        let stated = matches!(value, Value::Null) || value == "" || value == "None" || value == 0;
        if !stated {
            *value = format!("<{}>", field.kind).into();
        }
        return;
    }
    match value {
        Value::Object(fields) => {
            drop_vendor_sources(fields);
            let keys: Vec<String> = fields.keys().filter(|key| replaced(key) != **key).cloned().collect();
            for key in keys {
                if let Some(value) = fields.shift_remove(&key) {
                    fields.insert(replaced(&key), value);
                }
            }
            for (key, value) in fields {
                path.push(key.clone());
                walk(value, path);
                path.pop();
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(index.to_string());
                walk(item, path);
                path.pop();
            }
        }
        Value::String(text) if text.len() < 4096 => {
            let new = replaced(text);
            if new != *text {
                *text = new;
            }
        }
        _ => {}
    }
}

/// A distribution adds a source of its own to the volume that ServiceAccount admission adds.
fn drop_vendor_sources(volume: &mut Map<String, Value>) {
    let added =
        volume.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with("kube-api-access-"));
    let sources = volume.get_mut("projected").and_then(|projected| projected.get_mut("sources"));
    if added && let Some(sources) = sources.and_then(Value::as_array_mut) {
        sources.retain(|source| source["configMap"]["name"] != "openshift-service-ca.crt");
    }
}

fn replaced(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, kind) in TEXTS.iter() {
        if pattern.is_match(&text) {
            text = pattern.replace_all(&text, *kind).into_owned();
        }
    }
    text
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let escaped = pattern.replace("\\.", "\0");
    let names: Vec<String> = escaped.split('.').map(|name| name.replace('\0', ".")).collect();
    let (names, path) = match names.split_first() {
        Some((first, rest)) if first == "**" => {
            let Some(start) = path.len().checked_sub(rest.len()) else { return false };
            (rest, &path[start..])
        }
        _ => (&names[..], path),
    };
    names.len() == path.len() && names.iter().zip(path).all(|(name, found)| name == "*" || name == found)
}
