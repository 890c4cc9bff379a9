//! Kinds that are stored as another kind. In: an object of either kind. Out: the same object as the other. PURE.

mod event;
mod horizontal_pod_autoscaler;

use serde_json::Value;

use crate::kinds::{Kind, KindRef, find};
use crate::schema;

/// One kind that is stored as another of the same plural.
struct Conversion {
    group: &'static str,
    version: &'static str,
    /// Group and version of the stored kind.
    storage: (&'static str, &'static str),
    to_storage: fn(Value) -> Value,
    from_storage: fn(Value) -> Value,
}

const CONVERSIONS: [Conversion; 2] = [
    Conversion {
        group: "events.k8s.io",
        version: "v1",
        storage: ("", "v1"),
        to_storage: event::to_storage,
        from_storage: event::from_storage,
    },
    Conversion {
        group: "autoscaling",
        version: "v1",
        storage: ("autoscaling", "v2"),
        to_storage: horizontal_pod_autoscaler::to_storage,
        from_storage: horizontal_pod_autoscaler::from_storage,
    },
];

fn find_conversion(kind: &Kind) -> Option<&'static Conversion> {
    CONVERSIONS.iter().find(|conversion| conversion.group == kind.group && conversion.version == kind.version)
}

/// Whether objects of the kind are stored as another kind.
pub fn is_needed(kind: &Kind) -> bool {
    find_conversion(kind).is_some()
}

/// The kind that objects are stored as; `None` if no conversion is needed.
pub fn storage_kind(kind: &Kind) -> Option<&'static Kind> {
    let (group, version) = find_conversion(kind)?.storage;
    find(group, version, &kind.plural)
}

/// Converts an object to its stored form and replaces `kind` by the stored kind.
pub fn to_storage_kind(kind: &mut KindRef, object: Value) -> Value {
    let object = to_storage(kind, object);
    if let Some(storage_kind) = storage_kind(kind) {
        *kind = storage_kind.into();
    }
    object
}

/// Converts an object of `kind` to its stored form.
pub fn to_storage(kind: &Kind, object: Value) -> Value {
    match find_conversion(kind) {
        Some(conversion) => canonical(storage_kind(kind), (conversion.to_storage)(object)),
        None => object,
    }
}

/// Converts a stored object to `kind`.
pub fn from_storage(kind: &Kind, object: Value) -> Value {
    match find_conversion(kind) {
        Some(conversion) => canonical(Some(kind), (conversion.from_storage)(object)),
        None => object,
    }
}

/// Adds and drops zeros as the other type does.
fn canonical(kind: Option<&Kind>, mut object: Value) -> Value {
    if let Some(kind) = kind {
        schema::check(kind.schema, &mut object);
    }
    object
}
