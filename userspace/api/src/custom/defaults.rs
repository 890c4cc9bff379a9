//! Defaults of a structural schema, for fields that are absent or null where null is not allowed.

use serde_json::Value;

use super::schema::Structural;

pub(super) fn apply(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema.properties.iter() {
                let Some(default) = &inner.default else { continue };
                let absent = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => !inner.nullable,
                    Some(_) => false,
                };
                if absent {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                if let Some(inner) = schema.properties.get(name) {
                    apply(inner, value);
                } else if let Some(inner) = schema.additional.as_deref() {
                    replace_null(inner, value);
                    apply(inner, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items.as_deref() {
                for item in items {
                    replace_null(inner, item);
                    apply(inner, item);
                }
            }
        }
        _ => {}
    }
}

/// An entry or item that is null where null is not allowed has the default.
fn replace_null(schema: &Structural, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
}

/// Drops nulls where they are not allowed and there is no default.
pub(super) fn drop_nulls(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                let Some(inner) = schema.field(name) else { return true };
                if value.is_null() && !inner.nullable && inner.default.is_none() {
                    return false;
                }
                drop_nulls(inner, value);
                true
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| drop_nulls(inner, item));
            }
        }
        _ => {}
    }
}
