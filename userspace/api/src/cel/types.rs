//! Types of expressions, as far as they are known before anything is evaluated.

/// Bytes of a request at most: what nothing else bounds, this does.
pub(crate) const REQUEST: u64 = 3 << 20;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything: what it is shows when it is evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    /// With the most bytes that it may have.
    String(u64),
    Bytes,
    Timestamp,
    Duration,
    /// Items, and the most of them.
    List(Box<Type>, u64),
    /// Values by names, and the most of them.
    Map(Box<Type>, u64),
    /// Fields by their names in expressions.
    Object(Vec<(String, Type)>),
    Optional(Box<Type>),
    /// A type with a name of its own, such as `Object.spec`.
    Message(String),
}

impl Type {
    /// The fewest bytes that a value takes in a request.
    pub(crate) fn smallest(&self) -> u64 {
        match self {
            Type::Bool => 4,
            Type::String(_) | Type::Bytes | Type::List(..) | Type::Map(..) | Type::Object(_) => 2,
            Type::Timestamp => 22,
            Type::Duration => 4,
            _ => 1,
        }
    }

    /// The most that a value may hold: bytes of a text, items of a list.
    pub(super) fn most(&self) -> u64 {
        match self {
            Type::String(most) => *most,
            Type::Bytes => REQUEST,
            Type::List(_, most) | Type::Map(_, most) => *most,
            Type::Dyn => REQUEST,
            Type::Optional(inner) => inner.most(),
            _ => 1,
        }
    }

    /// As messages write it.
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

    /// Whether values of both may be compared: unknown ones always.
    pub(super) fn meets(&self, other: &Type) -> bool {
        use Type::{Bytes, Duration, Dyn, List, Map, Message, Null, Object, Optional, String, Timestamp};
        match (self, other) {
            (Dyn, _) | (_, Dyn) => true,
            (Null, Optional(_) | List(..) | Map(..) | Object(_) | Message(_) | Timestamp | Duration)
            | (Optional(_) | List(..) | Map(..) | Object(_) | Message(_) | Timestamp | Duration, Null) => {
                true
            }
            (String(_), String(_)) | (Bytes, Bytes) => true,
            (List(a, _), List(b, _)) | (Map(a, _), Map(b, _)) | (Optional(a), Optional(b)) => a.meets(b),
            (Object(_) | Map(..), Object(_) | Map(..)) => true,
            (a, b) => a == b,
        }
    }
}
