//! Static types of expressions, and the bounds of values' sizes that the cost estimate reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The size limit of a request in bytes; it bounds values without a bound of their own.
pub(crate) const REQUEST: u64 = 3 << 20;

/// The static type of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    /// Any value; its type is known at evaluation.
    Dyn,
    /// The type of what has an error of its own.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A type of a library, which only its functions read.
    Library(&'static str),
    /// A type that mutations build: `Object`, `Object.spec`, `JSONPatch`.
    Message(Arc<str>),
    /// The type of a type.
    Type(Arc<Type>),
    /// A type parameter of a function, or an unknown of the check.
    Variable(usize),
}

/// The declared fields of an object, by their escaped names.
#[derive(Clone, Debug)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Declared>,
}

impl ObjectType {
    /// A field by its name or, as upstream, by a reserved word that the escaped name stands for.
    pub(super) fn field(&self, name: &str) -> Option<&Declared> {
        self.fields.get(name).or_else(|| {
            super::names::RESERVED.contains(&name).then(|| self.fields.get(&format!("__{name}__"))).flatten()
        })
    }
}

/// A type with the bounds that a schema gives it.
#[derive(Clone, Debug)]
pub struct Declared {
    pub of: Type,
    /// The maximum size: bytes of a text, items of a list, entries of a map.
    pub max: u64,
    /// The minimum bytes of a value in JSON.
    pub min_bytes: u64,
    /// The items of a list or the values of a map.
    pub element: Option<Arc<Declared>>,
}

impl Declared {
    /// A type without parts and without a bound.
    pub fn new(of: Type, min_bytes: u64) -> Declared {
        Declared { of, max: 0, min_bytes, element: None }
    }

    pub fn with_max(mut self, max: u64) -> Declared {
        self.max = max;
        self
    }

    pub fn list(element: Declared, max: u64) -> Declared {
        let of = Type::List(Arc::new(element.of.clone()));
        Declared { of, max, min_bytes: 2, element: Some(Arc::new(element)) }
    }

    /// A map with keys of text.
    pub fn map(element: Declared, max: u64) -> Declared {
        let of = Type::map(Type::String, element.of.clone());
        Declared { of, max, min_bytes: 2, element: Some(Arc::new(element)) }
    }

    pub fn object(name: &str, fields: BTreeMap<String, Declared>, min_bytes: u64) -> Declared {
        Declared::new(Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields })), min_bytes)
    }

    /// An optional value with the bounds of the value.
    pub fn optional(mut self) -> Declared {
        self.of = Type::Optional(Arc::new(self.of));
        self
    }
}

impl From<Type> for Declared {
    fn from(of: Type) -> Declared {
        Declared::new(of, 1)
    }
}

impl Type {
    pub(crate) fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    pub(crate) fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    pub(super) fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    pub(super) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether values have a size of one.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The first type parameter.
    pub(super) fn first_parameter(&self) -> Option<&Type> {
        match self {
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => Some(inner),
            Type::Map(inner) => Some(&inner.0),
            _ => None,
        }
    }

    /// The name of the type itself, as `type()` returns it.
    pub(super) fn own_name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Optional(_) => "optional_type",
            Type::Object(object) => &object.name,
            Type::Library(name) => name,
            Type::Message(name) => name,
            Type::Type(_) => "type",
            Type::Variable(_) => "_var",
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b))
            | (Type::Optional(a), Type::Optional(b))
            | (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Map(a), Type::Map(b)) => a == b,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Library(a), Type::Library(b)) => a == b,
            (Type::Message(a), Type::Message(b)) => a == b,
            (Type::Variable(a), Type::Variable(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

/// The name in messages.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(inner) => write!(f, "list({inner})"),
            Type::Map(inner) => write!(f, "map({}, {})", inner.0, inner.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type(inner) => write!(f, "type({inner})"),
            Type::Variable(number) => write!(f, "_var{number}"),
            other => f.write_str(other.own_name()),
        }
    }
}
