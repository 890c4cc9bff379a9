//! Validates the `openAPIV3Schema` of a version: it must be structural, use supported features, and have valid defaults.

use serde_json::{Value, json};

use super::{rules, structural};
use crate::custom::schema::Structural;
use crate::custom::{lists, prune, validate};
use crate::field::{Errors, Path};
use crate::value::{items, text};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// The fields that the root may have if the status is a subresource; others would not apply to the status.
const ALLOWED_ROOT_FIELDS: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

pub(super) fn validate_schema(schema: &Value, path: &Path, has_status: bool, errors: &mut Errors) {
    let start = errors.0.len();
    if has_status {
        validate_root_with_status(schema, path, errors);
    }
    if schema["nullable"] == true {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let structural_from = errors.0.len();
    structural::validate(schema, path, errors);
    let parsed = Structural::parse(schema);
    if errors.0.len() == structural_from {
        validate_defaults(&parsed, path, errors);
    }
    let is_structural = errors.0.len() == structural_from;
    let context = Context { root: true, ..Context::default() };
    validate_open_api(schema, path, &context, errors);
    if is_structural && errors.0.len() == start {
        rules::validate(&parsed, schema, path, errors);
    }
}

/// Visits a schema and all schemas within it.
pub(super) fn visit_all(schema: &Value, visit: &mut dyn FnMut(&Value)) {
    if !schema.is_object() {
        return;
    }
    visit(schema);
    schema["properties"].as_object().into_iter().flatten().for_each(|(_, inner)| visit_all(inner, visit));
    for name in ["items", "additionalProperties", "not"] {
        visit_all(&schema[name], visit);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        items(schema, name).for_each(|inner| visit_all(inner, visit));
    }
}

fn validate_root_with_status(schema: &Value, path: &Path, errors: &mut Errors) {
    if schema["type"] != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(&path.child("type"), &json!(text(&schema["type"])), why);
    }
    let mut names = schema.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    if names.any(|(name, _)| !ALLOWED_ROOT_FIELDS.contains(&name.as_str())) {
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            ALLOWED_ROOT_FIELDS.join(" ")
        );
        errors.invalid(path, schema, &why);
    }
}

/// The position within the whole schema.
#[derive(Clone, Default)]
struct Context {
    root: bool,
    in_metadata: bool,
    /// Why defaults are forbidden here.
    no_defaults: Option<String>,
}

fn validate_open_api(schema: &Value, path: &Path, context: &Context, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    validate_supported(schema, path, context, errors);
    validate_lists_and_maps(schema, path, errors);
    let inner = Context { root: false, ..context.clone() };
    let additional = &schema["additionalProperties"];
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        let has_properties = schema["properties"].as_object().is_some_and(|fields| !fields.is_empty());
        if has_properties && (additional.is_object() || *additional == false) {
            errors.forbidden(&at, "additionalProperties and properties are mutual exclusive");
        }
        let mut inner = inner.clone();
        if context.in_metadata {
            inner.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
        }
        validate_open_api(additional, &at, &inner, errors);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let mut inner = inner.clone();
        let of_resource = context.root || schema["x-kubernetes-embedded-resource"] == true;
        if of_resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            inner.in_metadata = true;
            if context.root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        validate_open_api(property, &path.child("properties").key(name), &inner, errors);
    }
    for name in ["not", "items"] {
        validate_open_api(&schema[name], &path.child(name), &inner, errors);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (i, branch) in items(schema, name).enumerate() {
            validate_open_api(branch, &path.child(name).index(i), &inner, errors);
        }
    }
}

fn validate_supported(schema: &Value, path: &Path, context: &Context, errors: &mut Errors) {
    let kind = text(&schema["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), &schema["type"], &TYPES);
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), why);
    }
    if let Some(reason) = context.no_defaults.as_ref().filter(|_| !schema["default"].is_null()) {
        errors.forbidden(&path.child("default"), &format!("must not be set {reason}"));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !schema[name].is_null() {
            errors.forbidden(&path.child(name), &format!("{name} is not supported"));
        }
    }
    if schema["items"].is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if context.in_metadata && schema["x-kubernetes-embedded-resource"] == true {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.forbidden(&at, "must not be used inside of resource meta");
    }
    if schema["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), why);
    }
    let preserve = &schema["x-kubernetes-preserve-unknown-fields"];
    if *preserve == false {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&at, preserve, "must be true or undefined");
    }
}

fn validate_lists_and_maps(schema: &Value, path: &Path, errors: &mut Errors) {
    validate_extension(schema, "x-kubernetes-map-type", "object", &["atomic", "granular"], path, errors);
    validate_extension(schema, "x-kubernetes-list-type", "array", &["atomic", "map", "set"], path, errors);
    let (list_type, inner) = (text(&schema["x-kubernetes-list-type"]), &schema["items"]);
    let at = path.child("items");
    if schema["type"] == "array" && list_type == "set" && inner.is_object() {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        for (kind, name, default) in
            [("array", "x-kubernetes-list-type", "atomic"), ("object", "x-kubernetes-map-type", "granular")]
        {
            if inner["type"] == kind && inner[name].as_str().unwrap_or(default) != "atomic" {
                errors.invalid(&at.child(name), &inner[name], why);
            }
        }
    }
    let keys: Vec<&Value> = items(schema, "x-kubernetes-list-map-keys").collect();
    if !keys.is_empty() && list_type != "map" {
        let (at, why) =
            (path.child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty");
        match list_type {
            "" => errors.required(&at, why),
            _ => errors.invalid(&at, &schema["x-kubernetes-list-type"], why),
        }
    }
    if matches!(list_type, "set" | "map") && inner["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&at.child("nullable"), &why);
    }
    if list_type == "map" {
        validate_map_list(schema, &keys, path, errors);
    }
}

fn validate_extension(
    schema: &Value,
    name: &str,
    kind: &str,
    allowed: &[&str],
    path: &Path,
    errors: &mut Errors,
) {
    let Some(value) = schema[name].as_str() else { return };
    let why = format!("must be {kind} if {name} is specified");
    match text(&schema["type"]) {
        "" => errors.required(&path.child("type"), &why),
        found if found != kind => errors.invalid(&path.child("type"), &schema["type"], &why),
        _ => {}
    }
    if !allowed.contains(&value) {
        errors.not_supported(&path.child(name), &schema[name], allowed);
    }
}

fn validate_map_list(schema: &Value, keys: &[&Value], path: &Path, errors: &mut Errors) {
    let (at, inner) = (path.child("items"), &schema["items"]);
    let keys_at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.required(&keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    if !inner.is_object() {
        return errors.required(&at, "must have a schema if x-kubernetes-list-type is map");
    }
    if inner["type"] != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&at.child("type"), &inner["type"], why);
    }
    for (i, key) in keys.iter().enumerate() {
        let found = &inner["properties"][text(key)];
        let at = at.child("properties").key(text(key));
        let whole = &schema["x-kubernetes-list-map-keys"];
        if !found.is_object() {
            errors.invalid(&keys_at, whole, "entries must all be names of item properties");
        } else if matches!(text(&found["type"]), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&at.child("type"), &inner["type"], why);
        }
        if keys[..i].contains(key) {
            errors.invalid(&keys_at, whole, "must not contain duplicate entries");
        }
        if found.is_object()
            && !items(inner, "required").any(|name| name == *key)
            && found["default"].is_null()
        {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&at.child("default"), why);
        }
        if found["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), why);
        }
    }
}

/// Validates defaults against their own schema.
fn validate_defaults(parsed: &Structural, path: &Path, errors: &mut Errors) {
    if let Some(default) = &parsed.default {
        let at = path.child("default");
        let mut pruned = default.clone();
        if !prune::prune(parsed, &mut pruned, parsed.embedded).is_empty() {
            errors.invalid(&at, default, "must not have unknown fields");
        }
        let mut found = Errors::default();
        validate::validate(parsed, default, None, &mut found);
        validate::embedded(parsed, default, &at, &mut found);
        lists::validate(parsed, default, &Path::new(""), &mut found);
        if found.is_empty() && parsed.has_rules() {
            crate::custom::rules::validate(parsed, default, Some(default), &mut found);
        }
        for error in found.0 {
            let field = if error.field == "<nil>" { at.clone() } else { at.child(&error.field) };
            errors.push(&field, error.reason, error.message);
        }
    }
    for (name, inner) in parsed.properties.iter() {
        validate_defaults(inner, &path.child("properties").key(name), errors);
    }
    if let Some(inner) = parsed.items.as_deref() {
        validate_defaults(inner, &path.child("items"), errors);
    }
}
