//! The named types that expressions of mutations build, and their fields.

use super::authorizer;
use super::types::Type;
use super::values::{JSON_PATCH, OBJECT, TEXT_FIELDS};

/// Whether the type exists.
pub(super) fn is_type(name: &str) -> bool {
    name == JSON_PATCH
        || name.strip_prefix(OBJECT).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The type of a field of a named type; `None` if the type lacks it.
pub(super) fn field_type(of: &Type, field: &str) -> Option<Type> {
    match of {
        Type::Library(name) => authorizer::field_type(name, field),
        Type::Message(name) if **name != *JSON_PATCH => Some(Type::Dyn),
        _ if field == "value" => Some(Type::Dyn),
        _ => TEXT_FIELDS.contains(&field).then_some(Type::String),
    }
}
