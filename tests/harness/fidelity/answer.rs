//! One answer of an API server, as it is compared.

use serde_json::{Map, Value};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub code: u16,
    /// Texts of the Warning headers, in order.
    pub warnings: Vec<String>,
    /// The object, or the Status of a refusal.
    pub body: Value,
    /// The object's managed fields, once they have been taken out of it.
    pub managers: Value,
}

impl Answer {
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn resource_version(&self) -> &str {
        self.body["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    /// Takes the managed fields out of the object: fields by manager, operation, version and subresource.
    pub fn take_managers(&mut self) {
        let metadata = self.body.get_mut("metadata").and_then(Value::as_object_mut);
        let Some(entries) = metadata.and_then(|metadata| metadata.shift_remove("managedFields")) else {
            return;
        };
        let mut managers = Map::new();
        for entry in entries.as_array().into_iter().flatten() {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let subresource = text("subresource");
            let mut name = format!("{} {} {}", text("manager"), text("operation"), text("apiVersion"));
            if !subresource.is_empty() {
                name = format!("{name} {subresource}");
            }
            managers.insert(name, entry["fieldsV1"].clone());
        }
        self.managers = Value::Object(managers);
    }
}

/// The text of a Warning header: `299 - "text"`, quotes and backslashes escaped.
pub fn warning_text(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest);
    let mut text = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            '"' => break,
            other => text.push(other),
        }
    }
    text
}
