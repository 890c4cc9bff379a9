//! JSON values of objects: reading and filling fields, as defaults and validation of every kind need it.

use serde_json::Value;

use crate::field::{Errors, Path};

/// The items of a list field; none if it is absent.
pub(crate) fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// The items of a list field, to change.
pub(crate) fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A string; empty for anything else.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Sets a field that is absent or null: one that upstream's types hold by pointer, where "" and 0 are values.
pub(crate) fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(field).is_none_or(Value::is_null)
    {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is absent or has the zero of its type, "" or 0: one that upstream's types hold by value.
pub(crate) fn set_zero_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(field).is_none_or(is_zero)
    {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Whether a field has the zero of its type, or is absent.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Requires a string field that is not empty; `false` if it is missing.
pub(crate) fn require_text(object: &Value, field: &str, path: &Path, errors: &mut Errors) -> bool {
    let is_there = !text(&object[field]).is_empty();
    if !is_there {
        errors.required(&path.child(field), "");
    }
    is_there
}

/// Requires a string field that is one of the supported values.
pub(crate) fn require_one_of(
    object: &Value,
    field: &str,
    path: &Path,
    supported: &[&str],
    errors: &mut Errors,
) {
    if require_text(object, field, path, errors) {
        one_of(object, field, path, supported, errors);
    }
}

/// An object as upstream shows the internal type of it: these fields, with capitals and in this order.
pub(crate) fn internal(object: &Value, fields: &[&str]) -> Value {
    if !object.is_object() {
        return Value::Null;
    }
    let shown = fields.iter().map(|field| {
        let mut name = (*field).to_owned();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        (name, object[*field].clone())
    });
    Value::Object(shown.collect())
}

/// Refuses the change of a field.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

/// Refuses a string field that is present and not one of the supported values.
pub(crate) fn one_of(object: &Value, field: &str, path: &Path, supported: &[&str], errors: &mut Errors) {
    if let Some(value) = object[field].as_str()
        && !supported.contains(&value)
    {
        errors.not_supported(&path.child(field), &object[field], supported);
    }
}
