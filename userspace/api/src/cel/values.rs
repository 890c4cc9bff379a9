//! Converts between JSON and CEL values without a schema; `custom/typed.rs` converts with one.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value as Json;

use super::budget::{Budget, CelError};
use super::functions;
use super::message::{JSON_PATCH, Message};

/// Converts JSON; field names are not escaped.
pub fn of_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => list(items.iter().map(of_json).collect()),
        Json::Object(fields) => of_fields(fields.iter().map(|(name, value)| (name.clone(), of_json(value)))),
    }
}

/// Converts a value to JSON. A shared value is charged each time it occurs. A message's type must be named after the path
/// of its field.
pub fn to_json(value: &Value, budget: &mut Budget) -> Result<Json, CelError> {
    let type_path = Message::of(value).map(Message::type_name);
    write(value, type_path, budget)
}

fn write(value: &Value, type_path: Option<&str>, budget: &mut Budget) -> Result<Json, CelError> {
    budget.charge(1 + functions::size(value) / 10)?;
    if let Some(message) = Message::of(value) {
        let (found, wanted) = (message.type_name(), type_path.unwrap_or(message.type_name()));
        if found != wanted {
            return Err(CelError::Evaluation(format!(
                "type mismatch: unexpected type name \"{found}\", expected \"{wanted}\", which matches field name path from root Object type"
            )));
        }
        let fields = message.fields().iter().map(|(name, value)| {
            // The value of a JSON patch operation may have any path.
            let below = (found != JSON_PATCH).then(|| format!("{found}.{name}"));
            Ok((name.clone(), write(value, below.as_deref(), budget)?))
        });
        return fields.collect::<Result<_, _>>().map(Json::Object);
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::UInt(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => {
            Json::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
        }
        Value::List(items) => {
            let items = items.iter().map(|item| write(item, type_path, budget));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| match key {
                Key::String(name) => Ok((name.to_string(), write(value, type_path, budget)?)),
                key => Err(CelError::Evaluation(format!("map key {key} is not a string"))),
            });
            Json::Object(entries.collect::<Result<_, _>>()?)
        }
        Value::Timestamp(at) => Json::String(at.to_rfc3339().replace("+00:00", "Z")),
        Value::Duration(span) => {
            Json::String(match (span.num_seconds(), span.subsec_nanos().unsigned_abs()) {
                (seconds, 0) => format!("{seconds}s"),
                (seconds, nanos) => format!("{seconds}.{}s", format!("{nanos:09}").trim_end_matches('0')),
            })
        }
        other => {
            let why = format!("a value of type '{:?}' could not marshal to JSON", other.type_of());
            return Err(CelError::Evaluation(why));
        }
    })
}

/// Converts a text by the format of its schema: to a timestamp, a duration or bytes.
pub(crate) fn of_format(text: &str, format: &str) -> Value {
    let plain = Value::String(Arc::new(text.to_owned()));
    let parsed = match format {
        "date-time" | "datetime" => functions::call(None, "timestamp", vec![plain.clone()]).ok(),
        "date" => {
            let midnight = Value::String(Arc::new(format!("{text}T00:00:00Z")));
            functions::call(None, "timestamp", vec![midnight]).ok()
        }
        "duration" => functions::call(None, "duration", vec![plain.clone()]).ok(),
        "byte" => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text).ok();
            decoded.map(|bytes| Value::Bytes(Arc::new(bytes)))
        }
        _ => None,
    };
    parsed.unwrap_or(plain)
}

pub(crate) fn list(items: Vec<Value>) -> Value {
    Value::List(Arc::new(items))
}

/// A map of values by name.
pub fn of_fields(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let map: HashMap<Key, Value> =
        entries.map(|(name, value)| (Key::String(Arc::new(name)), value)).collect();
    Value::Map(Map { map: Arc::new(map) })
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name is a valid identifier.
pub(crate) fn is_identifier(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty()
        && name.chars().all(is_word)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.contains(&name)
}

/// A field's name as an identifier: reserved words and special characters are escaped, as in upstream.
pub(crate) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        match c {
            '_' if rest.starts_with("__") => {
                out.push_str("__underscores__");
                rest = &rest[2..];
                continue;
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_in_upstream() {
        for (name, wanted) in [
            ("namespace", "__namespace__"),
            ("a_b", "a_b"),
            ("a__b", "a__underscores__b"),
            ("a-b.c/d", "a__dash__b__dot__c__slash__d"),
        ] {
            assert_eq!(escape(name), wanted);
        }
    }
}
