//! The embedded facts, parsed once on first use.
//!
//! A type: `T name [=shape] [g=group/version/kind]... [a=map type]`, then its fields: `name shape [!] [key=value]...`. `!` marks
//! required ones. Shapes: `s` string, `i` int32, `l` int64, `n` number, `b` boolean, `d` date-time, `B` base64,
//! `q` quantity, `y` int or string, `o` any object, `x` anything, `@T` a type, `[S` a list, `{S` a map.
//! Attributes: `l` list type, `k` list map keys, `m` merge key, `p` patch strategy, `a` map type, `e` enum,
//! `t` protobuf field number (a path `2.5` through a message that JSON does not show).

use std::collections::HashMap;
use std::sync::LazyLock;

/// Kubernetes' own, by `cargo xtask gen-api`, and ours.
static TEXTS: [&str; 2] = [include_str!("../../schema/v1.36.facts"), include_str!("../../schema/skep.facts")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    String,
    Int32,
    Int64,
    Number,
    Boolean,
    Time,
    Base64,
    Quantity,
    IntOrString,
    Object,
    Any,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Scalar(Scalar),
    /// By its name; see [`named`].
    Type(&'static str),
    /// The rest of the text is the items' shape.
    List(&'static str),
    Map(&'static str),
}

impl Shape {
    /// Reads a shape from its text.
    pub fn of(text: &'static str) -> Shape {
        let mut chars = text.chars();
        let first = chars.next();
        let rest = chars.as_str();
        Shape::Scalar(match first {
            Some('@') => return Shape::Type(rest),
            Some('[') => return Shape::List(rest),
            Some('{') => return Shape::Map(rest),
            Some('s') => Scalar::String,
            Some('i') => Scalar::Int32,
            Some('l') => Scalar::Int64,
            Some('n') => Scalar::Number,
            Some('b') => Scalar::Boolean,
            Some('d') => Scalar::Time,
            Some('B') => Scalar::Base64,
            Some('q') => Scalar::Quantity,
            Some('y') => Scalar::IntOrString,
            Some('o') => Scalar::Object,
            _ => Scalar::Any,
        })
    }
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    attributes: &'static str,
}

impl Field {
    fn attribute(&self, key: &str) -> Option<&'static str> {
        self.attributes.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    /// `atomic`, `set` or `map`.
    pub fn list_type(&self) -> Option<&'static str> {
        self.attribute("l")
    }

    pub fn list_map_keys(&self) -> impl Iterator<Item = &'static str> {
        self.attribute("k").into_iter().flat_map(|keys| keys.split(','))
    }

    /// The key by which a strategic merge patch matches items.
    pub fn merge_key(&self) -> Option<&'static str> {
        self.attribute("m")
    }

    /// Whether the patch strategies name this one: `merge`, `retainKeys` or `replace`.
    pub fn has_patch_strategy(&self, strategy: &str) -> bool {
        self.attribute("p").is_some_and(|all| all.split(',').any(|one| one == strategy))
    }

    /// In protobuf: `3`, or a path.
    pub fn number(&self) -> Option<&'static str> {
        self.attribute("t")
    }

    /// `atomic`, or nothing for a granular map.
    pub fn map_type(&self) -> Option<&'static str> {
        self.attribute("a")
    }

    pub fn values(&self) -> impl Iterator<Item = &'static str> {
        self.attribute("e").into_iter().flat_map(|values| values.split(','))
    }
}

#[derive(Debug)]
pub struct Type {
    pub name: &'static str,
    /// What it is if it has no fields.
    pub shape: Option<Shape>,
    pub fields: Vec<Field>,
    /// `group/version/kind`.
    pub kinds: Vec<&'static str>,
    /// Its fields belong together: one writer owns all of them.
    pub atomic: bool,
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

static TYPES: LazyLock<HashMap<&'static str, Type>> =
    LazyLock::new(|| TEXTS.into_iter().flat_map(parse).collect());

/// A type by its name.
pub fn named(name: &str) -> Option<&'static Type> {
    TYPES.get(name)
}

static BY_KIND: LazyLock<HashMap<&'static str, &'static Type>> =
    LazyLock::new(|| types().flat_map(|found| found.kinds.iter().map(move |kind| (*kind, found))).collect());

/// The type of `group/version/kind`.
pub fn of_kind(kind: &str) -> Option<&'static Type> {
    BY_KIND.get(kind).copied()
}

/// Every type, in no order.
pub fn types() -> impl Iterator<Item = &'static Type> {
    TYPES.values()
}

fn parse(text: &'static str) -> HashMap<&'static str, Type> {
    let mut types = HashMap::new();
    let mut current: Option<Type> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("T ") {
            types.extend(current.take().map(|done| (done.name, done)));
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default();
            let mut new = Type { name, shape: None, fields: Vec::new(), kinds: Vec::new(), atomic: false };
            for word in words {
                match (word.strip_prefix("g="), word.strip_prefix('=')) {
                    (Some(kind), _) => new.kinds.push(kind),
                    (None, Some(shape)) => new.shape = Some(Shape::of(shape)),
                    (None, None) => new.atomic |= word == "a=atomic",
                }
            }
            current = Some(new);
        } else if let Some(current) = &mut current {
            let (name, rest) = line.split_once(' ').unwrap_or((line, "x"));
            let (shape, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let required = rest.starts_with('!');
            let attributes = rest.strip_prefix('!').unwrap_or(rest).trim_start();
            current.fields.push(Field { name, shape: Shape::of(shape), required, attributes });
        }
    }
    types.extend(current.map(|done| (done.name, done)));
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_type_and_every_kinds_type_is_there() {
        for shape in types().flat_map(|t| &t.fields).map(|field| field.shape) {
            let mut shape = shape;
            while let Shape::List(inner) | Shape::Map(inner) = shape {
                shape = Shape::of(inner);
            }
            if let Shape::Type(name) = shape {
                assert!(named(name).is_some(), "{name}");
            }
        }
        for kind in crate::kinds() {
            assert!(named(kind.schema).is_some(), "{}", kind.kind);
        }
    }

    #[test]
    fn attributes_are_read() {
        let ports = named("api.core.v1.ServiceSpec").and_then(|t| t.field("ports")).unwrap();
        assert_eq!(ports.merge_key(), Some("port"));
        assert!(ports.has_patch_strategy("merge"));
        assert_eq!(ports.list_map_keys().collect::<Vec<_>>(), ["port", "protocol"]);
    }
}
