//! Errors that name a field, with upstream's words: `spec.ports[0].port: Invalid value: 0: must be ...`.

use std::fmt;

use serde_json::Value;

/// Where in an object: `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Path {
        Path(name.to_owned())
    }

    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One reason why an object is not valid; becomes a cause of a 422 Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    /// `FieldValueRequired` and the like.
    pub reason: &'static str,
    /// Without the field.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// What is wrong with an object, collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error of any kind; the path of the object itself is shown as upstream shows it.
    pub(crate) fn push(&mut self, path: &Path, reason: &'static str, message: String) {
        let field = if path.0.is_empty() { "<nil>".to_owned() } else { path.to_string() };
        self.0.push(FieldError { field, reason, message });
    }

    pub fn required(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueRequired", with_detail("Required value", detail));
    }

    pub fn invalid(&mut self, path: &Path, value: &Value, detail: &str) {
        self.push(
            path,
            "FieldValueInvalid",
            with_detail(&format!("Invalid value: {}", shown(value)), detail),
        );
    }

    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueForbidden", with_detail("Forbidden", detail));
    }

    pub fn duplicate(&mut self, path: &Path, value: &Value) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {}", shown(value)));
    }

    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {max} {items}");
        self.push(path, "FieldValueTooMany", message);
    }

    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.push(path, "FieldValueTooLong", format!("Too long: may not be more than {max} bytes"));
    }

    /// Of a value too large to be shown.
    pub fn invalid_whole(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueInvalid", with_detail("Invalid value", detail));
    }

    pub fn not_supported(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let mut supported: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        supported.sort();
        let message =
            format!("Unsupported value: {}: supported values: {}", shown(value), supported.join(", "));
        self.push(path, "FieldValueNotSupported", message);
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// Values as upstream shows them: strings quoted, everything else as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}

/// What a validation finds, in one line, for tests.
#[cfg(test)]
pub(crate) fn told(validate: fn(&Value, &mut Errors), object: &Value) -> String {
    let mut errors = Errors::default();
    validate(object, &mut errors);
    errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
