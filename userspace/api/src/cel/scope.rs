//! The names that an expression may use.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::types::{Declared, Type};

/// The types of names, and what expressions may build.
#[derive(Clone, Debug, Default)]
pub struct Scope<'a> {
    names: BTreeMap<&'a str, Cow<'a, Declared>>,
    /// Whether expressions may build `Object{...}` and `JSONPatch{...}`.
    pub(super) mutation: bool,
}

impl<'a> Scope<'a> {
    pub fn new() -> Scope<'a> {
        Scope::default()
    }

    pub fn with(mut self, name: &'a str, of: impl Into<Declared>) -> Scope<'a> {
        self.names.insert(name, Cow::Owned(of.into()));
        self
    }

    pub fn with_borrowed(mut self, name: &'a str, of: &'a Declared) -> Scope<'a> {
        self.names.insert(name, Cow::Borrowed(of));
        self
    }

    /// For expressions of mutations.
    pub fn of_mutations(mut self) -> Scope<'a> {
        self.mutation = true;
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Declared> {
        self.names.get(name).map(|of| &**of)
    }

    /// The type that is named so, if one is: `int`, `google.protobuf.Duration`.
    pub(super) fn type_named(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "google.protobuf.Duration" | "duration" => Type::Duration,
            "google.protobuf.Timestamp" | "timestamp" => Type::Timestamp,
            "int" => Type::Int,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "optional_type" => Type::optional(Type::Dyn),
            "string" => Type::String,
            "type" => Type::Type(std::sync::Arc::new(Type::Dyn)),
            "uint" => Type::Uint,
            name => Type::Library(super::library::TYPES.iter().find(|known| **known == name)?),
        })
    }
}
