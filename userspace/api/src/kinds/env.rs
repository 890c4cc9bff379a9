//! The environment of a container: variables, where their values come from, and references to fields of the pod.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::file_path::validate_no_backsteps;
use crate::names::{NameForm, validate_name, validate_optional_name};
use crate::resources::quantity;
use crate::value::{items, items_mut, require_text, set_zero_default, text};

/// Fields of the pod that a variable may have as its value.
const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of the pod that a file of a volume may have as its content.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Every field that a reference can name, in one of the two forms.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Whether a reference is the value of a variable or the content of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Variable,
    File,
}

pub(super) fn default_env(container: &mut Value) {
    for source in items_mut(container, "env").filter_map(|variable| variable.get_mut("valueFrom")) {
        default_references(source);
    }
}

/// Defaults of `fieldRef` and `resourceFieldRef`, of a variable or of a file.
pub(super) fn default_references(source: &mut Value) {
    if let Some(field) = source.get_mut("fieldRef").filter(|field| field.is_object()) {
        set_zero_default(field, "apiVersion", "v1");
    }
    if let Some(resource) = source.get_mut("resourceFieldRef").filter(|resource| resource.is_object()) {
        set_zero_default(resource, "divisor", "0");
    }
}

/// Checks `env`. Names may occur twice: the last one counts.
pub(super) fn validate_env(container: &Value, path: &Path, errors: &mut Errors) {
    for (i, variable) in items(container, "env").enumerate() {
        let at = path.child("env").index(i);
        if require_text(variable, "name", &at, errors) {
            validate_optional_name(variable, "name", NameForm::Variable, &at, errors);
        }
        if variable["valueFrom"].is_object() {
            validate_source(variable, &at.child("valueFrom"), errors);
        }
    }
}

fn validate_source(variable: &Value, path: &Path, errors: &mut Errors) {
    let source = &variable["valueFrom"];
    let mut count = 0;
    for field in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let (reference, at) = (&source[field], path.child(field));
        if !reference.is_object() {
            continue;
        }
        count += 1;
        match field {
            "fieldRef" => validate_field_ref(reference, Use::Variable, &at, errors),
            "resourceFieldRef" => validate_resource_ref(reference, Use::Variable, &at, errors),
            "fileKeyRef" => validate_file_key(reference, &at, errors),
            _ => validate_key_ref(reference, &at, errors),
        }
    }
    let detail = match count {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if !text(&variable["value"]).is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid(path, &json!(""), detail);
}

/// A key of a ConfigMap or Secret.
fn validate_key_ref(reference: &Value, path: &Path, errors: &mut Errors) {
    validate_name(text(&reference["name"]), NameForm::Subdomain, &path.child("name"), errors);
    if require_text(reference, "key", path, errors) {
        validate_optional_name(reference, "key", NameForm::ConfigKey, path, errors);
    }
}

fn validate_file_key(reference: &Value, path: &Path, errors: &mut Errors) {
    if require_text(reference, "key", path, errors) {
        validate_optional_name(reference, "key", NameForm::Variable, path, errors);
    }
    if require_text(reference, "volumeName", path, errors) {
        validate_optional_name(reference, "volumeName", NameForm::Label, path, errors);
    }
    if require_text(reference, "path", path, errors) {
        validate_no_backsteps(&reference["path"], &path.child("path"), errors);
    }
}

/// Checks a reference to a field of the pod: `metadata.name` or `metadata.labels['key']`.
pub(super) fn validate_field_ref(reference: &Value, used: Use, path: &Path, errors: &mut Errors) {
    if !require_text(reference, "apiVersion", path, errors)
        || !require_text(reference, "fieldPath", path, errors)
    {
        return;
    }
    let (version, field) = (text(&reference["apiVersion"]), text(&reference["fieldPath"]));
    let (name, key) = subscripted(field).map_or((field, None), |(name, key)| (name, Some(key)));
    let conversion = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else if key.is_some() && !matches!(name, "metadata.annotations" | "metadata.labels") {
        Some(format!("field label does not support subscript: {field}"))
    } else if !KNOWN_FIELDS.contains(&name) && name != "spec.host" {
        Some(format!("field label not supported: {field}"))
    } else {
        None
    };
    if let Some(problem) = conversion {
        let detail = format!("error converting fieldPath: {problem}");
        return errors.invalid(&path.child("fieldPath"), &reference["fieldPath"], &detail);
    }
    match key {
        Some(key) if name == "metadata.annotations" => {
            validate_name(&key.to_lowercase(), NameForm::LabelKey, path, errors);
        }
        Some(key) => validate_name(key, NameForm::LabelKey, path, errors),
        None => {
            let name = if name == "spec.host" { "spec.nodeName" } else { name };
            let supported: &[&str] = match used {
                Use::Variable => &VARIABLE_FIELDS,
                Use::File => &FILE_FIELDS,
            };
            if !supported.contains(&name) {
                errors.not_supported(&path.child("fieldPath"), &name.into(), supported);
            }
        }
    }
}

/// Splits `metadata.labels['key']`.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    let (name, key) = field.strip_suffix("']")?.split_once("['")?;
    (!name.is_empty()).then_some((name, key))
}

/// Checks a reference to a resource of a container.
pub(super) fn validate_resource_ref(reference: &Value, used: Use, path: &Path, errors: &mut Errors) {
    let resource = text(&reference["resource"]);
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    let is_named = used == Use::Variable || require_text(reference, "containerName", path, errors);
    if is_named
        && require_text(reference, "resource", path, errors)
        && !RESOURCES.contains(&resource)
        && !huge
    {
        errors.not_supported(&path.child("resource"), &reference["resource"], &RESOURCES);
    }
    let Some(divisor) = quantity(&reference["divisor"]).filter(|divisor| !divisor.is_zero()) else { return };
    let divisor = divisor.to_string();
    let (allowed, what): (&[&str], _) = match resource {
        "limits.cpu" | "requests.cpu" => {
            (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned())
        }
        _ => {
            let name = match resource {
                "limits.memory" | "requests.memory" => "memory",
                "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
                _ if huge => "hugepages",
                _ => return,
            };
            let values = BYTE_DIVISORS.join(", ");
            let what = format!("only divisor's values {values} are supported with the {name} resource");
            (&BYTE_DIVISORS, what)
        }
    };
    if !allowed.contains(&divisor.as_str()) {
        errors.invalid(&path.child("divisor"), &reference["resource"], &what);
    }
}

/// Checks `envFrom`.
pub(super) fn validate_env_from(container: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("envFrom");
    for (i, source) in items(container, "envFrom").enumerate() {
        let at = path.index(i);
        validate_optional_name(source, "prefix", NameForm::Variable, &at, errors);
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            if !source[field].is_object() {
                continue;
            }
            count += 1;
            let at = at.child(field);
            if require_text(&source[field], "name", &at, errors) {
                // As upstream, a last dash is valid.
                let name = text(&source[field]["name"]);
                let masked = name.strip_suffix('-').filter(|rest| !rest.is_empty()).unwrap_or(name);
                for problem in crate::names::name_problems(masked, NameForm::Subdomain) {
                    errors.invalid(&at.child("name"), &name.into(), problem);
                }
            }
        }
        match count {
            0 => errors.invalid(&path, &json!(""), "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, &json!(""), "may not have more than one field specified at a time"),
        }
    }
}
