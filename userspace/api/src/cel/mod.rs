//! CEL (Common Expression Language), as Kubernetes' API servers of v1.36 evaluate it.
//!
//! In: an expression, the types of the names that it may use, then values by name and a budget. Out: the type and the
//! largest cost of the expression, or upstream's compilation errors; then a value, or a [`CelError`]. One table of functions
//! serves the check and the evaluation, and one cost model, which is upstream's, bounds both: no expression can hang or
//! exhaust the server.

mod authorizer;
mod budget;
mod check;
mod cost;
mod device;
mod eval;
mod functions;
mod json;
mod library;
mod literals;
mod message;
mod moment;
mod names;
mod program;
mod request;
mod scope;
mod syntax;
#[cfg(test)]
mod tests;
mod types;
mod unify;
mod values;

pub use authorizer::{AccessCheck, AccessDecision, Authorize, Authorizer};
pub use budget::{Budget, CelError, PER_CALL, PER_CONDITIONS, PER_OBJECT};
pub(crate) use device::device_scope;
pub use eval::evaluate;
pub(crate) use json::of_typed;
pub use json::{ItemIdentity, Schema, SchemaShape, of_json, of_owned_json, of_results, to_json};
pub use moment::parse_duration;
pub(crate) use names::{escape, is_identifier};
pub use program::{Checked, Program, compile};
pub use request::RequestScope;
pub use scope::Scope;
pub(crate) use types::REQUEST;
pub use types::{Declared, ObjectType, Type};
pub use values::{Bindings, List, Map, Message, Text, Value};
pub(crate) use values::{JSON_PATCH, OBJECT};

/// A value that may be absent.
pub(crate) fn to_optional(value: Option<Value<'_>>) -> Value<'_> {
    Value::Optional(value.map(std::sync::Arc::new))
}
