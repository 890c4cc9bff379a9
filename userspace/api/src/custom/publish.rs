//! The schemas of a custom resource and of its list for OpenAPI documents, with the fields that every object has.

use serde_json::{Map, Value, json};

use super::Custom;
use crate::kinds::Kind;

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "apimachinery.pkg.apis.meta.v1.ListMeta";

const API_VERSION_TEXT: &str =
    "APIVersion defines the group and version of the schema that this object is written by.";
const KIND_TEXT: &str = "Kind says what kind of object this is.";
const METADATA_TEXT: &str =
    "Standard object's metadata: its name, its labels and what else every object has.";
const LIST_METADATA_TEXT: &str = "Standard list metadata.";

/// How an OpenAPI document refers to a schema.
#[derive(Clone, Copy)]
pub(crate) struct References {
    /// `#/definitions/`
    pub(crate) folder: &'static str,
    /// A reference may have no fields beside it.
    pub(crate) alone: bool,
}

impl References {
    /// A field of a built-in type.
    fn built_in(self, name: &str, description: &str) -> Value {
        let reference = json!({"$ref": format!("{}io.k8s.{name}", self.folder)});
        let mut field = if self.alone { json!({"allOf": [reference]}) } else { reference };
        field["description"] = description.into();
        field
    }
}

/// `com.example.stable.v1.CronTab`: the group's parts in reverse.
pub(crate) fn name(kind: &Kind) -> String {
    name_of(kind, &kind.kind)
}

/// The name of the list's schema.
pub(crate) fn list_name(kind: &Kind) -> String {
    name_of(kind, &kind.list_kind())
}

fn name_of(kind: &Kind, what: &str) -> String {
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{what}", group.join("."), kind.version)
}

/// The schema for OpenAPI v3.
pub(crate) fn v3(kind: &Kind, custom: &Custom, references: References) -> Value {
    let mut schema = custom.version.source();
    each(&mut schema, &mut |fields| {
        clean(fields);
        unfold(fields);
        embed(fields, references);
    });
    resource(kind, schema, references)
}

/// The schema for OpenAPI v2, without what v2 cannot express: clients that validate with it must not refuse valid objects.
pub(crate) fn v2(kind: &Kind, custom: &Custom, references: References) -> Value {
    let mut schema = custom.version.source();
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        let mut anything = json!({"type": "object"});
        name_kind(kind, &kind.kind, &mut anything);
        return anything;
    }
    each(&mut schema, &mut |fields| {
        clean(fields);
        simplify(fields);
        if !is(fields, "x-kubernetes-preserve-unknown-fields") {
            embed(fields, references);
        }
    });
    resource(kind, schema, references)
}

/// The schema of the list.
pub(crate) fn list(kind: &Kind, references: References) -> Value {
    let (list_kind, plural) = (kind.list_kind(), &kind.plural);
    let mut schema = json!({
        "description": format!("{list_kind} is a list of {}", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION_TEXT},
            "items": {
                "type": "array",
                "description": format!("List of {plural}."),
                "items": {"$ref": format!("{}{}", references.folder, name(kind))},
            },
            "kind": {"type": "string", "description": KIND_TEXT},
            "metadata": references.built_in(LIST_META, LIST_METADATA_TEXT),
        },
    });
    name_kind(kind, &list_kind, &mut schema);
    schema
}

fn resource(kind: &Kind, mut schema: Value, references: References) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        add_type_and_metadata(fields, references);
    } else {
        schema = json!({"type": "object"});
    }
    name_kind(kind, &kind.kind, &mut schema);
    schema
}

fn add_type_and_metadata(fields: &mut Map<String, Value>, references: References) {
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION_TEXT});
    properties["kind"] = json!({"type": "string", "description": KIND_TEXT});
    properties["metadata"] = references.built_in(OBJECT_META, METADATA_TEXT);
}

/// Names the kind and the fields that selectors may name.
fn name_kind(kind: &Kind, name: &str, schema: &mut Value) {
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": kind.group, "kind": name, "version": kind.version}]);
    let selectable = kind.selectable_fields.iter().filter(|path| !path.starts_with("metadata."));
    let selectable: Vec<Value> = selectable.map(|path| json!({"fieldPath": path})).collect();
    if !selectable.is_empty() {
        schema["x-kubernetes-selectable-fields"] = selectable.into();
    }
}

fn is(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name) == Some(&Value::Bool(true))
}

/// Changes a schema, then those of its fields, entries and items.
fn each(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(fields) = schema.as_object_mut() else { return };
    change(fields);
    for name in ["items", "additionalProperties"] {
        fields.get_mut(name).into_iter().for_each(|inner| each(inner, change));
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().for_each(|(_, inner)| each(inner, change));
}

/// Drops fields without effect.
fn clean(fields: &mut Map<String, Value>) {
    fields.retain(|name, value| match name.as_str() {
        "default" | "additionalProperties" | "example" | "externalDocs" => !value.is_null(),
        _ => match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        },
    });
}

/// Writes out what `x-kubernetes-int-or-string` means.
fn unfold(fields: &mut Map<String, Value>) {
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    let first = fields.get("allOf").map(|all| &all[0]["anyOf"]);
    if !is(fields, "x-kubernetes-int-or-string") || fields.get("anyOf") == Some(&both) || first == Some(&both)
    {
        return;
    }
    if !fields.contains_key("anyOf") {
        fields.insert("anyOf".to_owned(), both);
        return;
    }
    let all = fields.entry("allOf").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.insert(0, json!({"anyOf": both}));
    }
}

/// An embedded resource has the fields of every object.
fn embed(fields: &mut Map<String, Value>, references: References) {
    if !is(fields, "x-kubernetes-embedded-resource") {
        return;
    }
    add_type_and_metadata(fields, references);
    let required = fields.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
    }
}

/// Drops what v2 cannot express, and what makes kubectl refuse valid objects or the whole document.
fn simplify(fields: &mut Map<String, Value>) {
    let preserves = is(fields, "x-kubernetes-preserve-unknown-fields");
    let mut dropped = vec!["allOf", "anyOf", "oneOf", "not", "nullable"];
    if is(fields, "nullable") {
        dropped.extend(["type", "items", "properties"]);
    }
    if preserves {
        dropped.extend(["items", "properties"]);
    }
    fields.retain(|name, _| !dropped.contains(&name.as_str()));
    let kind = fields.get("type").and_then(Value::as_str);
    if kind == Some("array") && !fields.contains_key("items") || kind == Some("object") && preserves {
        fields.shift_remove("type");
    }
    let nullable = |schema: Option<&Value>| schema.is_some_and(|schema| schema["nullable"] == true);
    let may_be_null: Vec<String> = match fields.get("properties").and_then(Value::as_object) {
        Some(all) => {
            all.iter().filter(|(_, one)| nullable(Some(one))).map(|(name, _)| name.clone()).collect()
        }
        None => Vec::new(),
    };
    if nullable(fields.get("additionalProperties")) {
        fields.shift_remove("required");
    }
    if let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !may_be_null.iter().any(|nullable| name == nullable.as_str()));
        if required.is_empty() {
            fields.shift_remove("required");
        }
    }
}
