//! Validates values against a structural schema, in the words of upstream's OpenAPI validator. Values that an update does
//! not change are not validated again (ratcheting, KEP-4008).

use serde_json::{Number, Value};

use super::formats;
use super::lists::canonical;
use super::schema::{Bound, ListType, Shape, Structural};
use crate::field::{Errors, Path};
use crate::meta;
use crate::regexp::matches;

pub(super) fn validate(schema: &Structural, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    value(schema, object, old, "", errors);
}

/// Validates the metadata of resources that are embedded in an object.
pub(super) fn embedded(schema: &Structural, value: &Value, path: &Path, errors: &mut Errors) {
    let mut inside = |inner: &Structural, value: &Value, path: Path| {
        if inner.embedded && value.is_object() {
            for name in ["apiVersion", "kind"] {
                if value[name].as_str().is_none_or(str::is_empty) {
                    errors.required(&path.child(name), "must not be empty");
                }
            }
            meta::validate_embedded(value, &path.child("metadata"), errors);
        }
        embedded(inner, value, &path, errors);
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(inner) = schema.properties.get(name) {
                    inside(inner, value, path.child(name));
                } else if let Some(inner) = schema.additional.as_deref() {
                    inside(inner, value, path.key(name));
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items.as_deref() {
                items.iter().enumerate().for_each(|(i, item)| inside(inner, item, path.index(i)));
            }
        }
        _ => {}
    }
}

fn value(schema: &Structural, value: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    if old.is_some_and(|old| old == value) {
        return;
    }
    if !fits(schema, value) {
        let (wanted, found) = (type_name(schema), type_of(value));
        let message = format!("{path} in body must be of type {wanted}: \"{found}\"");
        let message = format!("Invalid value: \"{found}\": {message}");
        errors.push(&Path::new(path), "FieldValueTypeInvalid", message);
    }
    // A value of a wrong type is still held against what its own type can break.
    if !value.is_null() {
        junctors(schema, value, path, errors);
    }
    match value {
        Value::Object(_) => object(schema, value, old, path, errors),
        Value::Array(items) => array(schema, items, old, path, errors),
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(number) => numeric(schema, number, path, errors),
        _ => {}
    }
    enumerated(schema, value, path, errors);
}

fn type_name(schema: &Structural) -> &'static str {
    if schema.int_or_string { "integer,string" } else { schema.shape.name() }
}

fn fits(schema: &Structural, value: &Value) -> bool {
    if value.is_null() {
        return schema.nullable || schema.shape == Shape::Any && !schema.int_or_string;
    }
    if schema.int_or_string {
        return value.is_string() || is_integer(value);
    }
    match schema.shape {
        Shape::Any => true,
        Shape::Object => value.is_object(),
        Shape::Array => value.is_array(),
        Shape::String => value.is_string(),
        Shape::Boolean => value.is_boolean(),
        Shape::Number => value.is_number(),
        Shape::Integer => is_integer(value),
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|float| float.fract() == 0.0)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn invalid(path: &str, value: &Value, rest: &str, errors: &mut Errors) {
    errors.invalid(&Path::new(path), value, &format!("{path} in body {rest}"));
}

fn object(schema: &Structural, value: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    let Some(fields) = value.as_object() else { return };
    let checks = &schema.checks;
    if let Some(min) = checks.min_properties.filter(|min| (fields.len() as u64) < *min) {
        invalid(path, value, &format!("should have at least {min} properties"), errors);
    }
    if let Some(max) = checks.max_properties.filter(|max| fields.len() as u64 > *max) {
        errors.too_many(&Path::new(path), fields.len(), usize::try_from(max).unwrap_or(usize::MAX));
    }
    for (name, inner_value) in fields {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let Some(inner) = schema.field(name) {
            self::value(inner, inner_value, old.and_then(|old| old.get(name)), &at, errors);
        }
    }
    for name in checks.required.iter().filter(|name| !fields.contains_key(*name)) {
        errors.required(&Path::new(path).child(name), "");
    }
}

fn array(schema: &Structural, items: &[Value], old: Option<&Value>, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    let whole = || Value::from(items);
    if let Some(min) = checks.min_items.filter(|min| (items.len() as u64) < *min) {
        invalid(path, &Value::from(items.len()), &format!("should have at least {min} items"), errors);
    }
    if let Some(max) = checks.max_items.filter(|max| items.len() as u64 > *max) {
        errors.too_many(&Path::new(path), items.len(), usize::try_from(max).unwrap_or(usize::MAX));
    }
    if checks.unique_items {
        let mut seen = std::collections::HashSet::new();
        if !items.iter().all(|item| seen.insert(canonical(item))) {
            invalid(path, &whole(), "shouldn't contain duplicates", errors);
        }
    }
    let Some(inner) = schema.items.as_deref() else { return };
    for (index, item) in items.iter().enumerate() {
        value(inner, item, same_item(schema, item, old), &format!("{path}[{index}]"), errors);
    }
}

/// The item of the old list with the same keys; `None` for lists without keys.
pub(super) fn same_item<'a>(schema: &Structural, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let is_same = |old: &&Value| schema.list_keys.iter().all(|key| old.get(key) == item.get(key));
    old?.as_array()?.iter().find(is_same)
}

fn string(schema: &Structural, text: &str, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    let quoted = Value::from(text);
    let length = text.chars().count() as u64;
    if let Some(max) = checks.max_length.filter(|max| length > *max) {
        errors.too_long(&Path::new(path), usize::try_from(max).unwrap_or(usize::MAX));
    }
    if let Some(min) = checks.min_length.filter(|min| length < *min) {
        invalid(path, &quoted, &format!("should be at least {min} chars long"), errors);
    }
    if let Some(pattern) = checks.pattern.as_deref().filter(|pattern| !matches(pattern, text)) {
        invalid(path, &quoted, &format!("should match '{pattern}'"), errors);
    }
    if matches!(schema.shape, Shape::String | Shape::Any) && !formats::accepts(&checks.format, text) {
        invalid(path, &quoted, &format!("must be of type {}: {quoted}", checks.format), errors);
    }
}

fn numeric(schema: &Structural, number: &Number, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    let value_json = Value::Number(number.clone());
    let value = number.as_f64().unwrap_or(f64::NAN);
    range(schema, number, "Checked", path, errors);
    if let Some(factor) = checks.multiple_of
        && !is_multiple(value, factor)
    {
        invalid(path, &value_json, &format!("should be a multiple of {}", plain(factor)), errors);
    }
    let beyond = |bound: &Bound, over: fn(f64, f64) -> bool| {
        let limit = bound.value.as_f64().unwrap_or(f64::NAN);
        over(value, limit) || bound.exclusive && value == limit
    };
    if let Some(min) = &checks.minimum {
        range(schema, &min.value, "Minimum boundary", path, errors);
    }
    if let Some(min) = checks.minimum.as_ref().filter(|min| beyond(min, |value, limit| value < limit)) {
        let or_equal = if min.exclusive { "" } else { " or equal to" };
        invalid(path, &value_json, &format!("should be greater than{or_equal} {}", min.value), errors);
    }
    if let Some(max) = &checks.maximum {
        range(schema, &max.value, "Maximum boundary", path, errors);
    }
    if let Some(max) = checks.maximum.as_ref().filter(|max| beyond(max, |value, limit| value > limit)) {
        let or_equal = if max.exclusive { "" } else { " or equal to" };
        invalid(path, &value_json, &format!("should be less than{or_equal} {}", max.value), errors);
    }
}

/// As upstream, a bound beyond the range of the schema's type refuses every number.
fn range(schema: &Structural, number: &Number, what: &str, path: &str, errors: &mut Errors) {
    let format = schema.checks.format.as_str();
    let fits = match (schema.shape, format) {
        (Shape::Integer, "int32") => whole(number).is_some_and(|number| i32::try_from(number).is_ok()),
        (Shape::Integer, _) => whole(number).is_some_and(|number| i64::try_from(number).is_ok()),
        (_, "float") => number.as_f64().is_some_and(|number| number.abs() <= f64::from(f32::MAX)),
        _ => true,
    };
    if !fits {
        let name = type_name(schema);
        let of =
            if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
        without_path(format!("{what} value must be of type {name} {of} in {path}"), errors);
    }
}

/// A number without a fraction.
fn whole(number: &Number) -> Option<i128> {
    let of_float = || number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128);
    number.as_i128().or_else(of_float)
}

fn is_multiple(value: f64, factor: f64) -> bool {
    let quotient = value / factor;
    (quotient - quotient.round()).abs() < 1e-9 * quotient.abs().max(1.0)
}

fn plain(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 { format!("{number:.0}") } else { number.to_string() }
}

fn enumerated(schema: &Structural, value: &Value, path: &str, errors: &mut Errors) {
    let Some(values) = &schema.checks.values else { return };
    if values.iter().any(|allowed| canonical(allowed) == canonical(value)) {
        return;
    }
    let shown = |value: &Value| match value {
        Value::String(text) => format!("{text:?}"),
        other => format!("{:?}", other.to_string()),
    };
    let all: Vec<String> = values.iter().map(shown).collect();
    let message = format!("Unsupported value: {value}: supported values: {}", all.join(", "));
    errors.push(&Path::new(path), "FieldValueNotSupported", message);
}

fn junctors(schema: &Structural, value: &Value, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    if !checks.any_of.is_empty() {
        let results = validate_branches(&checks.any_of, value, path);
        if results.iter().all(|result| !result.is_empty()) {
            without_path(format!("{path:?} must validate at least one schema (anyOf)"), errors);
            errors.0.extend(best(results).0);
        }
    }
    if !checks.one_of.is_empty() {
        let results = validate_branches(&checks.one_of, value, path);
        let valid = results.iter().filter(|result| result.is_empty()).count();
        if valid != 1 {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                many => format!("Found {many} valid alternatives"),
            };
            without_path(format!("{path:?} must validate one and only one schema (oneOf). {found}"), errors);
            if valid == 0 {
                errors.0.extend(best(results).0);
            }
        }
    }
    if !checks.all_of.is_empty() {
        let results = validate_branches(&checks.all_of, value, path);
        let valid = results.iter().filter(|result| result.is_empty()).count();
        let all = valid == results.len();
        results.into_iter().for_each(|result| errors.0.extend(result.0));
        if !all {
            let none = if valid == 0 { ". None validated" } else { "" };
            without_path(format!("{path:?} must validate all the schemas (allOf){none}"), errors);
        }
    }
    if let Some(not) = &checks.not
        && validate_branches(std::slice::from_ref(&**not), value, path).iter().all(Errors::is_empty)
    {
        without_path(format!("{path:?} must not validate the schema (not)"), errors);
    }
}

fn validate_branches(branches: &[Structural], value: &Value, path: &str) -> Vec<Errors> {
    let one = |schema: &Structural| {
        let mut errors = Errors::default();
        self::value(schema, value, None, path, &mut errors);
        errors
    };
    branches.iter().map(one).collect()
}

/// The errors of the branch with the fewest.
fn best(results: Vec<Errors>) -> Errors {
    results.into_iter().min_by_key(|result| result.0.len()).unwrap_or_default()
}

/// Adds an error that has no path in upstream.
fn without_path(message: String, errors: &mut Errors) {
    errors.invalid(&Path::new(""), &Value::from(""), &message);
}
