//! An object as it is kept and sent: JSON bytes, with what selectors look at beside them.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use skep_api::Kind;
use skep_api::custom::Custom;
use skep_api::selector::selectable_fields;
use skep_store::{Entry, Revision};

/// Bytes with their resourceVersion in place; immutable and shared.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
    /// The whole object, as it is sent.
    pub(crate) bytes: Bytes,
    /// Of the bytes, for a kind that a definition made; empty for a built-in one.
    pub(crate) version: &'static str,
    /// The parts of the object that selectors may ask for, in their places.
    pub(crate) selectable: Value,
}

impl Object {
    /// From a stored entry, whose value has no resourceVersion: the revision is it.
    pub(crate) fn from_entry(kind: &Kind, entry: &Entry) -> Object {
        let mut value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
        let Some(custom) = &kind.custom else {
            return Object {
                key: entry.key.clone(),
                revision: entry.modified,
                bytes: with_revision(&entry.value, entry.modified),
                version: "",
                selectable: selectable(kind, &value),
            };
        };
        custom.restore(&mut value);
        Object::of_custom(kind, custom, entry.key.clone(), entry.modified, &value)
    }

    /// What was written by a request, in the version in which it was written.
    pub(crate) fn written(kind: &Kind, entry: &Entry, value: &Value) -> Object {
        match &kind.custom {
            None => Object::from_entry(kind, entry),
            Some(custom) => Object::of_custom(kind, custom, entry.key.clone(), entry.modified, value),
        }
    }

    /// The same object in another version.
    pub(crate) fn converted(&self, kind: &Kind, value: &Value) -> Object {
        match &kind.custom {
            None => self.with_bytes(Bytes::from(value.to_string())),
            Some(custom) => Object::of_custom(kind, custom, self.key.clone(), self.revision, value),
        }
    }

    fn of_custom(kind: &Kind, custom: &Custom, key: Arc<str>, revision: Revision, value: &Value) -> Object {
        Object {
            key,
            revision,
            bytes: with_revision(&to_stored(value), revision),
            version: custom.version_of(value),
            selectable: selectable(kind, value),
        }
    }

    fn with_bytes(&self, bytes: Bytes) -> Object {
        Object {
            key: self.key.clone(),
            revision: self.revision,
            bytes,
            version: self.version,
            selectable: self.selectable.clone(),
        }
    }

    /// The object as it was, at the revision of its deletion.
    pub(crate) fn deleted(&self, revision: Revision) -> Object {
        let mut value = self.value();
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        Object { revision, ..self.with_bytes(Bytes::from(value.to_string())) }
    }

    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub(crate) fn labels(&self) -> &Value {
        &self.selectable["metadata"]["labels"]
    }
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Puts the revision into stored bytes. [`to_stored`] writes `metadata` before anything that could hold the same text.
fn with_revision(stored: &Bytes, revision: Revision) -> Bytes {
    let Some(at) = stored.windows(METADATA.len()).position(|window| window == METADATA) else {
        return stored.clone();
    };
    if revision == 0 {
        // It was never stored.
        return stored.clone();
    }
    let at = at + METADATA.len();
    let mut out = Vec::with_capacity(stored.len() + 40);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\",").as_bytes());
    out.extend_from_slice(&stored[at..]);
    Bytes::from(out)
}

/// The bytes to store: kind and metadata first, without the resourceVersion.
pub(crate) fn to_stored(object: &Value) -> Bytes {
    let mut ordered = Map::new();
    for field in ["apiVersion", "kind", "metadata"] {
        ordered.insert(field.to_owned(), object[field].clone());
    }
    if let Some(Value::Object(metadata)) = ordered.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        if !ordered.contains_key(name) {
            ordered.insert(name.clone(), value.clone());
        }
    }
    Bytes::from(Value::Object(ordered).to_string())
}

fn selectable(kind: &Kind, object: &Value) -> Value {
    let mut out = serde_json::json!({"metadata": {}});
    if let Some(labels) = object["metadata"].get("labels") {
        out["metadata"]["labels"] = labels.clone();
    }
    let fields = match &kind.custom {
        Some(custom) => custom.selectable_of(object),
        None => selectable_fields(kind),
    };
    for field in fields {
        let (mut from, mut to) = (object, &mut out);
        for part in field.split('.') {
            from = &from[part];
            if !to.is_object() {
                *to = Value::Object(Map::new());
            }
            to = &mut to[part];
        }
        *to = from.clone();
    }
    compact(out)
}

/// The same without room for more: maps that grew have room for three times as much, and every object has some.
fn compact(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let mut out = Map::with_capacity(map.len());
    out.extend(map.into_iter().map(|(name, value)| (name, compact(value))));
    Value::Object(out)
}

/// The key under which a kind's objects are stored: `/registry/[group/]plural/[namespace/]name`.
pub(crate) fn prefix(kind: &Kind) -> String {
    match kind.group {
        "" | "events.k8s.io" => format!("/registry/{}/", kind.plural),
        group => format!("/registry/{group}/{}/", kind.plural),
    }
}

pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() {
        format!("{}{namespace}/{name}", prefix(kind))
    } else {
        format!("{}{name}", prefix(kind))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_stands_in_the_metadata_and_nowhere_else() {
        let object = json!({
            "data": {"x": "\"metadata\":{"}, "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "a", "resourceVersion": "7"},
        });
        let stored = to_stored(&object);
        assert!(!stored.windows(15).any(|window| window == b"resourceVersion"));
        let value: Value = serde_json::from_slice(&with_revision(&stored, 42)).unwrap();
        assert_eq!(value["metadata"], json!({"resourceVersion": "42", "name": "a"}));
        assert_eq!(value["data"], object["data"]);
    }
}
