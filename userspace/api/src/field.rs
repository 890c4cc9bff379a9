//! Errors that name a field, in upstream's words: `spec.ports[0].port: Invalid value: 0: must be ...`.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// The path of a field: `spec.containers[0].name`. A child shares the path above it: keys of maps are the client's, and a
/// long one would otherwise be copied for everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Option<Arc<Part>>);

#[derive(Debug, PartialEq, Eq)]
struct Part {
    above: Path,
    name: Name,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Field(String),
    Index(usize),
    Key(String),
}

impl Path {
    /// The path of a top-level field; empty for the object itself.
    pub fn new(name: &str) -> Path {
        if name.is_empty() { Path(None) } else { Path(None).below(Name::Field(name.to_owned())) }
    }

    fn below(&self, name: Name) -> Path {
        Path(Some(Arc::new(Part { above: self.clone(), name })))
    }

    /// The path of a field below this one.
    pub fn child(&self, name: &str) -> Path {
        self.below(Name::Field(name.to_owned()))
    }

    /// The path of a list item: `[0]`.
    pub fn index(&self, index: usize) -> Path {
        self.below(Name::Index(index))
    }

    /// The path of a map entry: `[key]`.
    pub fn key(&self, key: &str) -> Path {
        self.below(Name::Key(key.to_owned()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(part) = &self.0 else { return Ok(()) };
        part.above.fmt(f)?;
        match &part.name {
            Name::Field(name) if part.above.0.is_none() => f.write_str(name),
            Name::Field(name) => write!(f, ".{name}"),
            Name::Index(index) => write!(f, "[{index}]"),
            Name::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// One reason why an object is not valid; becomes a cause of a 422 Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field.
    pub field: String,
    /// Upstream's cause type, such as `FieldValueRequired`.
    pub reason: &'static str,
    /// The text without the field.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Errors of one object that are kept: each may be as long as a part of the body.
const MAX_ERRORS: usize = 1_000;

/// The errors of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    /// Whether the object is valid.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error; the path of the object itself is `<nil>`, as in upstream.
    pub(crate) fn push(&mut self, path: &Path, reason: &'static str, message: String) {
        if self.0.len() >= MAX_ERRORS {
            return;
        }
        let field = if path.0.is_none() { "<nil>".to_owned() } else { path.to_string() };
        self.0.push(FieldError { field, reason, message });
    }

    /// A required field is missing.
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueRequired", with_detail("Required value", detail));
    }

    /// The value is invalid.
    pub fn invalid(&mut self, path: &Path, value: &Value, detail: &str) {
        self.push(
            path,
            "FieldValueInvalid",
            with_detail(&format!("Invalid value: {}", display(value)), detail),
        );
    }

    /// The field must not be set or changed.
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueForbidden", with_detail("Forbidden", detail));
    }

    /// The value occurs twice in a list.
    pub fn duplicate(&mut self, path: &Path, value: &Value) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {}", display(value)));
    }

    /// As [`Self::duplicate`], with what must be unique.
    pub fn duplicate_with(&mut self, path: &Path, value: &Value, detail: &str) {
        let message = with_detail(&format!("Duplicate value: {}", display(value)), detail);
        self.push(path, "FieldValueDuplicate", message);
    }

    /// The list has more than `max` items.
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {max} {items}");
        self.push(path, "FieldValueTooMany", message);
    }

    /// The text has more than `max` bytes.
    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.push(path, "FieldValueTooLong", format!("Too long: may not be more than {max} bytes"));
    }

    /// The value names something that does not exist.
    pub fn not_found(&mut self, path: &Path, value: &Value, detail: &str) {
        self.push(path, "FieldValueNotFound", with_detail(&format!("Not found: {}", display(value)), detail));
    }

    /// The value is invalid and too large to print.
    pub fn invalid_whole(&mut self, path: &Path, detail: &str) {
        self.push(path, "FieldValueInvalid", with_detail("Invalid value", detail));
    }

    /// The value is none of the supported ones, which are shown in this order.
    pub fn not_supported(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", display(value), supported.join(", "));
        self.push(path, "FieldValueNotSupported", message);
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// A value in upstream's notation: JSON.
fn display(value: &Value) -> String {
    value.to_string()
}

/// The errors of a validation in one line, for tests.
#[cfg(test)]
pub(crate) fn error_texts(validate: fn(&Value, &mut Errors), object: &Value) -> String {
    let mut errors = Errors::default();
    validate(object, &mut errors);
    errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
