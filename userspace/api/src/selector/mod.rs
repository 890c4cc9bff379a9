//! Selectors: of labels, as text in a query or as an object in a specification; of fields.

mod field;
mod label;
mod pick;
mod picked;

pub use field::FieldSelector;
pub use label::LabelSelector;
pub use picked::{Labels, Picked};

/// A selector that cannot be read; the text is what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSelector(pub String);
