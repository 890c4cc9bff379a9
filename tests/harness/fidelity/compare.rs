//! PURE: two answers to their differences.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;

/// In the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Aspect {
    Code,
    /// The second of two equal applies wrote.
    NotIdempotent,
    FieldMissing,
    FieldExtra,
    Value,
    Managers,
    Reason,
    Causes,
    Message,
    WarningMissing,
    WarningExtra,
}

impl Aspect {
    pub fn title(self) -> &'static str {
        match self {
            Aspect::Code => "code differs",
            Aspect::NotIdempotent => "second apply writes",
            Aspect::FieldMissing => "field only in oracle",
            Aspect::FieldExtra => "field only in Skep",
            Aspect::Value => "value differs",
            Aspect::Managers => "managed fields differ",
            Aspect::Reason => "reason differs",
            Aspect::Causes => "causes differ",
            Aspect::Message => "message differs",
            Aspect::WarningMissing => "warning only in oracle",
            Aspect::WarningExtra => "warning only in Skep",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub aspect: Aspect,
    /// Of a field; empty for the other aspects.
    pub path: String,
    pub oracle: Value,
    pub skep: Value,
}

/// What `skep` answers otherwise than `oracle`; both normalised.
pub fn compare(oracle: &Answer, skep: &Answer) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |aspect, oracle: Value, skep: Value| {
        found.push(Difference { aspect, path: String::new(), oracle, skep });
    };
    for (text, missing) in surplus(&oracle.warnings, &skep.warnings) {
        if missing {
            add(Aspect::WarningMissing, text.into(), Value::Null);
        } else {
            add(Aspect::WarningExtra, Value::Null, text.into());
        }
    }
    if oracle.code != skep.code {
        add(Aspect::Code, code_and_message(oracle), code_and_message(skep));
        return found;
    }
    if !oracle.succeeded() {
        let (wanted, seen) = (&oracle.body, &skep.body);
        if wanted["reason"] != seen["reason"] {
            add(Aspect::Reason, wanted["reason"].clone(), seen["reason"].clone());
        }
        if wanted["details"] != seen["details"] {
            add(Aspect::Causes, wanted["details"].clone(), seen["details"].clone());
        }
        if wanted["message"] != seen["message"] {
            add(Aspect::Message, wanted["message"].clone(), seen["message"].clone());
        }
        return found;
    }
    values(&oracle.body, &skep.body, "", &mut found);
    let mut managers = Vec::new();
    values(&oracle.managers, &skep.managers, "", &mut managers);
    found
        .extend(managers.into_iter().map(|difference| Difference { aspect: Aspect::Managers, ..difference }));
    found
}

fn code_and_message(answer: &Answer) -> Value {
    if answer.succeeded() {
        answer.code.into()
    } else {
        format!("{} {}", answer.code, answer.message()).into()
    }
}

/// Depth is that of a parsed document, which the parser bounds.
fn values(oracle: &Value, skep: &Value, path: &str, found: &mut Vec<Difference>) {
    let mut add = |aspect, path, oracle: &Value, skep: &Value| {
        found.push(Difference { aspect, path, oracle: oracle.clone(), skep: skep.clone() });
    };
    match (oracle, skep) {
        (Value::Object(wanted), Value::Object(seen)) => {
            for (key, value) in wanted.iter().filter(|(key, _)| !seen.contains_key(*key)) {
                add(Aspect::FieldMissing, below(path, key), value, &Value::Null);
            }
            for (key, value) in seen.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                add(Aspect::FieldExtra, below(path, key), &Value::Null, value);
            }
            for (key, value) in wanted {
                if let Some(other) = seen.get(key) {
                    values(value, other, &below(path, key), found);
                }
            }
        }
        (Value::Array(wanted), Value::Array(seen)) if wanted.len() == seen.len() => {
            for (index, (value, other)) in wanted.iter().zip(seen).enumerate() {
                values(value, other, &format!("{path}[{index}]"), found);
            }
        }
        _ if same(oracle, skep) => {}
        _ => add(Aspect::Value, path.to_owned(), oracle, skep),
    }
}

/// `1` and `1.0` are the same JSON number, written by different encoders.
fn same(oracle: &Value, skep: &Value) -> bool {
    match (oracle, skep) {
        (Value::Number(wanted), Value::Number(seen)) => wanted == seen || wanted.as_f64() == seen.as_f64(),
        _ => oracle == skep,
    }
}

fn below(path: &str, key: &str) -> String {
    let key = if key.contains(['.', '/', '[']) { format!("[{key}]") } else { key.to_owned() };
    match path {
        "" => key,
        _ if key.starts_with('[') => format!("{path}{key}"),
        _ => format!("{path}.{key}"),
    }
}

/// Texts of one list only, with whether they are of the first.
fn surplus(oracle: &[String], skep: &[String]) -> Vec<(String, bool)> {
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    oracle.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    skep.iter().for_each(|text| *counts.entry(text).or_default() -= 1);
    counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(text, count)| (text.to_owned(), count > 0))
        .collect()
}
