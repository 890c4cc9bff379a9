//! The schema of a version as text, and parsed once it is needed: most kinds of a cluster have no objects.

use std::sync::OnceLock;

use serde_json::Value;

use super::schema::Structural;

#[derive(Debug)]
pub(super) struct LazySchema {
    /// `openAPIV3Schema` as JSON.
    source: Box<str>,
    parsed: OnceLock<Structural>,
}

impl LazySchema {
    pub(super) fn new(source: String) -> LazySchema {
        LazySchema { source: source.into(), parsed: OnceLock::new() }
    }

    pub(super) fn parsed(&self) -> &Structural {
        self.parsed.get_or_init(|| Structural::parse(&self.source()))
    }

    /// The text was a JSON value; null stands for what cannot be read.
    pub(super) fn source(&self) -> Value {
        serde_json::from_str(&self.source).unwrap_or(Value::Null)
    }
}
