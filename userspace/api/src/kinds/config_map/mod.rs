//! ConfigMaps: their keys and sizes; Secrets share the checks.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::entry_count;
use crate::table::column::{AGE, Column, NAME};

/// Bytes of data in one ConfigMap or Secret (core.MaxSecretSize).
const DATA_MAX: usize = 1 << 20;

pub(super) const ROW: Row = Row {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "api.core.v1.ConfigMap",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Data", |object, _| {
        (entry_count(&object["data"]) + entry_count(&object["binaryData"])).into()
    }),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    validate_data(object, &["data", "binaryData"], errors);
    for key in object["binaryData"].as_object().into_iter().flat_map(|data| data.keys()) {
        if !object["data"][key].is_null() {
            let detail = "duplicate of key present in data";
            errors.invalid(&Path::new("binaryData").key(key), &Value::from(key.as_str()), detail);
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_immutable(new, old, &["data", "binaryData"], errors);
}

pub(super) fn validate_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if new[*field] != old[*field] {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}

pub(super) fn validate_data(object: &Value, fields: &[&str], errors: &mut Errors) {
    let mut size = 0;
    for field in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            let path = Path::new(field).key(key);
            let valid = key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
            if key.is_empty() || key.len() > 253 || !valid || key == "." || key == ".." {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                errors.invalid(&path, &Value::from(key.as_str()), detail);
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > DATA_MAX + DATA_MAX / 3 || fields.len() > 1 && size > DATA_MAX {
        errors.too_long(&Path::new(fields.first().copied().unwrap_or("data")), DATA_MAX);
    }
}
