//! Values of named types that mutating expressions build: `Object` and its nested types are a Kubernetes object, checked
//! against its schema when it is used; `JSONPatch` is one operation of a JSON patch.

use std::collections::BTreeMap;

use kube_cel::cel::Value;
use kube_cel::cel::objects::Opaque;

use super::budget::CelError;
use super::types::{REQUEST, Type};

pub(crate) const OBJECT: &str = "Object";
pub(crate) const JSON_PATCH: &str = "JSONPatch";
/// Text fields of an operation; `value` may have any type.
const TEXT_FIELDS: [&str; 3] = ["op", "path", "from"];

/// A value of a named type.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    type_name: String,
    fields: BTreeMap<String, Value>,
}

/// Equality is CEL's, where NaN differs from itself. That is harmless, because messages are never map keys.
impl Eq for Message {}

impl Opaque for Message {
    fn runtime_type_name(&self) -> &str {
        &self.type_name
    }
}

/// Whether the type exists.
pub(super) fn is_type(name: &str) -> bool {
    name == JSON_PATCH
        || name.strip_prefix(OBJECT).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The type of a field; `None` if the type lacks it.
pub(super) fn field_type(type_name: &str, field: &str) -> Option<Type> {
    match field {
        _ if type_name != JSON_PATCH => Some(Type::Dyn),
        "value" => Some(Type::Dyn),
        field => TEXT_FIELDS.contains(&field).then_some(Type::String(REQUEST)),
    }
}

impl Message {
    pub(super) fn new(type_name: &str, fields: BTreeMap<String, Value>) -> Result<Message, CelError> {
        let failed = |why: String| Err(CelError::Evaluation(why));
        if type_name == JSON_PATCH {
            for (name, value) in &fields {
                match (field_type(JSON_PATCH, name), value) {
                    (None, _) => return failed(format!("unexpected JSONPatchType field: {name}")),
                    (Some(Type::String(_)), Value::String(_)) | (Some(Type::Dyn), _) => {}
                    _ => return failed(format!("unexpected type for JSONPatchType '{name}' field")),
                }
            }
        }
        Ok(Message { type_name: type_name.to_owned(), fields })
    }

    /// The message in a value, if it is one.
    pub fn of(value: &Value) -> Option<&Message> {
        match value {
            Value::Opaque(opaque) => opaque.downcast_ref::<Message>(),
            _ => None,
        }
    }

    /// Whether it is a whole object.
    pub fn is_object(&self) -> bool {
        self.type_name == OBJECT
    }

    /// Whether it is an operation of a JSON patch.
    pub fn is_operation(&self) -> bool {
        self.type_name == JSON_PATCH
    }

    pub(crate) fn type_name(&self) -> &str {
        &self.type_name
    }

    pub(super) fn fields(&self) -> &BTreeMap<String, Value> {
        &self.fields
    }

    /// The value of a field. An unset text of an operation is empty.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let unset = || {
            (self.type_name == JSON_PATCH && TEXT_FIELDS.contains(&name))
                .then(|| Value::String(Default::default()))
        };
        self.fields.get(name).cloned().or_else(unset)
    }
}
