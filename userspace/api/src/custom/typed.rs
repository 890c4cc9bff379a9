//! Maps a structural schema to CEL: its types, and JSON values converted with it.

use serde_json::Value as Json;

use super::schema::{Shape, Structural};
use crate::cel::{REQUEST, Type, Value, escape, list, of_fields, of_format, of_json};

/// The CEL type of a schema.
pub(super) fn type_of(schema: &Structural) -> Type {
    let base = base(schema);
    if schema.nullable && !matches!(base, Type::Object(_) | Type::List(..) | Type::Map(..)) {
        Type::Dyn
    } else {
        base
    }
}

fn base(schema: &Structural) -> Type {
    if schema.int_or_string {
        return Type::Dyn;
    }
    match schema.shape {
        Shape::Any => Type::Dyn,
        Shape::Boolean => Type::Bool,
        Shape::Integer => Type::Int,
        Shape::Number => Type::Double,
        Shape::String => text(schema),
        Shape::Array => {
            let inner = schema.items.as_deref().map_or(Type::Dyn, type_of);
            let most = schema.checks.max_items.unwrap_or_else(|| REQUEST / (inner.min_bytes() + 1));
            Type::List(Box::new(inner), most)
        }
        Shape::Object => match schema.additional.as_deref() {
            Some(inner) => {
                let inner = type_of(inner);
                let most = schema.checks.max_properties.unwrap_or_else(|| REQUEST / (inner.min_bytes() + 6));
                Type::Map(Box::new(inner), most)
            }
            None if schema.preserve && schema.properties.is_empty() => Type::Dyn,
            None => object(schema, schema.embedded),
        },
    }
}

/// The CEL type of a whole resource; only the names of its metadata are visible.
pub(crate) fn type_of_resource(schema: &Structural) -> Type {
    object(schema, true)
}

fn object(schema: &Structural, resource: bool) -> Type {
    let named = |(name, inner): (&String, &Structural)| (escape(name), type_of(inner));
    let mut fields: Vec<(String, Type)> = schema.properties.iter().map(named).collect();
    if resource {
        fields.retain(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        let text = Type::String(REQUEST);
        let metadata = vec![("name".to_owned(), text.clone()), ("generateName".to_owned(), text.clone())];
        fields.push(("apiVersion".to_owned(), text.clone()));
        fields.push(("kind".to_owned(), text));
        fields.push(("metadata".to_owned(), Type::Object(metadata)));
    }
    Type::Object(fields)
}

fn text(schema: &Structural) -> Type {
    let checks = &schema.checks;
    match checks.format.as_str() {
        "date-time" | "datetime" | "date" => Type::Timestamp,
        "duration" => Type::Duration,
        "byte" => Type::Bytes,
        _ => {
            let longest =
                checks.values.iter().flatten().filter_map(|value| Some(value.as_str()?.len() as u64)).max();
            Type::String(longest.or(checks.max_length).unwrap_or(REQUEST))
        }
    }
}

/// Converts JSON with a schema: field names are escaped, map keys are not.
pub(super) fn value_of(json: &Json, schema: &Structural) -> Value {
    match json {
        Json::Number(number) if schema.shape == Shape::Number => {
            Value::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        Json::Number(number) if schema.shape == Shape::Integer && number.is_f64() => {
            Value::Int(number.as_f64().unwrap_or(0.0) as i64)
        }
        Json::String(text) if schema.shape == Shape::String => of_format(text, &schema.checks.format),
        Json::Array(items) => match schema.items.as_deref() {
            Some(inner) => list(items.iter().map(|item| value_of(item, inner)).collect()),
            None => of_json(json),
        },
        Json::Object(fields) => {
            let is_map = schema.additional.is_some();
            of_fields(fields.iter().map(|(name, value)| match schema.field(name) {
                Some(inner) if is_map => (name.clone(), value_of(value, inner)),
                Some(inner) => (escape(name), value_of(value, inner)),
                None => (escape(name), of_json(value)),
            }))
        }
        other => of_json(other),
    }
}
