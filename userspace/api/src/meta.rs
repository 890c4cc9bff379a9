//! ObjectMeta: reading it, checking it, names.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::Kind;

/// Annotations of one object together, in bytes (validation.TotalAnnotationSizeLimitB).
const ANNOTATIONS_MAX: usize = 256 << 10;

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label: begins with a letter.
    Label1035,
    /// Anything that can stand in a path.
    PathSegment,
    /// An IP address in its canonical form.
    Address,
}

/// The metadata of an object, made if it is missing.
pub fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object above"),
    }
}

/// Drops lists and maps of the metadata that hold nothing, as Go's types leave them out.
pub(crate) fn omit_empty(object: &mut Value) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = match &object["metadata"][field] {
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        if is_empty {
            of_mut(object).remove(field);
        }
    }
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// What `autoscaling/v1` Scale shows of an object's metadata.
pub fn of_scale(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(metadata)
}

/// The metadata of an object that stands in another.
pub(crate) fn validate_embedded(object: &Value, path: &Path, errors: &mut Errors) {
    validate_labels(&object["metadata"]["labels"], &path.child("labels"), errors);
    validate_annotations(&object["metadata"]["annotations"], &path.child("annotations"), errors);
}

pub(crate) fn validate(object: &Value, kind: &Kind, errors: &mut Errors) {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    match metadata["name"].as_str() {
        None | Some("") => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => {
            if let Some(problem) = name_problem(name, kind.name_form()) {
                errors.invalid(&path.child("name"), &metadata["name"], problem);
            }
        }
    }
    if kind.namespaced() && metadata["namespace"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("namespace"), "");
    }
    validate_labels(&metadata["labels"], &path.child("labels"), errors);
    validate_annotations(&metadata["annotations"], &path.child("annotations"), errors);
    for (i, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let at = path.child("finalizers").index(i);
        match finalizer.as_str() {
            Some(name) if qualified_name_problem(name).is_none() => {}
            _ => errors.invalid(&at, finalizer, QUALIFIED_NAME),
        }
    }
    validate_owners(&metadata["ownerReferences"], &path.child("ownerReferences"), errors);
}

fn validate_owners(owners: &Value, path: &Path, errors: &mut Errors) {
    let mut controllers = 0;
    for (i, owner) in owners.as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let at = path.index(i).child(field);
                errors.invalid(&at, &owner[field], &format!("{field} must not be empty"));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        errors.invalid(path, owners, "Only one reference can have Controller set to true.");
    }
}

pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_finalizers_update(&new["metadata"], &old["metadata"], errors);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (&new["metadata"][field], &old["metadata"][field]);
        if !new.is_null() && new != old {
            errors.invalid(&Path::new("metadata").child(field), new, "field is immutable");
        }
    }
}

/// What is going away waits for nobody else.
fn validate_finalizers_update(new: &Value, old: &Value, errors: &mut Errors) {
    if !old["deletionTimestamp"].is_string() {
        return;
    }
    let of = |metadata: &Value| metadata["finalizers"].as_array().cloned().unwrap_or_default();
    let before = of(old);
    let mut added: Vec<String> =
        of(new).iter().filter(|name| !before.contains(name)).map(ToString::to_string).collect();
    if !added.is_empty() {
        added.sort_unstable();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.forbidden(&Path::new("metadata").child("finalizers"), &detail);
    }
}

/// Checks a map of labels; also used for selectors and templates.
pub(crate) fn validate_labels(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Some(problem) = qualified_name_problem(key) {
            errors.invalid(path, &Value::from(key.as_str()), problem);
        }
        match value.as_str() {
            Some(text) if is_label_value(text) => {}
            _ => errors.invalid(path, value, LABEL_VALUE),
        }
    }
}

fn validate_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if let Some(problem) = qualified_name_problem(&key.to_lowercase()) {
            errors.invalid(path, &Value::from(key.as_str()), problem);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Why a name is not of the form; `None`: it is.
pub fn name_problem(name: &str, form: NameForm) -> Option<&'static str> {
    match form {
        NameForm::Subdomain if name.len() > 253 => Some("must be no more than 253 bytes"),
        NameForm::Subdomain => (!is_subdomain(name)).then_some(SUBDOMAIN),
        NameForm::Label if name.len() > 63 => Some("must be no more than 63 bytes"),
        NameForm::Label => (!is_label(name)).then_some(LABEL),
        NameForm::Label1035 if name.len() > 63 => Some("must be no more than 63 bytes"),
        NameForm::Label1035 => {
            (!is_label(name) || name.starts_with(|c: char| c.is_ascii_digit())).then_some(LABEL_1035)
        }
        NameForm::PathSegment if matches!(name, "." | "..") => Some("may not be '.' or '..'"),
        NameForm::PathSegment if name.contains('/') => Some("may not contain '/'"),
        NameForm::PathSegment if name.contains('%') => Some("may not contain '%'"),
        NameForm::PathSegment => None,
        NameForm::Address => match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == name => None,
            Ok(_) => Some("must be in canonical form"),
            Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        },
    }
}

pub(crate) fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.split('.').all(is_label)
}

pub(crate) fn is_label(name: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = name.as_bytes();
    ends(bytes.first().copied())
        && ends(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// `[prefix/]name` as label keys have it.
pub(crate) fn qualified_name_problem(name: &str) -> Option<&'static str> {
    let name = match name.split_once('/') {
        Some((prefix, _)) if !is_subdomain(prefix) || prefix.len() > 253 => return Some(SUBDOMAIN),
        Some((_, name)) => name,
        None => name,
    };
    if name.is_empty() || !is_label_value(name) { Some(QUALIFIED_NAME) } else { None }
}

pub(crate) fn is_label_value(value: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let bytes = value.as_bytes();
    let ends = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| inner(*c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_their_form() {
        assert!(name_problem("a.b-c.d0", NameForm::Subdomain).is_none());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert!(name_problem(bad, NameForm::Subdomain).is_some(), "{bad}");
        }
        assert!(name_problem("0a", NameForm::Label).is_none());
        assert!(name_problem("0a", NameForm::Label1035).is_some());
        assert!(name_problem("system:node", NameForm::PathSegment).is_none());
        assert!(name_problem("a/b", NameForm::PathSegment).is_some());
        assert!(qualified_name_problem("kubernetes.io/name").is_none());
        assert!(qualified_name_problem("a/b/c").is_some());
        assert!(is_label_value(""));
        assert!(!is_label_value("a b"));
    }
}
