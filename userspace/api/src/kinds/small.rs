//! Kinds whose rules fit in a few lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{immutable, items, set_default};

/// Bytes of data in one ConfigMap or Secret (core.MaxSecretSize).
const DATA_MAX: usize = 1 << 20;

pub(super) fn default_namespace(object: &mut Value) {
    let name = meta::name(object).to_owned();
    let metadata = meta::of_mut(object);
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_object() {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
    if object["metadata"]["deletionTimestamp"].is_null() {
        set_default(object, "spec", json!({}));
        set_default(&mut object["spec"], "finalizers", json!(["kubernetes"]));
    }
    set_default(object, "status", json!({"phase": "Active"}));
}

pub(super) fn validate_node(object: &Value, errors: &mut Errors) {
    for (i, cidr) in items(&object["spec"], "podCIDRs").enumerate() {
        if cidr.as_str().is_none_or(|text| text.parse::<IpNetwork>().is_err()) {
            errors.invalid(&Path::new("spec").child("podCIDRs").index(i), cidr, "must be a valid CIDR value");
        }
    }
    for (i, taint) in items(&object["spec"], "taints").enumerate() {
        if !matches!(taint["effect"].as_str(), Some("NoSchedule" | "PreferNoSchedule" | "NoExecute")) {
            let path = Path::new("spec").child("taints").index(i).child("effect");
            errors.not_supported(&path, &taint["effect"], &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

/// `stringData` is write-only: it becomes `data`.
pub(super) fn default_secret(object: &mut Value) {
    let strings = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
    if let Some(Value::Object(strings)) = strings {
        set_default(object, "data", Value::Object(Map::new()));
        for (key, value) in strings {
            object["data"][key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
    set_default(object, "type", "Opaque");
}

pub(super) fn validate_secret(object: &Value, errors: &mut Errors) {
    validate_data(object, &["data"], errors);
    let wanted: &[&str] = match object["type"].as_str() {
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        _ => &[],
    };
    for key in wanted {
        if object["data"][*key].is_null() {
            errors.required(&Path::new("data").key(key), "");
        }
    }
}

pub(super) fn validate_secret_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["type"], &old["type"], &Path::new("type"), errors);
    validate_immutable(new, old, &["data"], errors);
}

pub(super) fn validate_config_map(object: &Value, errors: &mut Errors) {
    validate_data(object, &["data", "binaryData"], errors);
    for key in object["binaryData"].as_object().into_iter().flat_map(|data| data.keys()) {
        if !object["data"][key].is_null() {
            let detail = "duplicate of key present in data";
            errors.invalid(&Path::new("binaryData").key(key), &Value::from(key.as_str()), detail);
        }
    }
}

pub(super) fn validate_config_map_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_immutable(new, old, &["data", "binaryData"], errors);
}

fn validate_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if new[*field] != old[*field] {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}

fn validate_data(object: &Value, fields: &[&str], errors: &mut Errors) {
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

pub(super) fn validate_lease(object: &Value, errors: &mut Errors) {
    let seconds = &object["spec"]["leaseDurationSeconds"];
    if seconds.as_i64().is_some_and(|n| n <= 0) {
        errors.invalid(&Path::new("spec").child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
}
