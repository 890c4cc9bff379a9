//! JSON as values of expressions, with or without a schema, and values as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Map as Fields, Value as Json};

use super::budget::{Budget, CelError};
use super::moment::{Moment, parse_duration};
use super::names::{escape, unescape};
use super::values::{JSON_PATCH, Key, List, Map, Message, Text, Value, failed};

/// What the schema of a value says about its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaShape {
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// How items of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemIdentity<'a> {
    Position,
    Value,
    Keys(&'a [String]),
}

/// A schema as expressions see it.
pub trait Schema: fmt::Debug + Send + Sync {
    fn shape(&self) -> SchemaShape;
    fn format(&self) -> &str;
    fn is_nullable(&self) -> bool;
    /// Whether it is a whole resource within another.
    fn is_resource(&self) -> bool;
    fn has_fields(&self) -> bool;
    fn field(&self, name: &str) -> Option<&dyn Schema>;
    /// The schema of the values of a map.
    fn entries(&self) -> Option<&dyn Schema>;
    fn items(&self) -> Option<&dyn Schema>;
    fn identity(&self) -> ItemIdentity<'_>;
}

#[derive(Clone, Copy, Debug)]
pub struct JsonList<'a> {
    items: &'a [Json],
    schema: Option<&'a dyn Schema>,
}

#[derive(Clone, Copy, Debug)]
pub struct JsonMap<'a> {
    fields: &'a Fields<String, Json>,
    of: MapSchema<'a>,
}

/// Which entries of a map expressions see, and with which schema.
#[derive(Clone, Copy, Debug)]
enum MapSchema<'a> {
    None,
    /// Declared fields, by their escaped names. A resource has fields that are always declared.
    Fields {
        schema: &'a dyn Schema,
        resource: bool,
    },
    Entries(&'a dyn Schema),
    /// The metadata of a resource.
    Names,
}

/// Converts JSON; field names are not escaped.
pub fn of_json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::Json(JsonList { items, schema: None })),
        Json::Object(fields) => Value::Map(Map::Json(JsonMap { fields, of: MapSchema::None })),
    }
}

/// Converts JSON to a value of its own.
pub fn of_owned_json(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::list(items.iter().map(of_owned_json).collect()),
        Json::Object(fields) => {
            of_fields(fields.iter().map(|(name, value)| (name.clone(), of_owned_json(value))))
        }
    }
}

/// A map of named values, of which some may have failed.
pub fn of_results<'a>(entries: BTreeMap<String, Result<Value<'a>, CelError>>) -> Value<'a> {
    Value::Map(Map::Named(Arc::new(entries)))
}

/// A map of named values.
fn of_fields<'a>(entries: impl Iterator<Item = (String, Value<'a>)>) -> Value<'a> {
    Value::map(entries.map(|(name, value)| (Key::String(Arc::from(name)), value)).collect())
}

/// Converts JSON with its schema. A value that does not fit the schema is an error where it is read.
pub(crate) fn of_typed<'a>(
    json: &'a Json,
    schema: &'a dyn Schema,
    resource: bool,
) -> Result<Value<'a>, CelError> {
    if json.is_null() {
        if schema.is_nullable() {
            return Ok(Value::Null);
        }
        return failed("invalid data, got null for schema with nullable=false");
    }
    match (schema.shape(), json) {
        (SchemaShape::IntOrString, Json::String(_)) => Ok(of_json(json)),
        (SchemaShape::IntOrString, Json::Number(number)) if number.is_i64() => Ok(of_json(json)),
        (SchemaShape::IntOrString, _) => {
            failed("invalid data, expected XIntOrString value to be either a string or integer")
        }
        (SchemaShape::Object, Json::Object(fields)) => {
            let of = match schema.entries() {
                _ if resource || schema.has_fields() => MapSchema::Fields { schema, resource },
                Some(entries) => MapSchema::Entries(entries),
                None => MapSchema::Fields { schema, resource },
            };
            Ok(Value::Map(Map::Json(JsonMap { fields, of })))
        }
        (SchemaShape::Object, _) => {
            failed("invalid data, expected a map for the provided schema with type=object")
        }
        (SchemaShape::Array, Json::Array(items)) => {
            Ok(Value::List(List::Json(JsonList { items, schema: Some(schema) })))
        }
        (SchemaShape::Array, _) => {
            failed("invalid data, expected an array for the provided schema with type=array")
        }
        (SchemaShape::String, Json::String(text)) => of_format(text, schema.format()),
        (SchemaShape::Number, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        (SchemaShape::Integer, Json::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Ok(Value::Int(int)),
            // The field's decoders read a whole number of any notation as an integer.
            (None, Some(double)) if double.fract() == 0.0 && double.abs() < 9.2e18 => {
                Ok(Value::Int(double as i64))
            }
            _ => failed("invalid data, expected int, got float64"),
        },
        (SchemaShape::Boolean, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (SchemaShape::Any, json) => Ok(of_json(json)),
        (shape, _) => failed(format!("invalid data, expected {}", shape.expected())),
    }
}

impl SchemaShape {
    fn expected(self) -> &'static str {
        match self {
            SchemaShape::String => "string",
            SchemaShape::Integer => "int",
            SchemaShape::Number => "float",
            SchemaShape::Boolean => "bool",
            _ => "another type",
        }
    }
}

fn of_format<'a>(text: &'a str, format: &str) -> Result<Value<'a>, CelError> {
    Ok(match format {
        "date-time" => match Moment::parse(text) {
            Some(at) => Value::Timestamp(at),
            None => return failed(format!("Invalid date-time formatted string {text}")),
        },
        "date" => match Moment::parse(&format!("{text}T00:00:00Z")) {
            Some(at) => Value::Timestamp(at),
            None => return failed(format!("Invalid date formatted string {text}")),
        },
        "duration" => match parse_duration(text) {
            Some(span) => Value::Duration(span),
            None => return failed(format!("Invalid duration {text}")),
        },
        "byte" => {
            let plain: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
            match base64::engine::general_purpose::STANDARD.decode(plain) {
                Ok(bytes) => Value::Bytes(Arc::from(bytes)),
                Err(_) => return failed(format!("Invalid byte formatted string {text}")),
            }
        }
        _ => Value::String(Text::Borrowed(text)),
    })
}

impl<'a> JsonList<'a> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<Result<Value<'a>, CelError>> {
        let item = self.items.get(index)?;
        Some(match self.schema.and_then(Schema::items) {
            Some(schema) => of_typed(item, schema, schema.is_resource()),
            None => Ok(of_json(item)),
        })
    }

    pub(super) fn is_unordered(&self) -> bool {
        self.identity() != ItemIdentity::Position
    }

    /// How items are told apart when lists are joined.
    pub(super) fn identity(&self) -> ItemIdentity<'a> {
        self.schema.map_or(ItemIdentity::Position, Schema::identity)
    }
}

impl<'a> JsonMap<'a> {
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<Result<Value<'a>, CelError>> {
        let untyped = |name: &str| self.fields.get(name).map(|value| Ok(of_json(value)));
        match self.of {
            MapSchema::None => untyped(key),
            MapSchema::Entries(schema) => {
                self.fields.get(key).map(|value| of_typed(value, schema, schema.is_resource()))
            }
            MapSchema::Names if matches!(key, "name" | "generateName") => untyped(key),
            MapSchema::Names => None,
            MapSchema::Fields { schema, resource } => {
                let name = unescape(key);
                let value = self.fields.get(&*name).filter(|value| !value.is_null())?;
                match &*name {
                    "apiVersion" | "kind" if resource => Some(Ok(of_json(value))),
                    "metadata" if resource => Some(match value {
                        Json::Object(fields) => {
                            Ok(Value::Map(Map::Json(JsonMap { fields, of: MapSchema::Names })))
                        }
                        _ => failed("invalid data, expected a map for the provided schema with type=object"),
                    }),
                    name => schema.field(name).map(|inner| of_typed(value, inner, inner.is_resource())),
                }
            }
        }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let names = self.fields.keys().filter(|name| match self.of {
            MapSchema::Fields { schema, resource } => {
                let known = resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                known || schema.field(name).is_some()
            }
            MapSchema::Names => matches!(name.as_str(), "name" | "generateName"),
            _ => true,
        });
        let is_fields = matches!(self.of, MapSchema::Fields { .. });
        let escaped = |name: &String| match escape(name).filter(|_| is_fields) {
            Some(escaped) => Key::String(Arc::from(escaped)),
            None => Key::String(Arc::from(name.as_str())),
        };
        names.map(escaped).collect()
    }
}

/// Converts a value to JSON; each step is charged.
pub fn to_json(value: &Value<'_>, budget: &mut Budget) -> Result<Json, CelError> {
    let type_path = match value {
        Value::Message(message) => Some(message.type_name()),
        _ => None,
    };
    write(value, type_path, budget)
}

fn write(value: &Value<'_>, type_path: Option<&str>, budget: &mut Budget) -> Result<Json, CelError> {
    budget.charge(1 + value.size() / 10)?;
    Ok(match value {
        Value::Message(message) => return write_message(message, type_path, budget),
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => Json::from(*value),
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::List(list) => {
            let mut items = Vec::new();
            for item in list.items()? {
                items.push(write(&item, type_path, budget)?);
            }
            Json::Array(items)
        }
        Value::Map(map) => {
            let mut entries = Fields::new();
            for key in map.keys() {
                let found = map.get(&key.value());
                match (key, found) {
                    (Key::String(name), Some(value)) => {
                        entries.insert(name.to_string(), write(&value?, type_path, budget)?);
                    }
                    (Key::String(_), None) => {}
                    (Key::Int(key), _) => return failed(format!("map key {key} is not a string")),
                    (Key::Uint(key), _) => return failed(format!("map key {key} is not a string")),
                    (Key::Bool(key), _) => return failed(format!("map key {key} is not a string")),
                }
            }
            Json::Object(entries)
        }
        Value::Timestamp(at) => Json::String(at.to_string()),
        Value::Duration(span) => {
            Json::String(match (span / 1_000_000_000, (span % 1_000_000_000).unsigned_abs()) {
                (seconds, 0) => format!("{seconds}s"),
                (seconds, nanos) => format!("{seconds}.{}s", format!("{nanos:09}").trim_end_matches('0')),
            })
        }
        other => return failed(format!("a value of type '{}' could not marshal to JSON", other.type_name())),
    })
}

fn write_message(
    message: &Message<'_>,
    type_path: Option<&str>,
    budget: &mut Budget,
) -> Result<Json, CelError> {
    let (found, wanted) = (message.type_name(), type_path.unwrap_or(message.type_name()));
    if found != wanted {
        return failed(format!(
            "type mismatch: unexpected type name \"{found}\", expected \"{wanted}\", which matches field name path from root Object type"
        ));
    }
    let mut fields = Fields::new();
    for (name, value) in message.fields() {
        // The value of a JSON patch operation may have any path.
        let below = (found != JSON_PATCH).then(|| format!("{found}.{name}"));
        fields.insert(name.clone(), write(value, below.as_deref(), budget)?);
    }
    Ok(Json::Object(fields))
}
