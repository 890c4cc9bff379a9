//! How values merge at a place of a kind's schema: whole, by field, by entry, by item.

use serde_json::{Map, Value};

use super::fields;
use crate::custom::{self, ListType, Structural};
use crate::kinds::Kind;
use crate::schema::{Field, Scalar, Shape, Type, named};

#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// One owner for all of it.
    Leaf,
    Struct(&'static Type),
    /// A map, by its entries, whose values have the shape.
    Map(Shape),
    /// A list of scalars without order.
    Set,
    /// A list whose items are known by the field's keys, and their shape.
    List(&'static Field, Shape),
    /// Anything: objects by their entries, all else whole.
    Untyped,
    /// An object of a definition's schema; the whole resource, or one that is embedded, has metadata of upstream's type.
    Object {
        schema: &'a Structural,
        resource: bool,
    },
    /// A list of a definition's schema whose items are known by its keys.
    Items(&'a Structural),
}

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl<'a> Place<'a> {
    /// The place of a whole object.
    pub(super) fn root(kind: &'a Kind) -> Place<'a> {
        match &kind.custom {
            Some(custom) => Place::Object { schema: &custom.version.schema, resource: true },
            None => named(kind.schema).map_or(Place::Untyped, Place::Struct),
        }
    }

    fn of(shape: Shape, field: Option<&'static Field>) -> Place<'a> {
        if field.and_then(Field::map_type) == Some("atomic") {
            return Place::Leaf;
        }
        match shape {
            Shape::Type(name) => match named(name) {
                None => Place::Untyped,
                Some(found) if found.atomic => Place::Leaf,
                Some(found) => found.shape.map_or(Place::Struct(found), |shape| Place::of(shape, field)),
            },
            Shape::Map(inner) => Place::Map(Shape::of(inner)),
            Shape::List(inner) => match (field, field.and_then(Field::list_type)) {
                (Some(field), Some("map")) => Place::List(field, Shape::of(inner)),
                (Some(_), Some("set")) => Place::Set,
                _ => Place::Leaf,
            },
            Shape::Scalar(Scalar::Object | Scalar::Any) => Place::Untyped,
            Shape::Scalar(_) => Place::Leaf,
        }
    }

    fn of_structural(schema: &'a Structural) -> Place<'a> {
        match schema.shape {
            custom::Shape::Object if schema.atomic_map => Place::Leaf,
            custom::Shape::Object => Place::Object { schema, resource: schema.embedded },
            custom::Shape::Array => match schema.list_type {
                ListType::Map => Place::Items(schema),
                ListType::Set => Place::Set,
                ListType::Atomic => Place::Leaf,
            },
            custom::Shape::Any if schema.preserve => Place::Untyped,
            _ => Place::Leaf,
        }
    }

    /// The place of a field or entry, and what the schema says of it where it names it.
    pub(super) fn child(self, name: &str) -> (Place<'a>, Option<Known>) {
        match self {
            Place::Struct(schema) => match schema.field(name) {
                Some(field) => {
                    (Place::of(field.shape, Some(field)), Some(Known { required: field.required }))
                }
                None => (Place::Untyped, None),
            },
            Place::Map(shape) => (Place::of(shape, None), None),
            Place::Object { schema, resource } => {
                // What a definition requires may still be absent from what was: only Go's structs are always there.
                let known = Some(Known { required: false });
                match (name, schema.properties.get(name)) {
                    ("metadata", _) if resource => (
                        named(OBJECT_META).map_or(Place::Untyped, Place::Struct),
                        Some(Known { required: false }),
                    ),
                    ("apiVersion" | "kind", _) if resource => (Place::Leaf, Some(Known { required: false })),
                    (_, Some(inner)) => (Place::of_structural(inner), known),
                    (_, None) => match schema.additional.as_deref() {
                        Some(inner) => (Place::of_structural(inner), None),
                        None => (Place::Untyped, None),
                    },
                }
            }
            _ => (Place::Untyped, None),
        }
    }

    /// Whether an object may have a field.
    pub(super) fn allows(self, name: &str) -> bool {
        match self {
            Place::Struct(schema) => schema.field(name).is_some(),
            Place::Object { schema, .. } => {
                self.child(name).1.is_some()
                    || schema.preserve
                    || schema.additional.is_some()
                    || schema.additional_allowed
            }
            _ => true,
        }
    }

    /// Whether the value goes by its fields or entries.
    pub(super) fn is_object(self) -> bool {
        matches!(self, Place::Struct(_) | Place::Map(_) | Place::Untyped | Place::Object { .. })
    }

    /// Whether its fields are named, so that it comes and goes with what is in it.
    pub(super) fn is_struct(self) -> bool {
        matches!(self, Place::Struct(_))
    }

    /// Whether the value is a list that goes by its items.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Place::Set | Place::List(..) | Place::Items(_))
    }

    /// The place of an item of a list.
    pub(super) fn item(self) -> Place<'a> {
        match self {
            Place::List(_, shape) => Place::of(shape, None),
            Place::Items(schema) => schema.items.as_deref().map_or(Place::Untyped, Place::of_structural),
            _ => Place::Leaf,
        }
    }

    /// The fields by which items of a list are known.
    pub(super) fn keys(self) -> Vec<&'a str> {
        match self {
            Place::List(field, _) => field.list_map_keys().collect(),
            Place::Items(schema) => schema.list_keys.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn key_default(self, name: &str) -> Option<Value> {
        match self {
            Place::Items(schema) => schema.items.as_deref()?.properties.get(name)?.default.clone(),
            // The only key in all of upstream's schemas that may be left out: ports are of TCP.
            _ => (name == "protocol").then(|| "TCP".into()),
        }
    }

    /// How an item is known in its list; `None` if it has none of the keys.
    pub(super) fn element(self, item: &Value) -> Option<String> {
        if let Place::Set = self {
            return Some(fields::value(item));
        }
        let (mut keys, mut given) = (Map::new(), false);
        for name in self.keys() {
            match item.get(name).filter(|value| !value.is_null()) {
                Some(value) => {
                    given = true;
                    keys.insert(name.to_owned(), value.clone());
                }
                None => {
                    if let Some(value) = self.key_default(name) {
                        keys.insert(name.to_owned(), value);
                    }
                }
            }
        }
        given.then(|| fields::key(keys))
    }
}

/// What a schema says of a field that it names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) required: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(schema: &str, path: &[&str]) -> Place<'static> {
        let kind = crate::kinds().iter().find(|kind| kind.schema == schema).unwrap();
        path.iter().fold(
            Place::root(kind),
            |place, name| {
                if *name == "[]" { place.item() } else { place.child(name).0 }
            },
        )
    }

    #[test]
    fn places_follow_the_schema() {
        let pod = "api.core.v1.Pod";
        assert!(matches!(at(pod, &["metadata", "labels"]), Place::Map(_)));
        assert!(matches!(at(pod, &["metadata", "finalizers"]), Place::Set));
        assert!(matches!(at(pod, &["metadata", "ownerReferences"]), Place::List(..)));
        assert!(matches!(at(pod, &["metadata", "ownerReferences", "[]"]), Place::Leaf));
        assert!(matches!(at(pod, &["spec", "nodeSelector"]), Place::Leaf));
        assert!(matches!(at(pod, &["spec", "containers", "[]"]), Place::Struct(_)));
        assert!(matches!(at(pod, &["spec", "containers", "[]", "args"]), Place::Leaf));
        let limits = at(pod, &["spec", "containers", "[]", "resources", "limits"]);
        assert!(matches!(limits, Place::Map(_)));
        assert!(matches!(limits.child("cpu").0, Place::Leaf));
        assert!(matches!(at("api.apps.v1.Deployment", &["spec", "selector"]), Place::Leaf));
        assert!(matches!(at("api.apps.v1.ControllerRevision", &["data"]), Place::Untyped));
    }

    #[test]
    fn a_port_is_known_by_number_and_protocol() {
        let ports = at("api.core.v1.Service", &["spec", "ports"]);
        assert_eq!(ports.element(&json!({"port": 80})), Some("k:{\"port\":80,\"protocol\":\"TCP\"}".into()));
        assert_eq!(ports.element(&json!({"name": "x"})), None);
    }
}
