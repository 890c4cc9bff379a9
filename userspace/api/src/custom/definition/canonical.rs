//! The schemas of a definition as they are stored: fields that have their zero value are absent.

use serde_json::Value;

/// Fields of a schema that stay whatever their value is.
const KEPT: [&str; 12] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "default",
    "example",
    "externalDocs",
    "items",
    "not",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "properties",
];

/// Drops the zero values of a schema and of all schemas within it.
pub(super) fn schema(source: &mut Value) {
    let Some(fields) = source.as_object_mut() else { return };
    for name in ["properties", "patternProperties", "definitions"] {
        let inner = fields.get_mut(name).and_then(Value::as_object_mut);
        inner.into_iter().flatten().for_each(|(_, inner)| schema(inner));
    }
    for name in ["items", "additionalProperties", "additionalItems", "not"] {
        fields.get_mut(name).into_iter().for_each(schema);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().for_each(schema);
    }
    fields.retain(|name, value| match value {
        Value::Object(inner) if name == "properties" => !inner.is_empty(),
        _ if KEPT.contains(&name.as_str()) => true,
        Value::Bool(set) => *set,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(inner) => !inner.is_empty(),
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_values_are_dropped_and_defaults_kept() {
        let mut source = json!({
            "type": "object", "properties": {"a": {"type": "object", "properties": {}, "default": {}, "nullable": false},
                "b": {"type": "array", "items": {}, "enum": [], "description": ""}},
            "required": [], "x-kubernetes-preserve-unknown-fields": false, "additionalProperties": {"properties": {}},
        });
        schema(&mut source);
        let wanted = json!({
            "type": "object", "properties": {"a": {"type": "object", "default": {}}, "b": {"type": "array", "items": {}}},
            "x-kubernetes-preserve-unknown-fields": false, "additionalProperties": {},
        });
        assert_eq!(source, wanted);
    }
}
