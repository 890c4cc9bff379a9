//! Label selectors (the text of a query or the object of a specification) and field selectors.

mod extract;
mod field;
mod label;
mod selectable;

pub use field::FieldSelector;
pub use label::LabelSelector;
pub use selectable::{Labels, Selectable};

/// A selector that cannot be parsed; the text is the API's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSelector(pub String);
