//! An object against the facts: unknown fields, wrong types, missing required fields.

use serde_json::Value;

use super::facts::{Scalar, Shape, Type, named};
use crate::field::{Errors, Path};

/// Something in an object that its schema does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Dropped, warned of or refused, as `fieldValidation` says.
    UnknownField(String),
    /// Always refused: it could not be decoded.
    WrongType { path: String, wanted: &'static str, found: &'static str, type_name: String },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::UnknownField(path) => write!(f, "unknown field \"{path}\""),
            Problem::WrongType { path, wanted, found, type_name } => {
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go struct field {type_name}.{path} of type {wanted}"
                )
            }
        }
    }
}

/// Checks an object of the named type; drops nulls and unknown fields from it, as decoding into upstream's types does.
/// Messages call the object by its `kind`.
pub(crate) fn check(type_name: &str, kind: &str, object: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(schema) = named(type_name) {
        let mut walk = Walk { kind, path: Vec::new(), problems: &mut problems };
        walk.fields(schema, object);
    }
    problems
}

/// A value of a named type that stands at `path` in an object of the kind.
pub(crate) fn check_type(type_name: &str, kind: &str, path: &str, value: &mut Value) -> Vec<Problem> {
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
    problems: &'a mut Vec<Problem>,
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
                other => self.wrong(go_type(shape), other),
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
                other => self.wrong(go_type(shape), other),
            },
            Shape::Scalar(scalar) => {
                if !fits(scalar, value) {
                    self.wrong(go_type(shape), value);
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
                self.wrong("struct", value);
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
            self.problems.push(Problem::UnknownField(joined(&self.path)));
            self.path.pop();
        }
        fields.retain(|name, value| !value.is_null() && schema.field(name).is_some());
    }

    fn wrong(&mut self, wanted: &'static str, found: &Value) {
        let path =
            joined(&self.path.iter().filter(|part| !part.starts_with('[')).cloned().collect::<Vec<_>>());
        let type_name = self.kind.to_owned();
        self.problems.push(Problem::WrongType { path, wanted, found: json_type(found), type_name });
    }
}

fn joined(path: &[String]) -> String {
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

/// The required numbers and booleans of the type of a type's field, each with its zero.
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

/// Required fields of the specification that are missing. Lists, maps, numbers and booleans have a usable zero in
/// upstream's types; the kinds' own validation asks for those that do not.
pub(crate) fn check_required(type_name: &str, object: &Value, errors: &mut Errors) {
    let Some(schema) = named(type_name) else { return };
    for field in schema.fields.iter().filter(|field| !matches!(field.name, "metadata" | "status")) {
        required(field.shape, field.required, &object[field.name], &Path::new(field.name), errors);
    }
}

fn required(shape: Shape, wanted: bool, value: &Value, path: &Path, errors: &mut Errors) {
    if value.is_null() {
        let has_no_zero =
            matches!(shape, Shape::Type(name) if named(name).is_some_and(|found| found.shape.is_none()));
        if wanted && (has_no_zero || shape == Shape::Scalar(Scalar::String)) {
            errors.required(path, "");
        }
        return;
    }
    match shape {
        Shape::Type(name) => {
            for field in named(name).map_or(&[][..], |found| &found.fields) {
                required(field.shape, field.required, &value[field.name], &path.child(field.name), errors);
            }
        }
        Shape::List(inner) => {
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                required(Shape::of(inner), false, item, &path.index(i), errors);
            }
        }
        Shape::Map(inner) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                required(Shape::of(inner), false, item, &path.key(key), errors);
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
    fn unknown_fields_are_named_by_their_path_and_dropped() {
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
    fn wrong_types_are_told_as_upstream_tells_them() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let problems = kind.check_schema(&mut json!({"spec": {"replicas": "three"}}));
        assert_eq!(
            problems[0].to_string(),
            "json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32"
        );
    }
}
