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

/// Sets a field that is absent or null.
pub(crate) fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(field).is_none_or(Value::is_null)
    {
        fields.insert(field.to_owned(), value.into());
    }
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
