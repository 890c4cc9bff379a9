//! Zeros: the values that upstream's types have for what an object does not say.

use serde_json::{Map, Value};

use super::facts::{Field, Scalar, Shape, Type, Zero, named};

/// The zero of a type as an item of a list or a map; null if null is a value of it.
pub(super) fn of_item(shape: Shape) -> Value {
    match shape {
        Shape::Type(name) => match named(name) {
            Some(Type { shape: None, .. }) => Value::Object(Map::new()),
            Some(Type { shape: Some(shape), .. }) => of_item(*shape),
            None => Value::Null,
        },
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) | Shape::Scalar(Scalar::Object) => Value::Object(Map::new()),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Base64 => "".into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Number | Scalar::IntOrString => 0.into(),
            Scalar::Boolean => false.into(),
            Scalar::Quantity => "0".into(),
            Scalar::Time | Scalar::Object | Scalar::Any => Value::Null,
        },
    }
}

/// The zero that is written for an absent field: null for what has no value of its own in Go, and for nothing at all where the
/// object has to say the field.
pub(super) fn written(field: &Field, is_status: bool) -> Option<Value> {
    let is_time = super::scalar::is_time(field.shape);
    if field.required && (is_time || !is_status && !has_zero(field.shape)) {
        return None;
    }
    match field.zero {
        Zero::Kept | Zero::Dropped => None,
        Zero::WrittenNull => Some(Value::Null),
        Zero::Written => Some(of_field(field.shape)),
    }
}

/// A struct without any value, as it is encoded.
pub(crate) fn of_struct(schema: &Type) -> Value {
    let mut out = Map::new();
    for field in schema.fields.iter().filter(|field| field.is_written()) {
        let zero = match field.shape {
            Shape::Type(name) => match named(name) {
                Some(inner) if inner.shape.is_none() => of_struct(inner),
                _ => of_field(field.shape),
            },
            shape => of_field(shape),
        };
        out.insert(field.name.to_owned(), zero);
    }
    Value::Object(out)
}

fn of_field(shape: Shape) -> Value {
    match shape {
        Shape::Type(name) => match named(name) {
            Some(Type { shape: None, .. }) => Value::Object(Map::new()),
            Some(Type { shape: Some(shape), .. }) => of_field(*shape),
            None => Value::Null,
        },
        Shape::List(_) | Shape::Map(_) | Shape::Scalar(Scalar::Base64 | Scalar::Object) => Value::Null,
        shape @ Shape::Scalar(_) => of_item(shape),
    }
}

/// Whether upstream's types have a usable zero of this shape.
pub(super) fn has_zero(shape: Shape) -> bool {
    match shape {
        Shape::Type(name) => named(name).and_then(|found| found.shape).is_some_and(has_zero),
        Shape::Scalar(scalar) => !matches!(scalar, Scalar::String | Scalar::Time),
        Shape::List(_) | Shape::Map(_) => true,
    }
}
