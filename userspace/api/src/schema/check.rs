//! Takes in an object as upstream's types decode it. Out: the object in the form that they encode, its unknown fields, and
//! what cannot be decoded.

use std::fmt;

use serde_json::{Map, Value};

use super::facts::{Field, Scalar, Shape, Type, Zero, named};
use super::scalar::{self, Undecodable};
use super::zero;
use crate::value::is_zero;

/// Problems of one object that are kept (as upstream's decoder).
pub(crate) const MAX_PROBLEMS: usize = 100;
/// Bytes of a path in a message. Map keys are the client's, and may be as long as a body.
const MAX_SHOWN_BYTES: usize = 1_024;

/// A part of an object that does not match its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaProblem {
    /// Dropped with or without a warning, or refused: `fieldValidation` decides.
    UnknownField(String),
    /// Always refused: upstream's types cannot decode it. The whole message.
    Undecodable(String),
}

impl SchemaProblem {
    /// The first part that cannot be decoded.
    pub fn undecodable(problems: &[SchemaProblem]) -> Option<&SchemaProblem> {
        problems.iter().find(|problem| matches!(problem, SchemaProblem::Undecodable(_)))
    }
}

impl fmt::Display for SchemaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaProblem::UnknownField(path) => write!(f, "unknown field \"{path}\""),
            SchemaProblem::Undecodable(message) => f.write_str(message),
        }
    }
}

/// Checks an object of the named type and makes it canonical, in one pass. Drops unknown fields; drops and adds zeros as
/// upstream's encoder does; rewrites values that Go's decoder accepts in several forms: times, base64, quantities.
pub fn check(type_name: &str, object: &mut Value) -> Vec<SchemaProblem> {
    check_at(type_name, &At::ROOT, object)
}

/// Checks a value of a named type at `path` in an object.
pub(crate) fn check_type(type_name: &str, path: &str, value: &mut Value) -> Vec<SchemaProblem> {
    check_at(type_name, &At::ROOT.field("", path), value)
}

/// Adds the status of an object of the named type, if it always has one, with the zeros that it always has.
pub(crate) fn complete_status(type_name: &str, object: &mut Value) {
    let Some(field) = named(type_name).and_then(|found| found.field("status")) else { return };
    let Value::Object(fields) = object else { return };
    if !fields.contains_key(field.name) {
        let Some(zero) = zero::written(field, true) else { return };
        fields.insert(field.name.to_owned(), zero);
    }
    if let Some(status) = fields.get_mut(field.name) {
        Walk::default().field(field, &At::ROOT.field("", field.name), status);
    }
}

fn check_at(type_name: &str, at: &At<'_>, value: &mut Value) -> Vec<SchemaProblem> {
    let mut walk = Walk::default();
    if let Some(schema) = named(type_name) {
        walk.named(schema, at, value);
    }
    let Walk { unknown, undecodable, .. } = walk;
    undecodable
        .map(SchemaProblem::Undecodable)
        .into_iter()
        .chain(unknown.into_iter().map(SchemaProblem::UnknownField))
        .collect()
}

/// The position of a value; linked on the stack, so that only a problem costs a text.
struct At<'a> {
    above: Option<&'a At<'a>>,
    /// The name of the struct type of a field; empty at the root.
    owner: &'a str,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    const ROOT: At<'static> = At { above: None, owner: "", part: Part::Root };

    fn field(&'a self, owner: &'a str, name: &'a str) -> At<'a> {
        At { above: Some(self), owner, part: Part::Field(name) }
    }

    fn key(&'a self, key: &'a str) -> At<'a> {
        At { above: Some(self), owner: self.owner, part: Part::Key(key) }
    }

    fn index(&'a self, index: usize) -> At<'a> {
        At { above: Some(self), owner: self.owner, part: Part::Index(index) }
    }

    /// The path. Go's decoder names the fields of structs only, without the keys and indexes between them.
    fn path(&self, fields_only: bool) -> String {
        let mut out = self.above.map_or_else(String::new, |above| above.path(fields_only));
        match self.part {
            Part::Field(name) => push_name(&mut out, name),
            Part::Key(key) if !fields_only => push_name(&mut out, key),
            Part::Index(index) if !fields_only => out.push_str(&format!("[{index}]")),
            _ => {}
        }
        out
    }
}

fn push_name(path: &mut String, name: &str) {
    path.push_str(if path.is_empty() { "" } else { "." });
    path.push_str(name);
}

/// A path as messages show it.
pub(crate) fn shown(path: &str) -> String {
    path[..path.floor_char_boundary(MAX_SHOWN_BYTES)].to_owned()
}

#[derive(Default)]
struct Walk {
    /// Within the status of the object.
    is_status: bool,
    unknown: Vec<String>,
    /// The first message: upstream's decoder keeps no other.
    undecodable: Option<String>,
}

impl Walk {
    fn value(&mut self, shape: Shape, at: &At<'_>, value: &mut Value) {
        match (shape, &mut *value) {
            (Shape::Type(name), _) => {
                if let Some(found) = named(name) {
                    self.named(found, at, value);
                }
            }
            (Shape::List(inner), Value::Array(items)) => {
                let shape = Shape::of(inner);
                for (i, item) in items.iter_mut().enumerate() {
                    self.item(shape, &at.index(i), item);
                }
            }
            (Shape::Map(inner), Value::Object(fields)) if scalar::is_quantity(Shape::of(inner)) => {
                for (key, item) in fields.iter_mut() {
                    match scalar::canonical_resource(item) {
                        Ok(None) => {}
                        Ok(Some(canonical)) => *item = canonical,
                        Err(why) => self.report(&at.key(key), Shape::of(inner), item, why),
                    }
                }
            }
            (Shape::Map(inner), Value::Object(fields)) => {
                let shape = Shape::of(inner);
                for (key, item) in fields.iter_mut() {
                    self.item(shape, &at.key(key), item);
                }
            }
            (Shape::Scalar(scalar), value) => match scalar::canonical(scalar, value) {
                Ok(None) => {}
                Ok(Some(canonical)) => *value = canonical,
                Err(why) => self.report(at, shape, value, why),
            },
            (_, Value::Null) => {}
            (shape, other) => self.report(at, shape, other, Undecodable::Type),
        }
    }

    /// A null in a list or a map is the zero of its type in Go, and nothing else can decode it.
    fn item(&mut self, shape: Shape, at: &At<'_>, item: &mut Value) {
        if item.is_null() {
            *item = zero::of_item(shape);
        }
        self.value(shape, at, item);
        // The canonical form of Go's zero time is null, which a field drops and an item cannot.
        if item.is_null() && scalar::is_time(shape) {
            *item = scalar::ZERO_TIME.into();
        }
    }

    fn named(&mut self, schema: &'static Type, at: &At<'_>, value: &mut Value) {
        match schema.shape {
            None => self.fields(schema, at, value),
            Some(_) if schema.name == JSON => scalar::whole_numbers(value),
            Some(_) if schema.name.starts_with(SCHEMA_OR) => self.schema_or(schema, at, value),
            Some(_) if schema.name.ends_with(".MicroTime") => match scalar::canonical_micro_time(value) {
                Ok(None) => {}
                Ok(Some(canonical)) => *value = canonical,
                Err(why) => self.report(at, Shape::Type(schema.name), value, why),
            },
            Some(shape) => self.value(shape, at, value),
        }
    }

    fn fields(&mut self, schema: &'static Type, at: &At<'_>, value: &mut Value) {
        let Value::Object(fields) = value else {
            if !value.is_null() {
                self.report(at, Shape::Type(schema.name), value, Undecodable::Type);
            }
            return;
        };
        let owner = go_name(schema.name);
        fields.retain(|name, value| match schema.field(name) {
            Some(field) => self.field(field, &at.field(owner, name), value),
            None => {
                if self.unknown.len() < MAX_PROBLEMS {
                    self.unknown.push(shown(&at.field("", name).path(false)));
                }
                false
            }
        });
        self.add_zeros(schema, at, fields);
        if let (Some(_), [kind]) = (at.above, schema.kinds.as_slice()) {
            set_type(kind, fields);
        }
    }

    /// Takes in the value of a field. Returns whether the field stays as it is.
    fn field(&mut self, field: &'static Field, at: &At<'_>, value: &mut Value) -> bool {
        let is_root_status = field.name == "status" && at.above.is_some_and(|above| above.above.is_none());
        self.is_status |= is_root_status;
        if !value.is_null() {
            self.value(field.shape, at, value);
        }
        self.is_status &= !is_root_status;
        match field.zero {
            Zero::Kept => !value.is_null(),
            Zero::Dropped => !is_zero(value) || !value.is_null() && is_refused_empty(at),
            // Upstream keeps what only others read as it is written.
            Zero::Written | Zero::WrittenNull if is_raw(field.shape) => !value.is_null(),
            // Upstream's stored form does not tell an empty list from none.
            Zero::Written | Zero::WrittenNull => match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty() || is_struct(field.shape),
                _ => true,
            },
        }
    }

    /// Adds the fields that upstream always writes.
    fn add_zeros(&mut self, schema: &'static Type, at: &At<'_>, fields: &mut Map<String, Value>) {
        for field in schema.fields.iter().filter(|field| field.is_written()) {
            if fields.contains_key(field.name) {
                continue;
            }
            if let Some(mut zero) = zero::written(field, self.is_status || field.name == "status") {
                self.field(field, &at.field("", field.name), &mut zero);
                fields.insert(field.name.to_owned(), zero);
            }
        }
    }

    /// The fields of a custom resource's schema that hold a schema or something else.
    fn schema_or(&mut self, schema: &'static Type, at: &At<'_>, value: &mut Value) {
        let schemas = Shape::Type(SCHEMA);
        match (&schema.name[SCHEMA_OR.len()..], &mut *value) {
            ("Array", Value::Array(items)) => {
                items.iter_mut().enumerate().for_each(|(i, item)| self.item(schemas, &at.index(i), item));
            }
            ("StringArray", Value::Array(items)) => {
                let shape = Shape::Scalar(Scalar::String);
                items.iter_mut().enumerate().for_each(|(i, item)| self.item(shape, &at.index(i), item));
            }
            ("Bool", Value::Bool(_)) | (_, Value::Null) => {}
            (_, Value::Object(_)) => self.value(schemas, at, value),
            ("Bool", _) => {
                self.undecodable.get_or_insert_with(|| "boolean or JSON schema expected".to_owned());
            }
            _ => self.report(at, schemas, value, Undecodable::Type),
        }
    }

    fn report(&mut self, at: &At<'_>, shape: Shape, found: &Value, why: Undecodable) {
        if self.undecodable.is_some() {
            return;
        }
        let wanted = match why {
            Undecodable::Form(message) => {
                self.undecodable = Some(message);
                return;
            }
            Undecodable::Type => go_type(shape),
        };
        let (found, path) = (scalar::found(found, &wanted), shown(&at.path(true)));
        self.undecodable = Some(match at.owner {
            "" if path.is_empty() => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
            owner => {
                let owner = if owner.is_empty() { "ObjectMeta" } else { owner };
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
            }
        });
    }
}

/// Sets the type of an object within an object, such as a template of claims: upstream ignores what the client wrote.
fn set_type(kind: &str, fields: &mut Map<String, Value>) {
    let Some((group_version, kind)) = kind.rsplit_once('/') else { return };
    for (field, value) in [("apiVersion", group_version.trim_start_matches('/')), ("kind", kind)] {
        if let Some(present) = fields.get_mut(field) {
            *present = value.into();
        }
    }
}

/// A value of any type, which upstream decodes and encodes again.
const JSON: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
/// Prefix of the types in a custom resource's schema that are a schema or something else.
const SCHEMA_OR: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOr";
const SCHEMA: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Lists and maps that validation refuses if they are empty, and that have a default or another message if they are absent:
/// their type, and their path. They are never stored empty.
const REFUSED_EMPTY: [(&str, &str); 3] = [
    ("HPAScalingRules", "spec.behavior.scaleDown.policies"),
    ("HPAScalingRules", "spec.behavior.scaleUp.policies"),
    ("PersistentVolumeSpec", "spec.capacity"),
];

fn is_refused_empty(at: &At<'_>) -> bool {
    REFUSED_EMPTY.iter().any(|(owner, path)| *owner == at.owner && *path == at.path(true))
}

/// Whether a value is of any form: upstream's RawExtension.
fn is_raw(shape: Shape) -> bool {
    let shape = match shape {
        Shape::Type(name) => named(name).and_then(|found| found.shape),
        shape => Some(shape),
    };
    matches!(shape, Some(Shape::Scalar(Scalar::Object)))
}

fn is_struct(shape: Shape) -> bool {
    matches!(shape, Shape::Type(name) if named(name).is_some_and(|found| found.shape.is_none()))
}

/// `PodSpec` of `api.core.v1.PodSpec`.
fn go_name(type_name: &str) -> &str {
    type_name.rsplit('.').next().unwrap_or(type_name)
}

/// The type as Go's messages name it.
fn go_type(shape: Shape) -> String {
    match shape {
        Shape::List(inner) => format!("[]{}", go_type(Shape::of(inner))),
        Shape::Map(inner) => format!("map[string]{}", go_type(Shape::of(inner))),
        Shape::Type(name) => match named(name).and_then(|found| found.shape) {
            Some(shape @ Shape::Scalar(Scalar::IntOrString)) => go_type(shape),
            _ => {
                let mut parts = name.rsplit('.');
                let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                format!("{package}.{name}")
            }
        },
        Shape::Scalar(scalar) => {
            let name = match scalar {
                Scalar::String => "string",
                // An IntOrString that is no text is decoded as this.
                Scalar::Int32 | Scalar::IntOrString => "int32",
                Scalar::Int64 => "int64",
                Scalar::Number => "float64",
                Scalar::Boolean => "bool",
                Scalar::Time => "v1.Time",
                Scalar::Base64 => "[]uint8",
                Scalar::Quantity => "resource.Quantity",
                Scalar::Object | Scalar::Any => "map[string]interface {}",
            };
            name.to_owned()
        }
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
            ["unknown field \"spec.replcas\"", "unknown field \"spec.template.spec.containers[0].x\""]
        );
        assert_eq!(
            object,
            json!({
                "metadata": {},
                "spec": {
                    "strategy": {},
                    "template": {"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {}}]}},
                },
                "status": {},
            })
        );
    }

    #[test]
    fn wrong_types_are_reported_in_upstreams_words() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let problems = kind.check_schema(&mut json!({"spec": {"replicas": "three"}}));
        assert_eq!(
            problems[0].to_string(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }
}
