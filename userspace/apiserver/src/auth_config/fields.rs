//! Reads the fields of a configuration file one by one. A field that nothing asks for is an error, and so is one of another
//! type.

use std::cell::RefCell;

use serde_json::{Map, Value};
use skep_api::cel::parse_duration;

use super::ConfigError;
use crate::body;
use crate::yaml_duplicates::{duplicate_keys, unmarshal_errors};

/// What is wrong with the form of a file.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<String>>);

impl Problems {
    fn add(&self, problem: String) {
        self.0.borrow_mut().push(problem);
    }

    /// The error for a file of this form, unless it has none of them.
    pub(super) fn check(self) -> Result<(), ConfigError> {
        let all = self.0.into_inner();
        if all.is_empty() {
            return Ok(());
        }
        Err(ConfigError::new(format!("strict decoding error: {}", all.join(", "))))
    }
}

/// The fields of one object that were not read yet. Dropping it reports those that nothing asked for.
pub(super) struct Fields<'a> {
    /// Of the object; empty for the file.
    path: String,
    left: Map<String, Value>,
    problems: &'a Problems,
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for name in self.left.keys() {
            self.problems.add(format!("unknown field \"{}\"", self.path_of(name)));
        }
    }
}

impl<'a> Fields<'a> {
    /// The file's fields after its kind, which is one of those of the group in one of these versions.
    pub(super) fn of_file(
        text: &str,
        kind: &str,
        versions: &[&str],
        problems: &'a Problems,
    ) -> Result<Fields<'a>, ConfigError> {
        let value = body::json_or_yaml(text.as_bytes()).map_err(|status| ConfigError::new(status.message))?;
        let twice = duplicate_keys(text.as_bytes());
        if !twice.is_empty() {
            problems.add(unmarshal_errors(&twice));
        }
        let Value::Object(left) = value else { return Err(ConfigError::new("the file is no object")) };
        let mut fields = Fields { path: String::new(), left, problems };
        let (found, version) = (fields.text("kind"), fields.text("apiVersion"));
        if found.is_empty() {
            fields.left.clear();
            return Err(ConfigError::new("Object 'Kind' is missing in the file"));
        }
        let known = version.strip_prefix("apiserver.config.k8s.io/").is_some_and(|it| versions.contains(&it));
        if found == kind && known {
            return Ok(fields);
        }
        fields.left.clear();
        let supported: Vec<String> =
            versions.iter().map(|version| format!("{kind} of apiserver.config.k8s.io/{version}")).collect();
        Err(ConfigError::new(format!(
            "no kind {found:?} is registered for version {version:?}; supported: {}",
            supported.join(", ")
        )))
    }

    /// Reports none of the fields.
    pub(super) fn ignore(mut self) {
        self.left.clear();
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn take<T>(&mut self, name: &str, what: &str, read: impl FnOnce(Value) -> Option<T>) -> Option<T> {
        let value = self.left.remove(name).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.problems.add(format!("field \"{}\" must be {what}", self.path_of(name)));
        }
        read
    }

    pub(super) fn optional_text(&mut self, name: &str) -> Option<String> {
        self.take(name, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    /// Empty if the field is absent.
    pub(super) fn text(&mut self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name, "a boolean", |value| value.as_bool())
    }

    /// In nanoseconds; 0 if the field is absent.
    pub(super) fn duration(&mut self, name: &str) -> i64 {
        let read = |value: Value| parse_duration(value.as_str()?);
        self.take(name, "a duration, such as \"30s\"", read).unwrap_or_default()
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        let read = |value: Value| serde_json::from_value(value).ok();
        self.take(name, "a list of strings", read).unwrap_or_default()
    }

    pub(super) fn object(&mut self, name: &str) -> Option<Fields<'a>> {
        let (path, problems) = (self.path_of(name), self.problems);
        self.take(name, "an object", |value| match value {
            Value::Object(left) => Some(Fields { path, left, problems }),
            _ => None,
        })
    }

    /// An object without fields if the field is absent.
    pub(super) fn object_or_empty(&mut self, name: &str) -> Fields<'a> {
        let (path, problems) = (self.path_of(name), self.problems);
        self.object(name).unwrap_or(Fields { path, left: Map::new(), problems })
    }

    pub(super) fn objects(&mut self, name: &str) -> Vec<Fields<'a>> {
        let (path, problems) = (self.path_of(name), self.problems);
        let read = |value: Value| {
            let Value::Array(items) = value else { return None };
            let items = items.into_iter().enumerate().map(|(at, item)| match item {
                Value::Object(left) => Some(Fields { path: format!("{path}[{at}]"), left, problems }),
                _ => None,
            });
            items.collect()
        };
        self.take(name, "a list of objects", read).unwrap_or_default()
    }
}
