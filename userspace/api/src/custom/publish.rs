//! The schema of a custom resource for OpenAPI documents, with the fields that every object has.

use serde_json::{Map, Value, json};

use super::Custom;
use crate::kinds::Kind;

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `com.example.stable.v1.CronTab`: the group's parts in reverse.
pub(crate) fn name(kind: &Kind) -> String {
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// The schema for OpenAPI v3; `reference` makes a `$ref` from the name of a built-in type.
pub(crate) fn v3(kind: &Kind, custom: &Custom, reference: impl Fn(&str) -> String) -> Value {
    resource(kind, custom.version.source.clone(), reference)
}

/// The schema for OpenAPI v2, without what v2 cannot express: clients that validate with it must not refuse valid objects.
pub(crate) fn v2(kind: &Kind, custom: &Custom, reference: impl Fn(&str) -> String) -> Value {
    let mut schema = custom.version.source.clone();
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        let mut anything = json!({"type": "object"});
        name_kind(kind, &mut anything);
        return anything;
    }
    simplify(&mut schema);
    resource(kind, schema, reference)
}

fn resource(kind: &Kind, mut schema: Value, reference: impl Fn(&str) -> String) -> Value {
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    for (name, description) in [
        (
            "apiVersion",
            "APIVersion defines the group and version of the schema that this object is written by.",
        ),
        ("kind", "Kind says what kind of object this is."),
    ] {
        schema["properties"][name] = json!({"type": "string", "description": description});
    }
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata: its name, its labels and what else every object has.",
        "allOf": [{"$ref": reference(OBJECT_META)}],
    });
    name_kind(kind, &mut schema);
    schema
}

fn name_kind(kind: &Kind, schema: &mut Value) {
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
}

fn simplify(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let is = |fields: &Map<String, Value>, name: &str| fields.get(name) == Some(&Value::Bool(true));
    let (nullable, open) = (is(fields, "nullable"), is(fields, "x-kubernetes-preserve-unknown-fields"));
    let mut dropped = vec!["allOf", "anyOf", "oneOf", "not", "nullable", "default"];
    if nullable || is(fields, "x-kubernetes-int-or-string") {
        dropped.push("type");
    }
    if nullable || open {
        dropped.extend(["items", "properties"]);
    }
    fields.retain(|name, _| !dropped.contains(&name.as_str()));
    for name in ["items", "additionalProperties"] {
        fields.get_mut(name).into_iter().for_each(simplify);
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().for_each(|(_, inner)| simplify(inner));
}
