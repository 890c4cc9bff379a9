//! Static types of expressions, with size bounds for the cost estimate.

/// The size limit of a request in bytes; it bounds values without a bound of their own.
pub(crate) const REQUEST: u64 = 3 << 20;

/// The static type of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Any value; its type is known at evaluation.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    /// With the maximum number of bytes.
    String(u64),
    Bytes,
    Timestamp,
    Duration,
    /// The items' type and their maximum number.
    List(Box<Type>, u64),
    /// The values' type and their maximum number; keys are strings.
    Map(Box<Type>, u64),
    /// Fields by their escaped names.
    Object(Vec<(String, Type)>),
    Optional(Box<Type>),
    /// A type with a name of its own, such as `Object.spec`.
    Message(String),
}

impl Type {
    /// The minimum number of bytes of a value in a request.
    pub(crate) fn min_bytes(&self) -> u64 {
        match self {
            Type::Bool => 4,
            Type::String(_) | Type::Bytes | Type::List(..) | Type::Map(..) | Type::Object(_) => 2,
            Type::Timestamp => 22,
            Type::Duration => 4,
            _ => 1,
        }
    }

    /// The maximum size of a value: bytes of a text, items of a list.
    pub(super) fn max_size(&self) -> u64 {
        match self {
            Type::String(max) => *max,
            Type::Bytes => REQUEST,
            Type::List(_, max) | Type::Map(_, max) => *max,
            Type::Dyn => REQUEST,
            Type::Optional(inner) => inner.max_size(),
            _ => 1,
        }
    }

    /// The name in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Type::Dyn => "dyn".to_owned(),
            Type::Null => "null".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Int => "int".to_owned(),
            Type::Uint => "uint".to_owned(),
            Type::Double => "double".to_owned(),
            Type::String(_) => "string".to_owned(),
            Type::Bytes => "bytes".to_owned(),
            Type::Timestamp => "timestamp".to_owned(),
            Type::Duration => "duration".to_owned(),
            Type::List(inner, _) => format!("list({})", inner.name()),
            Type::Map(inner, _) => format!("map(string, {})", inner.name()),
            Type::Object(_) => "object".to_owned(),
            Type::Optional(inner) => format!("optional_type({})", inner.name()),
            Type::Message(name) => name.clone(),
        }
    }

    /// Whether values of both types may be compared or assigned; `Dyn` is compatible with all.
    pub(super) fn is_compatible(&self, other: &Type) -> bool {
        use Type::{Bytes, Duration, Dyn, List, Map, Message, Null, Object, Optional, String, Timestamp};
        match (self, other) {
            (Dyn, _) | (_, Dyn) => true,
            (Null, Optional(_) | List(..) | Map(..) | Object(_) | Message(_) | Timestamp | Duration)
            | (Optional(_) | List(..) | Map(..) | Object(_) | Message(_) | Timestamp | Duration, Null) => {
                true
            }
            (String(_), String(_)) | (Bytes, Bytes) => true,
            (List(a, _), List(b, _)) | (Map(a, _), Map(b, _)) | (Optional(a), Optional(b)) => {
                a.is_compatible(b)
            }
            (Object(_) | Map(..), Object(_) | Map(..)) => true,
            (a, b) => a == b,
        }
    }
}
