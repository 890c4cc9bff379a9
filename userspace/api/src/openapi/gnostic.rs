//! Encodes the OpenAPI v2 document as protobuf (gnostic's `openapiv2.Document`), without paths. In: schemas as JSON. Out: bytes.

use serde_json::{Map, Value};

use crate::protobuf::wire::encode_varint;

/// Writes a field that is a message, a string or bytes.
fn field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    out.extend(encode_varint(number << 3 | 2));
    out.extend(encode_varint(bytes.len() as u64));
    out.extend_from_slice(bytes);
}

fn text(out: &mut Vec<u8>, number: u64, value: &Value) {
    if let Some(text) = value.as_str() {
        field(out, number, text.as_bytes());
    }
}

/// A document while it is written. Field numbers are those of gnostic's OpenAPIv2.proto.
pub(super) struct Document {
    out: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    pub(super) fn new(title: &str, version: &str) -> Document {
        let (mut out, mut info) = (Vec::new(), Vec::new());
        field(&mut info, 1, title.as_bytes());
        field(&mut info, 2, version.as_bytes());
        field(&mut out, 1, b"2.0");
        field(&mut out, 2, &info);
        field(&mut out, 8, &[]);
        Document { out, definitions: Vec::new() }
    }

    pub(super) fn schema(&mut self, name: &str, value: &Value) {
        field(&mut self.definitions, 1, &named_schema(name, value));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        field(&mut self.out, 9, &self.definitions);
        self.out
    }
}

fn named_schemas(schemas: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in schemas {
        field(&mut out, 1, &named_schema(name, value));
    }
    out
}

fn named_schema(name: &str, value: &Value) -> Vec<u8> {
    let mut named = Vec::new();
    field(&mut named, 1, name.as_bytes());
    field(&mut named, 2, &schema(value));
    named
}

fn schema(json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("$ref", value) => text(&mut out, 1, value),
            ("format", value) => text(&mut out, 2, value),
            ("description", value) => text(&mut out, 4, value),
            ("default", value) => field(&mut out, 5, &any(value)),
            ("required", Value::Array(names)) => names.iter().for_each(|name| text(&mut out, 19, name)),
            ("enum", Value::Array(values)) => {
                values.iter().for_each(|value| field(&mut out, 20, &any(value)))
            }
            ("additionalProperties", Value::Bool(allowed)) => {
                field(&mut out, 21, &[2 << 3, u8::from(*allowed)]);
            }
            ("additionalProperties", value) => wrapped(&mut out, 21, &schema(value)),
            ("type", Value::String(kind)) => wrapped(&mut out, 22, kind.as_bytes()),
            ("items", value) => wrapped(&mut out, 23, &schema(value)),
            ("allOf", Value::Array(all)) => all.iter().for_each(|one| field(&mut out, 24, &schema(one))),
            ("properties", Value::Object(fields)) => field(&mut out, 25, &named_schemas(fields)),
            (name, value) if name.starts_with("x-") => {
                let mut named = Vec::new();
                field(&mut named, 1, name.as_bytes());
                field(&mut named, 2, &any(value));
                field(&mut out, 31, &named);
            }
            _ => {}
        }
    }
    out
}

/// Writes a field that is a message with `inner` as its field 1.
fn wrapped(out: &mut Vec<u8>, number: u64, inner: &[u8]) {
    let mut message = Vec::new();
    field(&mut message, 1, inner);
    field(out, number, &message);
}

/// gnostic's `Any`: a value as YAML, here as JSON.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 2, format!("{value}\n").as_bytes());
    out
}
