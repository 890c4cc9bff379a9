//! How values merge at a place of a kind's schema: whole, by field, by entry, by item.

use serde_json::{Map, Value};

use super::fields;
use crate::schema::{Field, Scalar, Shape, Type, named};

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
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
}

impl Place {
    /// The place of a whole object.
    pub(super) fn root(schema: &str) -> Place {
        named(schema).map_or(Place::Untyped, Place::Struct)
    }

    fn of(shape: Shape, field: Option<&'static Field>) -> Place {
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

    /// The place of a field or entry, and the schema's field where it names one.
    pub(super) fn child(self, name: &str) -> (Place, Option<&'static Field>) {
        match self {
            Place::Struct(schema) => match schema.field(name) {
                Some(field) => (Place::of(field.shape, Some(field)), Some(field)),
                None => (Place::Untyped, None),
            },
            Place::Map(shape) => (Place::of(shape, None), None),
            _ => (Place::Untyped, None),
        }
    }

    /// The place of a list's items.
    pub(super) fn item(self) -> Place {
        match self {
            Place::List(_, shape) => Place::of(shape, None),
            _ => Place::Leaf,
        }
    }

    /// How an item is known in its list; `None` if it has none of the keys.
    pub(super) fn element(self, item: &Value) -> Option<String> {
        match self {
            Place::Set => Some(fields::value(item)),
            Place::List(field, _) => {
                let mut keys = Map::new();
                for name in field.list_map_keys() {
                    match item.get(name).filter(|value| !value.is_null()) {
                        Some(value) => drop(keys.insert(name.to_owned(), value.clone())),
                        None => {
                            if let Some(value) = key_default(name) {
                                keys.insert(name.to_owned(), value.into());
                            }
                        }
                    }
                }
                (keys.len() > usize::from(keys.contains_key(DEFAULTED))).then(|| fields::key(keys))
            }
            _ => None,
        }
    }
}

const DEFAULTED: &str = "protocol";

/// The only key in all schemas that may be left out: ports are of TCP.
fn key_default(name: &str) -> Option<&'static str> {
    (name == DEFAULTED).then_some("TCP")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(kind: &str, path: &[&str]) -> Place {
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
