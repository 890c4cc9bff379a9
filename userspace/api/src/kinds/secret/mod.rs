//! Secrets: their keys and sizes, and the keys that each type must have.

mod pem;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::config_map::{validate_data, validate_immutable};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{entry_count, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, set_default, set_zero_default, text};

pub(super) const ROW: Row = Row {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "api.core.v1.Secret",
    selectable_fields: &["metadata.name", "metadata.namespace", "type"],
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, warnings, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", |object, _| text_cell(&object["type"])),
    Column::text("Data", |object, _| entry_count(&object["data"]).into()),
    AGE,
];

/// The type of Secrets that hold a token of a service account, and the annotation that names the account.
const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

/// `stringData` is write-only: it becomes `data`.
fn default(object: &mut Value) {
    let strings = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
    if let Some(Value::Object(strings)) = strings {
        set_default(object, "data", Value::Object(Map::new()));
        for (key, value) in strings {
            object["data"][key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
    set_zero_default(object, "type", "Opaque");
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_data(object, &["data"], errors);
    let (data, path) = (&object["data"], |key: &str| Path::new("data").key(key));
    let mut required = |keys: &[&str]| {
        for key in keys.iter().filter(|key| data[**key].is_null()) {
            errors.required(&path(key), "");
        }
    };
    match text(&object["type"]) {
        ACCOUNT_TOKEN if text(&object["metadata"]["annotations"][ACCOUNT_NAME]).is_empty() => {
            errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
        }
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockercfg" => validate_json(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => validate_json(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            required(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if text(&data["ssh-privatekey"]).is_empty() => {
            errors.required(&path("ssh-privatekey"), "");
        }
        _ => {}
    }
}

/// The key must hold a JSON object.
fn validate_json(data: &Value, key: &str, errors: &mut Errors) {
    let at = Path::new("data").key(key);
    let Some(encoded) = data[key].as_str() else { return errors.required(&at, "") };
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        errors.invalid(&at, &"<secret contents redacted>".into(), &error.to_string());
    }
}

fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    if object["type"] != "kubernetes.io/tls" {
        return Vec::new();
    }
    let part = |key: &str| STANDARD.decode(text(&object["data"][key])).unwrap_or_default();
    pem::pair_problem(&part("tls.crt"), &part("tls.key")).into_iter().collect()
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["type"], &old["type"], &Path::new("type"), errors);
    validate_immutable(new, old, &["data"], errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::error_texts;

    #[test]
    fn a_secret_has_what_its_type_promises() {
        let config = STANDARD.encode("{}");
        for (kind, annotation, data, wanted) in [
            ("Opaque", "", json!({}), ""),
            ("service-account-token", "a", json!({}), ""),
            (
                "service-account-token",
                "",
                json!({}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required",
            ),
            ("tls", "", json!({"tls.crt": "", "tls.key": ""}), ""),
            ("tls", "", json!({"tls.crt": ""}), "data[tls.key]: Required value"),
            ("dockerconfigjson", "", json!({".dockerconfigjson": config}), ""),
            (
                "dockerconfigjson",
                "",
                json!({".dockerconfigjson": "YQ=="}),
                "data[.dockerconfigjson]: Invalid value: \"<secret",
            ),
            ("dockercfg", "", json!({}), "data[.dockercfg]: Required value"),
            ("dockercfg", "", json!({".dockercfg": "W10="}), "data[.dockercfg]: Invalid value"),
            ("basic-auth", "", json!({"password": ""}), ""),
            ("basic-auth", "", json!({}), "data[username]: Required value"),
            ("ssh-auth", "", json!({"ssh-privatekey": ""}), "data[ssh-privatekey]: Required value"),
        ] {
            let kind = if kind == "Opaque" { kind.to_owned() } else { format!("kubernetes.io/{kind}") };
            let annotations = json!({ACCOUNT_NAME: annotation});
            let secret = json!({"type": kind, "metadata": {"annotations": annotations}, "data": data});
            let found = error_texts(validate, &secret);
            assert!(
                found.contains(wanted) && found.is_empty() == wanted.is_empty(),
                "{kind} {data}: {found}"
            );
        }
    }
}
