//! Maps a structural schema to CEL: its types with their bounds, and how JSON is read with it.

use std::collections::BTreeMap;

use super::schema::{ListType, Shape, Structural};
use crate::cel::{Declared, ItemIdentity, REQUEST, Schema, SchemaShape, Type, escape};

/// The longest duration, date and time in characters.
const MAX_TIME: u64 = 32;
const DATE: u64 = 12;

/// The CEL type of a schema; `None` if expressions do not see its values. A whole resource always has a kind and names.
pub(crate) fn declared(schema: &Structural, name: &str, resource: bool) -> Option<Declared> {
    if schema.int_or_string {
        let max = schema.checks.max_length.map_or(REQUEST - 2, |max| max.saturating_mul(4));
        return Some(Declared::new(Type::Dyn, 1).with_max(max));
    }
    let below = |inner: &Structural, part: &str| declared(inner, &format!("{name}.{part}"), inner.embedded);
    match schema.shape {
        Shape::Any => None,
        Shape::Boolean => Some(Declared::new(Type::Bool, 4)),
        Shape::Integer => Some(Declared::new(Type::Int, 1)),
        Shape::Number => Some(Declared::new(Type::Double, 1)),
        Shape::String => Some(text(schema)),
        Shape::Array => {
            let items = below(schema.items.as_deref()?, "@idx")?;
            let max = schema.checks.max_items.unwrap_or((REQUEST - 2) / items.min_bytes.saturating_add(1));
            Some(Declared::list(items, max))
        }
        Shape::Object => match schema.additional.as_deref() {
            Some(inner) if !resource => {
                let values = below(inner, "@elem")?;
                let max = schema.checks.max_properties;
                let max = max.unwrap_or((REQUEST - 2) / values.min_bytes.saturating_add(6));
                Some(Declared::map(values, max))
            }
            _ => Some(object(schema, name, resource)),
        },
    }
}

fn object(schema: &Structural, name: &str, resource: bool) -> Declared {
    let mut fields = BTreeMap::new();
    // An object is at least `{}` with its required fields.
    let mut min_bytes: u64 = 2;
    for (field, inner) in schema.properties.iter() {
        if resource && matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let path = format!("{name}.{}", escape(field).unwrap_or_default());
        let Some(of) = declared(inner, &path, inner.embedded) else { continue };
        if schema.checks.required.contains(field) && inner.default.is_none() {
            min_bytes = min_bytes.saturating_add(field.len() as u64 + of.min_bytes + 4);
        }
        fields.extend(escape(field).map(|field| (field, of)));
    }
    if resource {
        let text = || Declared::new(Type::String, 2).with_max(REQUEST - 2);
        let names = ["name", "generateName"].map(|name| (name.to_owned(), text()));
        let metadata = Declared::object(&format!("{name}.metadata"), names.into(), 2);
        for (field, of) in [("apiVersion", text()), ("kind", text()), ("metadata", metadata)] {
            if schema.checks.required.iter().any(|required| required == field) {
                min_bytes = min_bytes.saturating_add(field.len() as u64 + of.min_bytes + 4);
            }
            fields.insert(field.to_owned(), of);
        }
    }
    Declared::object(name, fields, min_bytes)
}

fn text(schema: &Structural) -> Declared {
    let checks = &schema.checks;
    match checks.format.as_str() {
        "date-time" => Declared::new(Type::Timestamp, 21).with_max(MAX_TIME),
        "date" => Declared::new(Type::Timestamp, DATE).with_max(DATE),
        "duration" => Declared::new(Type::Duration, 3).with_max(MAX_TIME),
        "byte" => Declared::new(Type::Bytes, 2).with_max(checks.max_length.unwrap_or(REQUEST - 2)),
        _ => {
            let longest = || {
                let values = checks.values.as_ref().filter(|values| !values.is_empty())?;
                Some(values.iter().filter_map(|value| value.as_str()).map(str::len).max().unwrap_or(0) as u64)
            };
            // A character has up to four bytes.
            let max = checks.max_length.map(|max| max.saturating_mul(4)).or_else(longest);
            Declared::new(Type::String, 2).with_max(max.unwrap_or(REQUEST - 2))
        }
    }
}

impl Schema for Structural {
    fn shape(&self) -> SchemaShape {
        match self.shape {
            _ if self.int_or_string => SchemaShape::IntOrString,
            Shape::Any => SchemaShape::Any,
            Shape::Object => SchemaShape::Object,
            Shape::Array => SchemaShape::Array,
            Shape::String => SchemaShape::String,
            Shape::Integer => SchemaShape::Integer,
            Shape::Number => SchemaShape::Number,
            Shape::Boolean => SchemaShape::Boolean,
        }
    }

    fn format(&self) -> &str {
        &self.checks.format
    }

    fn is_nullable(&self) -> bool {
        self.nullable
    }

    fn is_resource(&self) -> bool {
        self.embedded
    }

    fn has_fields(&self) -> bool {
        !self.properties.is_empty()
    }

    fn field(&self, name: &str) -> Option<&dyn Schema> {
        self.properties.get(name).map(|inner| inner as &dyn Schema)
    }

    fn entries(&self) -> Option<&dyn Schema> {
        self.additional.as_deref().map(|inner| inner as &dyn Schema)
    }

    fn items(&self) -> Option<&dyn Schema> {
        self.items.as_deref().map(|inner| inner as &dyn Schema)
    }

    fn identity(&self) -> ItemIdentity<'_> {
        match self.list_type {
            ListType::Atomic => ItemIdentity::Position,
            ListType::Set => ItemIdentity::Value,
            ListType::Map => ItemIdentity::Keys(&self.list_keys),
        }
    }
}
