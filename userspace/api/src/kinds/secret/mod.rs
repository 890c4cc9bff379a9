//! Secrets: their keys and sizes, and the keys that each type must have.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::config_map::{validate_data, validate_immutable};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{entry_count, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, set_default};

pub(super) const ROW: Row = Row {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "api.core.v1.Secret",
    selectable_fields: &["metadata.name", "metadata.namespace", "type"],
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", |object, _| text_cell(&object["type"])),
    Column::text("Data", |object, _| entry_count(&object["data"]).into()),
    AGE,
];

/// `stringData` is write-only: it becomes `data`.
fn default(object: &mut Value) {
    let strings = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
    if let Some(Value::Object(strings)) = strings {
        set_default(object, "data", Value::Object(Map::new()));
        for (key, value) in strings {
            object["data"][key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
    set_default(object, "type", "Opaque");
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_data(object, &["data"], errors);
    let required: &[&str] = match object["type"].as_str() {
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if object["data"][*key].is_null() {
            errors.required(&Path::new("data").key(key), "");
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["type"], &old["type"], &Path::new("type"), errors);
    validate_immutable(new, old, &["data"], errors);
}
