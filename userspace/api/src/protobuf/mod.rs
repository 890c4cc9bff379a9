//! Decodes Kubernetes protobuf bodies to JSON values, by the field numbers of the schema facts.
//!
//! A body is `k8s\0` and a `runtime.Unknown` message: type meta in field 1, the object's bytes in field 2.

pub(crate) mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use crate::find_kind;
use crate::schema::{Field, Scalar, Shape, Type, Zero, named};
use crate::value::is_zero;
use wire::{Reader, Wire};

const MAGIC: &[u8] = b"k8s\0";
/// Nesting of messages; upstream's types need less than half of it.
const MAX_DEPTH: usize = 64;

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the body does not begin with the protobuf prefix of Kubernetes")]
    NoPrefix,
    #[error("the body is truncated or no protobuf")]
    Malformed,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
}

/// Decodes a body to an object with `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(DecodeError::NoPrefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader::new(unknown) {
        match field.ok_or(DecodeError::Malformed)? {
            (1, Wire::Bytes(meta)) => {
                for field in Reader::new(meta) {
                    match field.ok_or(DecodeError::Malformed)? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = schema_of(&api_version, &kind);
    let schema = schema
        .ok_or_else(|| DecodeError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    read_message(schema, "", raw, &mut object, MAX_DEPTH)?;
    Ok(Value::Object(object))
}

fn schema_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match find_kind(group, version, kind) {
        Some(found) => named(found.schema),
        // Bodies that are not stored: options, scales, evictions.
        None => crate::schema::of_kind(&format!("{group}/{version}/{kind}")),
    }
}

fn string(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Malformed)
}

/// Reads the fields whose numbers begin with `prefix`: empty, or the path such as `2.` of an inlined message.
fn read_message(
    schema: &'static Type,
    prefix: &str,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Malformed)?;
    for item in Reader::new(bytes) {
        let (number, wire) = item.ok_or(DecodeError::Malformed)?;
        let at = format!("{prefix}{number}");
        if let Some(field) = schema.fields.iter().find(|field| field.number() == Some(at.as_str())) {
            read_field(field, wire, out, depth)?;
            continue;
        }
        let within = format!("{at}.");
        let inline = schema.fields.iter().any(|field| field.number().is_some_and(|n| n.starts_with(&within)));
        if let (true, Wire::Bytes(inner)) = (inline, wire) {
            read_message(schema, &within, inner, out, depth)?;
        }
    }
    Ok(())
}

fn read_field(
    field: &'static Field,
    wire: Wire,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    match field.shape {
        Shape::List(inner) => {
            let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Err(DecodeError::Malformed) };
            match (Shape::of(inner), wire) {
                // Numbers may be packed into one field.
                (
                    shape @ Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Boolean),
                    Wire::Bytes(packed),
                ) => {
                    for number in wire::varints(packed) {
                        items.push(value(shape, Wire::Varint(number.ok_or(DecodeError::Malformed)?), depth)?);
                    }
                }
                (shape, wire) => items.push(value(shape, wire, depth)?),
            }
        }
        Shape::Map(inner) => {
            let Wire::Bytes(entry) = wire else { return Err(DecodeError::Malformed) };
            let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Err(DecodeError::Malformed) };
            let (key, value) = read_entry(Shape::of(inner), entry, depth)?;
            map.insert(key, value);
        }
        shape => {
            let value = value(shape, wire, depth)?;
            // Protobuf always encodes what is no pointer in Go.
            if !(field.zero == Zero::Dropped && is_zero(&value)) {
                out.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn read_entry(shape: Shape, entry: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
    let (mut key, mut found) = (String::new(), None);
    for item in Reader::new(entry) {
        match (item.ok_or(DecodeError::Malformed)?, shape) {
            ((1, Wire::Bytes(text)), _) => key = string(text)?,
            // A map of lists wraps each list in a message.
            ((2, Wire::Bytes(bytes)), Shape::List(inner)) => {
                let mut items = Vec::new();
                for item in Reader::new(bytes) {
                    let (_, wire) = item.ok_or(DecodeError::Malformed)?;
                    items.push(value(Shape::of(inner), wire, depth)?);
                }
                found = Some(Value::Array(items));
            }
            ((2, wire), shape) => found = Some(value(shape, wire, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| zero(shape))))
}

fn zero(shape: Shape) -> Value {
    match shape {
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Number) => 0.into(),
        Shape::Scalar(Scalar::Boolean) => false.into(),
        Shape::Scalar(_) => "".into(),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) | Shape::Type(_) => Value::Object(Map::new()),
    }
}

fn value(shape: Shape, wire: Wire, depth: usize) -> Result<Value, DecodeError> {
    let scalar = match shape {
        Shape::Type(name) => {
            let schema = named(name).ok_or(DecodeError::Malformed)?;
            match schema.shape {
                Some(_) if name.starts_with(SCHEMA_OR_PREFIX) => {
                    return schema_or(wire, name.ends_with("StringArray"), depth);
                }
                Some(Shape::Scalar(scalar)) => scalar,
                _ => {
                    let Wire::Bytes(bytes) = wire else { return Err(DecodeError::Malformed) };
                    let mut out = Map::new();
                    read_message(schema, "", bytes, &mut out, depth)?;
                    return Ok(Value::Object(out));
                }
            }
        }
        Shape::Scalar(scalar) => scalar,
        Shape::List(_) | Shape::Map(_) => return Err(DecodeError::Malformed),
    };
    match (scalar, wire) {
        (Scalar::Int32, Wire::Varint(n)) => Ok((n as i32).into()),
        (Scalar::Int64, Wire::Varint(n)) => Ok((n as i64).into()),
        (Scalar::Boolean, Wire::Varint(n)) => Ok((n != 0).into()),
        (Scalar::Number, Wire::Fixed64(bits)) => {
            Ok(Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number))
        }
        (Scalar::String, Wire::Bytes(text)) => string(text).map(Value::String),
        (Scalar::Base64, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (Scalar::Time, Wire::Bytes(bytes)) => time(bytes, is_micro_time(shape)),
        (Scalar::Quantity, Wire::Bytes(bytes)) => Ok(text_field(bytes, 1)?.into()),
        (Scalar::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes),
        (Scalar::Object | Scalar::Any, Wire::Bytes(bytes)) => embedded(bytes),
        _ => Err(DecodeError::Malformed),
    }
}

/// Prefix of the types in a custom resource's schema that are a schema or something else.
const SCHEMA_OR_PREFIX: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOr";
const SCHEMA: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// A schema (field 1, or field 2 after a boolean in field 1), or several schemas or names (field 2).
fn schema_or(wire: Wire, names: bool, depth: usize) -> Result<Value, DecodeError> {
    let Wire::Bytes(bytes) = wire else { return Err(DecodeError::Malformed) };
    let schema = |bytes| value(Shape::Type(SCHEMA), Wire::Bytes(bytes), depth);
    let (mut one, mut many) = (None, Vec::new());
    let mut allows = None;
    for item in Reader::new(bytes) {
        match item.ok_or(DecodeError::Malformed)? {
            (1, Wire::Varint(n)) => allows = Some(n != 0),
            (1, Wire::Bytes(bytes)) => one = Some(schema(bytes)?),
            (2, Wire::Bytes(bytes)) if allows.is_some() => one = Some(schema(bytes)?),
            (2, Wire::Bytes(bytes)) if names => many.push(string(bytes)?.into()),
            (2, Wire::Bytes(bytes)) => many.push(schema(bytes)?),
            _ => {}
        }
    }
    Ok(one.or(allows.map(Value::Bool)).unwrap_or(Value::Array(many)))
}

fn text_field(bytes: &[u8], wanted: u32) -> Result<String, DecodeError> {
    for item in Reader::new(bytes) {
        if let (number, Wire::Bytes(text)) = item.ok_or(DecodeError::Malformed)?
            && number == wanted
        {
            return string(text);
        }
    }
    Ok(String::new())
}

fn is_micro_time(shape: Shape) -> bool {
    matches!(shape, Shape::Type(name) if name.ends_with(".MicroTime"))
}

/// Seconds and nanoseconds since 1970; a zero time is null, as in JSON. `metav1.Time` has seconds, `metav1.MicroTime` always
/// has six digits more.
fn time(bytes: &[u8], micro: bool) -> Result<Value, DecodeError> {
    let (mut seconds, mut nanos) = (None, 0);
    for item in Reader::new(bytes) {
        match item.ok_or(DecodeError::Malformed)? {
            (1, Wire::Varint(n)) => seconds = Some(n as i64),
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let at = Timestamp::new(seconds, nanos).map_err(|_| DecodeError::Malformed)?;
    let form = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(at.strftime(form).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Reader::new(bytes) {
        match item.ok_or(DecodeError::Malformed)? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(bytes)) => text = string(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// A message whose first field is JSON text.
fn embedded(bytes: &[u8]) -> Result<Value, DecodeError> {
    for item in Reader::new(bytes) {
        if let (1, Wire::Bytes(raw)) = item.ok_or(DecodeError::Malformed)? {
            return serde_json::from_slice(raw).map_err(|_| DecodeError::Malformed);
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = wire::encode_varint(u64::from(number) << 3 | 2);
        out.extend(wire::encode_varint(bytes.len() as u64));
        out.extend_from_slice(bytes);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_decoded() {
        let metadata = field(1, b"cm");
        let entry = [field(1, b"a"), field(2, b"b")].concat();
        let raw = [field(1, &metadata), field(2, &entry)].concat();
        let wanted =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}});
        assert_eq!(decode(&body("v1", "ConfigMap", &raw)), Ok(wanted));
    }

    #[test]
    fn the_source_of_a_volume_is_inlined() {
        let source = field(2, b"");
        let volume = [field(1, b"v"), field(2, &source)].concat();
        let raw = field(2, &field(1, &volume));
        let pod = decode(&body("v1", "Pod", &raw)).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    }

    #[test]
    fn fields_with_acronyms_have_numbers() {
        // Container: livenessProbe 10; Probe: handler 1; ProbeHandler: httpGet 2; path 1, port 2 (an integer), scheme 4.
        let port = [wire::encode_varint(2 << 3), vec![80]].concat();
        let get = [field(1, b"/z"), field(2, &port), field(4, b"HTTP")].concat();
        let container = [field(1, b"c"), field(10, &field(1, &field(2, &get)))].concat();
        let pod = decode(&body("v1", "Pod", &field(2, &field(2, &container)))).unwrap();
        let probe = &pod["spec"]["containers"][0]["livenessProbe"];
        assert_eq!(probe["httpGet"], json!({"path": "/z", "port": 80, "scheme": "HTTP"}));
    }

    #[test]
    fn the_schema_of_a_custom_resource_is_decoded() {
        let varint = |number: u32, n: u8| [wire::encode_varint(u64::from(number) << 3), vec![n]].concat();
        let leaf = field(5, b"string");
        // JSONSchemaProps: type 5, items 24, additionalProperties 30, default 8.
        let additional = [varint(1, 1), field(2, &leaf)].concat();
        let schema =
            [field(24, &field(1, &leaf)), field(30, &additional), field(8, &field(1, br#"{"a":1}"#))]
                .concat();
        let found = value(Shape::Type(SCHEMA), Wire::Bytes(&schema), MAX_DEPTH).unwrap();
        let leaf = json!({"type": "string"});
        assert_eq!(found, json!({"items": leaf, "additionalProperties": leaf, "default": {"a": 1}}));
        let closed = value(Shape::Type(SCHEMA), Wire::Bytes(&field(30, &varint(1, 0))), MAX_DEPTH).unwrap();
        assert_eq!(closed, json!({"additionalProperties": false}));
    }

    #[test]
    fn an_unset_zero_is_omitted_and_a_set_zero_is_kept() {
        let zero = |number: u32| [wire::encode_varint(u64::from(number) << 3), vec![0]].concat();
        // Container: name 1, stdin 16, securityContext 15 with privileged 2.
        let container = [field(1, b"c"), zero(16), field(15, &zero(2))].concat();
        let pod = decode(&body("v1", "Pod", &field(2, &field(2, &container)))).unwrap();
        let wanted = json!([{"name": "c", "securityContext": {"privileged": false}}]);
        assert_eq!(pod["spec"]["containers"], wanted);
    }

    #[test]
    fn times_have_the_digits_of_their_type() {
        // Timestamp: seconds 1, nanoseconds 2. Lease: spec 2; its renewTime 4. ObjectMeta: creationTimestamp 8.
        let varint = |number: u32, n: u64| {
            [wire::encode_varint(u64::from(number) << 3), wire::encode_varint(n)].concat()
        };
        let at = |nanos: u64| [varint(1, 1_600_000_000), varint(2, nanos)].concat();
        for (nanos, micro) in [(0, "000000"), (7_000, "000007"), (120_000_999, "120000")] {
            let raw = [field(1, &field(8, &at(nanos))), field(2, &field(4, &at(nanos)))].concat();
            let lease = decode(&body("coordination.k8s.io/v1", "Lease", &raw)).unwrap();
            assert_eq!(lease["spec"]["renewTime"], format!("2020-09-13T12:26:40.{micro}Z"));
            assert_eq!(lease["metadata"]["creationTimestamp"], "2020-09-13T12:26:40Z");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(raw: Vec<u8>) {
            let _ = decode(&body("v1", "Pod", &raw));
            let _ = decode(&raw);
        }
    }
}
