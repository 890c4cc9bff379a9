//! Checks an object against the schema facts. Out: unknown fields, wrong types, missing required fields.

use serde_json::Value;

use super::facts::{Scalar, Shape, Type, named};
use crate::field::{Errors, Path};

/// A part of an object that does not match its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaProblem {
    /// Dropped with or without a warning, or refused: `fieldValidation` decides.
    UnknownField(String),
    /// Always refused: upstream's types cannot decode it.
    WrongType { path: String, wanted: &'static str, found: &'static str, type_name: String },
}

impl std::fmt::Display for SchemaProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SchemaProblem::UnknownField(path) => write!(f, "unknown field \"{path}\""),
            SchemaProblem::WrongType { path, wanted, found, type_name } => {
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go struct field {type_name}.{path} of type {wanted}"
                )
            }
        }
    }
}

/// Checks an object of the named type and drops its nulls and unknown fields, as decoding into upstream's types does.
/// `kind` is the object's name in messages.
pub(crate) fn check(type_name: &str, kind: &str, object: &mut Value) -> Vec<SchemaProblem> {
    let mut problems = Vec::new();
    if let Some(schema) = named(type_name) {
        let mut walk = Walk { kind, path: Vec::new(), problems: &mut problems };
        walk.fields(schema, object);
    }
    problems
}

/// Checks a value of a named type at `path` in an object of the kind.
pub(crate) fn check_type(type_name: &str, kind: &str, path: &str, value: &mut Value) -> Vec<SchemaProblem> {
    let mut problems = Vec::new();
    if let Some(schema) = named(type_name) {
        let mut walk = Walk { kind, path: vec![path.to_owned()], problems: &mut problems };
        walk.fields(schema, value);
    }
    problems
}

struct Walk<'a> {
    kind: &'a str,
    path: Vec<String>,
    problems: &'a mut Vec<SchemaProblem>,
}

impl Walk<'_> {
    fn value(&mut self, shape: Shape, value: &mut Value) {
        match shape {
            Shape::Type(name) => {
                if let Some(found) = named(name) {
                    self.fields(found, value)
                }
            }
            Shape::List(inner) => match value {
                Value::Array(items) => {
                    let shape = Shape::of(inner);
                    for (i, item) in items.iter_mut().enumerate() {
                        self.path.push(format!("[{i}]"));
                        self.value(shape, item);
                        self.path.pop();
                    }
                }
                Value::Null => {}
                other => self.report_type(go_type(shape), other),
            },
            Shape::Map(inner) => match value {
                Value::Object(fields) => {
                    let shape = Shape::of(inner);
                    for (key, item) in fields.iter_mut() {
                        self.path.push(key.clone());
                        self.value(shape, item);
                        self.path.pop();
                    }
                }
                Value::Null => {}
                other => self.report_type(go_type(shape), other),
            },
            Shape::Scalar(scalar) => {
                if !fits(scalar, value) {
                    self.report_type(go_type(shape), value);
                }
            }
        }
    }

    fn fields(&mut self, schema: &'static Type, value: &mut Value) {
        if let Some(shape) = schema.shape {
            return self.value(shape, value);
        }
        let Value::Object(fields) = value else {
            if !value.is_null() {
                self.report_type("struct", value);
            }
            return;
        };
        let mut unknown = Vec::new();
        for (name, value) in fields.iter_mut() {
            let Some(field) = schema.field(name) else {
                unknown.push(name.clone());
                continue;
            };
            self.path.push(name.clone());
            self.value(field.shape, value);
            self.path.pop();
        }
        for name in &unknown {
            self.path.push(name.clone());
            self.problems.push(SchemaProblem::UnknownField(join_path(&self.path)));
            self.path.pop();
        }
        fields.retain(|name, value| !value.is_null() && schema.field(name).is_some());
    }

    fn report_type(&mut self, wanted: &'static str, found: &Value) {
        let path =
            join_path(&self.path.iter().filter(|part| !part.starts_with('[')).cloned().collect::<Vec<_>>());
        let type_name = self.kind.to_owned();
        self.problems.push(SchemaProblem::WrongType { path, wanted, found: json_type(found), type_name });
    }
}

fn join_path(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if !out.is_empty() && !part.starts_with('[') {
            out.push('.');
        }
        out.push_str(part);
    }
    out
}

fn fits(scalar: Scalar, value: &Value) -> bool {
    match scalar {
        _ if value.is_null() => true,
        Scalar::String => value.is_string(),
        Scalar::Time => value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        Scalar::Base64 => value.as_str().is_some_and(is_base64),
        Scalar::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Scalar::Int64 => value.is_i64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Scalar::Number => value.is_number(),
        Scalar::Boolean => value.is_boolean(),
        Scalar::Quantity => match value {
            Value::String(text) => text.parse::<crate::quantity::Quantity>().is_ok(),
            value => value.is_number(),
        },
        Scalar::IntOrString => value.is_string() || value.is_i64(),
        Scalar::Object => value.is_object(),
        Scalar::Any => true,
    }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(compact).is_ok()
}

fn go_type(shape: Shape) -> &'static str {
    match shape {
        Shape::List(_) => "slice",
        Shape::Map(_) | Shape::Scalar(Scalar::Object) => "map[string]interface {}",
        Shape::Type(_) => "struct",
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "string",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Number => "float64",
            Scalar::Boolean => "bool",
            Scalar::Time => "v1.Time",
            Scalar::Base64 => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            _ => "intstr.IntOrString",
        },
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The required numbers and booleans of the type of `field`, each with its zero. `schema` names the type that has the
/// field.
pub(crate) fn zeros(schema: &str, field: &str) -> impl Iterator<Item = (&'static str, Value)> {
    let shape = named(schema).and_then(|found| found.field(field)).map(|field| field.shape);
    let found = match shape {
        Some(Shape::Type(name)) => named(name),
        _ => None,
    };
    let fields = found.into_iter().flat_map(|found| &found.fields).filter(|field| field.required);
    fields.filter_map(|field| match field.shape {
        Shape::Scalar(Scalar::Int32 | Scalar::Int64) => Some((field.name, 0.into())),
        Shape::Scalar(Scalar::Boolean) => Some((field.name, false.into())),
        _ => None,
    })
}

/// Reports missing required fields outside metadata and status. Only structs and strings are reported: a list, map, number
/// or boolean has a usable zero in upstream's types, and the kinds' own validation covers the exceptions.
pub(crate) fn check_required(type_name: &str, object: &Value, errors: &mut Errors) {
    let Some(schema) = named(type_name) else { return };
    for field in schema.fields.iter().filter(|field| !matches!(field.name, "metadata" | "status")) {
        check_required_value(
            field.shape,
            field.required,
            &object[field.name],
            &Path::new(field.name),
            errors,
        );
    }
}

fn check_required_value(shape: Shape, is_required: bool, value: &Value, path: &Path, errors: &mut Errors) {
    if value.is_null() {
        let has_no_zero =
            matches!(shape, Shape::Type(name) if named(name).is_some_and(|found| found.shape.is_none()));
        if is_required && (has_no_zero || shape == Shape::Scalar(Scalar::String)) {
            errors.required(path, "");
        }
        return;
    }
    match shape {
        Shape::Type(name) => {
            for field in named(name).map_or(&[][..], |found| &found.fields) {
                check_required_value(
                    field.shape,
                    field.required,
                    &value[field.name],
                    &path.child(field.name),
                    errors,
                );
            }
        }
        Shape::List(inner) => {
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                check_required_value(Shape::of(inner), false, item, &path.index(i), errors);
            }
        }
        Shape::Map(inner) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                check_required_value(Shape::of(inner), false, item, &path.key(key), errors);
            }
        }
        Shape::Scalar(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::find;

    #[test]
    fn unknown_fields_are_reported_by_path_and_dropped() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let mut object =
            json!({"spec": {"replcas": 1, "template": {"spec": {"containers": [{"name": "a", "x": 1}]}}}});
        let problems = kind.check_schema(&mut object);
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["unknown field \"spec.template.spec.containers[0].x\"", "unknown field \"spec.replcas\"",]
        );
        assert_eq!(object, json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}));
    }

    #[test]
    fn wrong_types_are_reported_in_upstreams_words() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let problems = kind.check_schema(&mut json!({"spec": {"replicas": "three"}}));
        assert_eq!(
            problems[0].to_string(),
            "json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32"
        );
    }
}
