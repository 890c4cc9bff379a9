//! The object before its first write: the fields that upstream's types always have, at their zeros.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::{named, zero};

/// The empty objects of the built-in kinds, by the names of their types.
static EMPTY: LazyLock<HashMap<&'static str, Value>> = LazyLock::new(|| {
    let schemas = crate::kinds().iter().filter_map(|kind| named(kind.schema));
    schemas.map(|schema| (schema.name, zero::of_struct(schema))).collect()
});
static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// The object of a kind before its first write, without its version and kind.
pub(super) fn empty_object(kind: &Kind) -> &'static Value {
    EMPTY.get(kind.schema).unwrap_or(&NOTHING)
}
