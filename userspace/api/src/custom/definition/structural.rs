//! Checks that a schema is structural (KEP-1979): every value has a type, and every field within a logical junctor (`allOf`,
//! `anyOf`, `oneOf`, `not`) is also specified outside of it.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::regexp::Regexp;
use crate::value::{items, text};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) fn validate(schema: &Value, path: &Path, errors: &mut Errors) {
    let mut found = Errors::default();
    validate_structural(schema, Level::Root, path, &mut found);
    validate_junctors(schema, schema, path, path, &mut found);
    found.0.sort_by_key(ToString::to_string);
    errors.0.extend(found.0);
}

/// Validates a schema outside of logical junctors.
fn validate_structural(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let is = |name: &str| schema[name] == true;
    let kind = text(&schema["type"]);
    if kind == "array" && !schema["items"].is_object() {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema["items"].is_object() {
        validate_structural(&schema["items"], Level::Item, &path.child("items"), errors);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        validate_structural(inner, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if additional.is_object() {
            validate_structural(additional, Level::Field, &at, errors);
        }
        if is("x-kubernetes-embedded-resource") {
            errors.forbidden(&at, "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    extensions(schema, path, errors);
    validate_values(schema, any_of_int_or_string(schema), all_of_int_or_string(schema), path, errors);
    typed(schema, kind, level, path, errors);
    resource(schema, level, path, errors);
}

fn extensions(schema: &Value, path: &Path, errors: &mut Errors) {
    if schema["x-kubernetes-int-or-string"] != true {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if schema[name] == true {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(&path.child(name), &json!(true), why);
        }
    }
}

fn typed(schema: &Value, kind: &str, level: Level, path: &Path, errors: &mut Errors) {
    let at = path.child("type");
    let untyped = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    if schema["x-kubernetes-embedded-resource"] == true && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&at, why),
            _ => errors.invalid(&at, &schema["type"], why),
        }
    } else if kind.is_empty() && untyped.iter().all(|name| schema[*name] != true) {
        let what = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&at, &format!("must not be empty {what}"));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&at, &schema["type"], "must be object at the root");
    }
}

/// Validates the fields that every resource has.
fn resource(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    let (at, properties) = (path.child("properties"), &schema["properties"]);
    if level != Level::Root && !embedded {
        return;
    }
    for name in ["kind", "apiVersion"] {
        let found = &properties[name];
        if found.is_object() && found["type"] != "string" {
            errors.invalid(&at.key(name).child("type"), &json!(text(&found["type"])), "must be string");
        }
    }
    let metadata = &properties["metadata"];
    if metadata.is_object() {
        let at = at.key("metadata");
        if metadata["type"] != "object" {
            errors.invalid(&at.child("type"), &json!(text(&metadata["type"])), "must be object");
        }
        if level == Level::Root && !restricts_names_only(metadata) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(&at, why);
        }
    }
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if embedded && !preserves && properties.as_object().is_none_or(serde_json::Map::is_empty) {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&at, why);
    }
}

fn restricts_names_only(metadata: &Value) -> bool {
    let others = metadata.as_object().into_iter().flatten();
    others.filter(|(_, value)| !value.is_null()).all(|(name, value)| match name.as_str() {
        "type" | "description" | "default" | "title" => true,
        "properties" => {
            let mut names = value.as_object().into_iter().flat_map(|fields| fields.keys());
            names.all(|name| matches!(name.as_str(), "name" | "generateName"))
        }
        _ => false,
    })
}

fn int_or_string(branches: &Value) -> bool {
    *branches == json!([{"type": "integer"}, {"type": "string"}])
}

fn any_of_int_or_string(schema: &Value) -> bool {
    int_or_string(&schema["anyOf"])
}

fn all_of_int_or_string(schema: &Value) -> bool {
    int_or_string(&schema["allOf"][0]["anyOf"])
}

fn validate_values(schema: &Value, skip_any: bool, skip_first: bool, path: &Path, errors: &mut Errors) {
    for name in ["anyOf", "allOf", "oneOf"] {
        if name == "anyOf" && skip_any {
            continue;
        }
        for (i, inner) in items(schema, name).enumerate() {
            validate_nested(
                inner,
                name == "allOf" && skip_first && i == 0,
                &path.child(name).index(i),
                errors,
            );
        }
    }
    if schema["not"].is_object() {
        validate_nested(&schema["not"], false, &path.child("not"), errors);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = Regexp::check(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&path.child("pattern"), &schema["pattern"], &why);
    }
}

/// Fields that a schema within a logical junctor must not have.
const FORBIDDEN: [(&str, &str); 13] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn validate_nested(schema: &Value, skip_any: bool, path: &Path, errors: &mut Errors) {
    validate_values(schema, skip_any, false, path, errors);
    if schema["items"].is_object() {
        validate_nested(&schema["items"], false, &path.child("items"), errors);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        validate_nested(inner, false, &path.child("properties").key(name), errors);
    }
    for (name, why) in FORBIDDEN {
        let found = &schema[name];
        if !(found.is_null() || *found == false || *found == "" || *found == json!([])) {
            errors.forbidden(&path.child(name), why);
        }
    }
    if schema["properties"]["metadata"].is_object() {
        let at = path.child("properties").key("metadata");
        errors.forbidden(&at, "must not be specified in a nested context");
    }
}

/// Fields within logical junctors must be specified outside of them: `schema` at `from` refers to `whole` at `at`.
fn validate_junctors(schema: &Value, whole: &Value, at: &Path, from: &Path, errors: &mut Errors) {
    for name in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in items(schema, name).enumerate() {
            validate_completeness(inner, whole, at, &from.child(name).index(i), errors);
        }
    }
    if schema["not"].is_object() {
        validate_completeness(&schema["not"], whole, at, &from.child("not"), errors);
    }
    let own = at == from;
    if !own {
        return;
    }
    for (name, inner) in whole["properties"].as_object().into_iter().flatten() {
        let at = at.child("properties").key(name);
        validate_junctors(inner, inner, &at, &at, errors);
    }
    for name in ["items", "additionalProperties"] {
        if whole[name].is_object() {
            let at = at.child(name);
            validate_junctors(&whole[name], &whole[name], &at, &at, errors);
        }
    }
}

fn validate_completeness(schema: &Value, whole: &Value, at: &Path, from: &Path, errors: &mut Errors) {
    validate_junctors(schema, whole, at, from, errors);
    let mut missing =
        |at: &Path, from: &Path| errors.required(at, &format!("because it is defined in {from}"));
    let mut below = Vec::new();
    if schema["items"].is_object() {
        let (at, from) = (at.child("items"), from.child("items"));
        match whole["items"].is_object() {
            true => below.push((&schema["items"], &whole["items"], at, from)),
            false => missing(&at, &from),
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let (at, from) = (at.child("properties").key(name), from.child("properties").key(name));
        match whole["properties"][name].is_object() {
            true => below.push((inner, &whole["properties"][name], at, from)),
            false => missing(&at, &from),
        }
    }
    for (inner, whole, at, from) in below {
        validate_completeness(inner, whole, &at, &from, errors);
    }
}
