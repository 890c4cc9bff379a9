//! `additionalPrinterColumns`: the columns of `kubectl get` for custom resources.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use crate::meta;
use crate::table::column::age_of;
use crate::value::text;

/// A printer column.
#[derive(Debug)]
pub struct PrinterColumn {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<JsonPath>,
}

impl PrinterColumn {
    /// The columns of a definition; the age if it has none.
    pub(super) fn parse_all(columns: &Value) -> Vec<PrinterColumn> {
        match columns.as_array() {
            Some(columns) if !columns.is_empty() => columns.iter().map(PrinterColumn::parse).collect(),
            _ => vec![PrinterColumn::parse(&json!({
                "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
                "description": "CreationTimestamp is a timestamp representing the server time when this object was created.",
            }))],
        }
    }

    fn parse(column: &Value) -> PrinterColumn {
        let path = text(&column["jsonPath"]);
        let description = match text(&column["description"]) {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            given => given.to_owned(),
        };
        PrinterColumn {
            name: text(&column["name"]).to_owned(),
            kind: text(&column["type"]).to_owned(),
            format: text(&column["format"]).to_owned(),
            description,
            priority: column["priority"].as_i64().unwrap_or(0),
            path: JsonPath::parse(path),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
        let Some(value) = found.first().filter(|value| !value.is_null()) else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("string", Value::String(_)) => (*value).clone(),
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => {
                number.as_i64().or(number.as_f64().map(|float| float as i64)).into()
            }
            ("number", Value::Number(number)) => number.as_f64().into(),
            ("boolean", Value::Bool(_)) => (*value).clone(),
            ("date", Value::String(since)) => match since.parse::<Timestamp>() {
                Ok(_) => age_of(value, now).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

pub(crate) fn definitions(columns: &[PrinterColumn]) -> Value {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace. Is required when creating resources.",
    });
    let more = columns.iter().map(|column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    });
    std::iter::once(name).chain(more).collect()
}

pub(crate) fn cells(columns: &[PrinterColumn], object: &Value, now: Timestamp) -> Value {
    let more = columns.iter().map(|column| column.cell(object, now));
    std::iter::once(Value::from(meta::name(object))).chain(more).collect()
}
