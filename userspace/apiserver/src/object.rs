//! An object as it is cached and sent: JSON bytes, with the fields and labels that selectors read.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use skep_api::custom::Custom;
use skep_api::kinds::Name;
use skep_api::selector::Selectable;
use skep_api::{Kind, Status, document};
use skep_store::{Entry, Revision};

/// Bytes with their resourceVersion in place; immutable and shared.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
    /// The whole object, as it is sent.
    pub(crate) bytes: Bytes,
    /// The version of the bytes of a custom resource; empty for a built-in kind.
    pub(crate) version: Name,
    /// The labels and fields that selectors read.
    pub(crate) selectable: Selectable,
    /// Why the stored value cannot be read. The bytes then have the name only: it is in no list and no watch, it cannot be
    /// changed, and it can be deleted.
    pub(crate) unreadable: Option<Box<str>>,
}

impl Object {
    /// From a stored entry, whose value has no resourceVersion: the revision is it.
    pub(crate) fn from_entry(kind: &Kind, entry: &Entry) -> Object {
        match Object::read(kind, entry) {
            Ok(object) => object,
            Err(reason) => Object::unreadable(kind, entry, reason),
        }
    }

    /// Err: why the entry is no object.
    fn read<'a>(kind: &Kind, entry: &'a Entry) -> Result<Object, &'a str> {
        const NO_OBJECT: &str = "the stored value is no JSON object";
        if let Some(reason) = entry.unreadable() {
            return Err(reason);
        }
        if document::is_text_too_deep(&entry.value) {
            return Err("the stored value exceeds the maximum depth of JSON");
        }
        let Some(custom) = &kind.custom else {
            let selectable =
                Selectable::read(kind.selectable_fields.iter(), &entry.value).ok_or(NO_OBJECT)?;
            return Ok(Object::of_built_in(entry, selectable));
        };
        let value: Option<Value> = serde_json::from_slice(&entry.value).ok();
        let mut value = value.filter(Value::is_object).ok_or(NO_OBJECT)?;
        custom.restore(&mut value);
        Ok(Object::of_custom(custom, entry.key.clone(), entry.modified, &value))
    }

    /// Stands for an object whose stored value cannot be read.
    fn unreadable(kind: &Kind, entry: &Entry, reason: &str) -> Object {
        let (namespace, name) = namespace_and_name(kind, &entry.key);
        let mut value = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": name},
        });
        if kind.namespaced() {
            value["metadata"]["namespace"] = namespace.into();
        }
        tracing::warn!(key = %entry.key, revision = entry.modified, reason, "read of a stored object failed; lists and watches leave it out");
        let written = Object::written(kind, &Entry { value: to_stored(&value), ..entry.clone() }, &value);
        Object { unreadable: Some(reason.into()), ..written }
    }

    /// Refuses to go on with an object that cannot be read.
    pub(crate) fn check_readable(&self) -> Result<(), Status> {
        match &self.unreadable {
            None => Ok(()),
            Some(reason) => Err(Status::internal(format!(
                "StorageError: corrupt object, Key: {}, ResourceVersion: {}, AdditionalErrorMsg: {reason}",
                self.key, self.revision
            ))),
        }
    }

    /// A written object, in the version of the request.
    pub(crate) fn written(kind: &Kind, entry: &Entry, value: &Value) -> Object {
        match &kind.custom {
            None => Object::of_built_in(entry, Selectable::of(kind.selectable_fields.iter(), value)),
            Some(custom) => Object::of_custom(custom, entry.key.clone(), entry.modified, value),
        }
    }

    fn of_built_in(entry: &Entry, selectable: Selectable) -> Object {
        Object {
            key: entry.key.clone(),
            revision: entry.modified,
            bytes: with_revision(&entry.value, entry.modified),
            version: Name::Static(""),
            selectable,
            unreadable: None,
        }
    }

    /// The same object.
    pub(crate) fn same(&self) -> Object {
        self.with_bytes(self.bytes.clone())
    }

    /// The same object in another version.
    pub(crate) fn converted(&self, kind: &Kind, value: &Value) -> Object {
        match &kind.custom {
            None => self.with_bytes(Bytes::from(value.to_string())),
            Some(custom) => Object::of_custom(custom, self.key.clone(), self.revision, value),
        }
    }

    fn of_custom(custom: &Custom, key: Arc<str>, revision: Revision, value: &Value) -> Object {
        Object {
            key,
            revision,
            bytes: with_revision(&to_stored(value), revision),
            version: custom.version_of(value),
            selectable: Selectable::of(custom.selectable_of(value).iter(), value),
            unreadable: None,
        }
    }

    fn with_bytes(&self, bytes: Bytes) -> Object {
        Object {
            key: self.key.clone(),
            revision: self.revision,
            bytes,
            version: self.version.clone(),
            selectable: self.selectable.clone(),
            unreadable: self.unreadable.clone(),
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

    /// The object as a write starts from it: in the form of today, whichever version stored it.
    pub(crate) fn restored(&self, kind: &Kind) -> Value {
        let mut value = self.value();
        kind.restore(&mut value);
        value
    }

    /// The text of `metadata` in the bytes.
    pub(crate) fn metadata(&self) -> &str {
        #[derive(serde::Deserialize)]
        struct Part<'a> {
            #[serde(borrow)]
            metadata: &'a RawValue,
        }
        serde_json::from_slice(&self.bytes).map_or("null", |part: Part<'_>| part.metadata.get())
    }
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Puts the revision into stored bytes. [`to_stored`] writes `metadata` before anything that could hold the same text.
fn with_revision(stored: &Bytes, revision: Revision) -> Bytes {
    let Some(at) = stored.windows(METADATA.len()).position(|window| window == METADATA) else {
        return stored.clone();
    };
    if revision == 0 {
        // A dry run: it was never stored.
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
    // Writing into memory does not fail, and the keys of all maps are text.
    Bytes::from(serde_json::to_vec(&Stored(object)).unwrap_or_default())
}

struct Stored<'a>(&'a Value);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
        let mut map = serializer.serialize_map(None)?;
        for field in FIRST {
            match &self.0[field] {
                Value::Object(metadata) if field == "metadata" => {
                    map.serialize_entry(field, &Unversioned(metadata))?;
                }
                value => map.serialize_entry(field, value)?,
            }
        }
        let rest = self.0.as_object().into_iter().flatten();
        for (name, value) in rest.filter(|(name, _)| !FIRST.contains(&name.as_str())) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Metadata without the resourceVersion.
struct Unversioned<'a>(&'a Map<String, Value>);

impl Serialize for Unversioned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(name, _)| *name != "resourceVersion"))
    }
}

/// The key under which a kind's objects are stored: `/registry/[group/]plural/[namespace/]name`.
pub(crate) fn prefix(kind: &Kind) -> String {
    match &*kind.group {
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

/// The namespace and the name in a key of [`key`]; the namespace of a cluster-wide kind is empty.
pub(crate) fn namespace_and_name<'a>(kind: &Kind, key: &'a str) -> (&'a str, &'a str) {
    let path = key.strip_prefix(&*prefix(kind)).unwrap_or(key);
    path.split_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_in_the_metadata_and_nowhere_else() {
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
