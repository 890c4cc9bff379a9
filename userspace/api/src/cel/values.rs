//! JSON as CEL sees it. What a string or a number stands for beyond that, a schema may say.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value as Json;

use super::functions;

/// Without a schema: maps by their own keys.
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

/// A text by the format that its schema names: a time, a span, bytes.
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

/// Values by their names.
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

/// A field's name as an identifier: reserved words and signs are written out.
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
    fn names_are_escaped_as_upstream_does() {
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
