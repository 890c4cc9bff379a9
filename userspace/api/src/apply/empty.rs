//! The object before its first write: the fields that upstream's types always have, at their zeros.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::{Field, Scalar, Shape, Type, named};

/// Structs that upstream's types embed, so that they exist as long as what is around them.
const EMBEDDED: [&str; 8] =
    ["metadata", "spec", "status", "template", "strategy", "updateStrategy", "jobTemplate", "names"];

/// The empty objects of the built-in kinds, by the names of their types.
static EMPTY: LazyLock<HashMap<&'static str, Value>> = LazyLock::new(|| {
    let schemas = crate::kinds().iter().filter_map(|kind| named(kind.schema));
    schemas.map(|schema| (schema.name, zero_struct(schema))).collect()
});
static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// The object of a kind before its first write, without its version and kind.
pub(super) fn empty_object(kind: &Kind) -> &'static Value {
    EMPTY.get(kind.schema).unwrap_or(&NOTHING)
}

/// A struct without any value.
pub(super) fn zero_struct(schema: &Type) -> Value {
    let mut out = Map::new();
    for field in &schema.fields {
        if let Some(zero) = zero(field) {
            out.insert(field.name.to_owned(), zero);
        }
    }
    Value::Object(out)
}

fn zero(field: &Field) -> Option<Value> {
    match field.shape {
        Shape::Type(name) => {
            let schema = named(name)?;
            let embedded = schema.shape.is_none() && (field.required || EMBEDDED.contains(&field.name));
            embedded.then(|| zero_struct(schema))
        }
        _ if !field.required => None,
        Shape::List(_) | Shape::Map(_) => Some(Value::Null),
        Shape::Scalar(Scalar::String) => Some("".into()),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Number) => Some(0.into()),
        Shape::Scalar(Scalar::Boolean) => Some(false.into()),
        Shape::Scalar(_) => None,
    }
}
