//! How a value of a kind's schema merges: as a whole, by field, by map entry or by list item.
//!
//! In: a kind or a definition's schema. Out: the [`MergeType`] of each value (structured-merge-diff's `schema.Atom`).

use serde_json::{Map, Value};

use super::field_set;
use crate::custom::{self, ListType, Structural};
use crate::kinds::Kind;
use crate::schema::{Field, Scalar, Shape, Type, named};

#[derive(Clone, Copy, Debug)]
pub(super) enum MergeType<'a> {
    /// Replaced as a whole; one owner.
    Atomic,
    Struct(&'static Type),
    /// A map that merges by entry; the shape of its values.
    Map(Shape),
    /// A list of unique scalars.
    Set,
    /// A list whose items are identified by the field's keys, and the shape of the items.
    Associative(&'static Field, Shape),
    /// No schema: objects merge by entry, other values are atomic.
    Deduced,
    /// An object of a CustomResourceDefinition's schema.
    CustomObject {
        schema: &'a Structural,
        /// Whether it has ObjectMeta: the custom resource itself or an embedded resource.
        resource: bool,
    },
    /// A list of a CustomResourceDefinition's schema whose items are identified by its keys.
    CustomAssociative(&'a Structural),
}

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl<'a> MergeType<'a> {
    /// The type of a whole object.
    pub(super) fn root(kind: &'a Kind) -> MergeType<'a> {
        match &kind.custom {
            Some(custom) => MergeType::CustomObject { schema: &custom.version.schema, resource: true },
            None => named(kind.schema).map_or(MergeType::Deduced, MergeType::Struct),
        }
    }

    fn of(shape: Shape, field: Option<&'static Field>) -> MergeType<'a> {
        if field.and_then(Field::map_type) == Some("atomic") {
            return MergeType::Atomic;
        }
        match shape {
            Shape::Type(name) => match named(name) {
                None => MergeType::Deduced,
                Some(found) if found.atomic => MergeType::Atomic,
                Some(found) => {
                    found.shape.map_or(MergeType::Struct(found), |shape| MergeType::of(shape, field))
                }
            },
            Shape::Map(inner) => MergeType::Map(Shape::of(inner)),
            Shape::List(inner) => match (field, field.and_then(Field::list_type)) {
                (Some(field), Some("map")) => MergeType::Associative(field, Shape::of(inner)),
                (Some(_), Some("set")) => MergeType::Set,
                _ => MergeType::Atomic,
            },
            Shape::Scalar(Scalar::Object | Scalar::Any) => MergeType::Deduced,
            Shape::Scalar(_) => MergeType::Atomic,
        }
    }

    fn of_structural(schema: &'a Structural) -> MergeType<'a> {
        match schema.shape {
            custom::Shape::Object if schema.atomic_map => MergeType::Atomic,
            custom::Shape::Object => MergeType::CustomObject { schema, resource: schema.embedded },
            custom::Shape::Array => match schema.list_type {
                ListType::Map => MergeType::CustomAssociative(schema),
                ListType::Set => MergeType::Set,
                ListType::Atomic => MergeType::Atomic,
            },
            custom::Shape::Any if schema.preserve => MergeType::Deduced,
            _ => MergeType::Atomic,
        }
    }

    /// The type of a field or entry, and the schema's facts about a field that it names.
    pub(super) fn child(self, name: &str) -> (MergeType<'a>, Option<NamedField>) {
        match self {
            MergeType::Struct(schema) => match schema.field(name) {
                Some(field) => {
                    (MergeType::of(field.shape, Some(field)), Some(NamedField { required: field.required }))
                }
                None => (MergeType::Deduced, None),
            },
            MergeType::Map(shape) => (MergeType::of(shape, None), None),
            MergeType::CustomObject { schema, resource } => {
                // Only Go's structs always have their required fields; a stored custom resource may lack them.
                let known = Some(NamedField { required: false });
                match (name, schema.properties.get(name)) {
                    ("metadata", _) if resource => (
                        named(OBJECT_META).map_or(MergeType::Deduced, MergeType::Struct),
                        Some(NamedField { required: false }),
                    ),
                    ("apiVersion" | "kind", _) if resource => {
                        (MergeType::Atomic, Some(NamedField { required: false }))
                    }
                    (_, Some(inner)) => (MergeType::of_structural(inner), known),
                    (_, None) => match schema.additional.as_deref() {
                        Some(inner) => (MergeType::of_structural(inner), None),
                        None => (MergeType::Deduced, None),
                    },
                }
            }
            _ => (MergeType::Deduced, None),
        }
    }

    /// Whether an object may have a field.
    pub(super) fn allows(self, name: &str) -> bool {
        match self {
            MergeType::Struct(schema) => schema.field(name).is_some(),
            MergeType::CustomObject { schema, .. } => {
                self.child(name).1.is_some()
                    || schema.preserve
                    || schema.additional.is_some()
                    || schema.additional_allowed
            }
            _ => true,
        }
    }

    /// Whether the value merges by field or entry.
    pub(super) fn is_object(self) -> bool {
        matches!(
            self,
            MergeType::Struct(_) | MergeType::Map(_) | MergeType::Deduced | MergeType::CustomObject { .. }
        )
    }

    /// Whether the value is a Go struct, which exists exactly as long as it has fields.
    pub(super) fn is_struct(self) -> bool {
        matches!(self, MergeType::Struct(_))
    }

    /// Whether the value is a list that merges by item.
    pub(super) fn is_list(self) -> bool {
        matches!(self, MergeType::Set | MergeType::Associative(..) | MergeType::CustomAssociative(_))
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> MergeType<'a> {
        match self {
            MergeType::Associative(_, shape) => MergeType::of(shape, None),
            MergeType::CustomAssociative(schema) => {
                schema.items.as_deref().map_or(MergeType::Deduced, MergeType::of_structural)
            }
            _ => MergeType::Atomic,
        }
    }

    /// The fields that identify the items of a list.
    pub(super) fn keys(self) -> Vec<&'a str> {
        match self {
            MergeType::Associative(field, _) => field.list_map_keys().collect(),
            MergeType::CustomAssociative(schema) => schema.list_keys.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn key_default(self, name: &str) -> Option<Value> {
        match self {
            MergeType::CustomAssociative(schema) => {
                schema.items.as_deref()?.properties.get(name)?.default.clone()
            }
            // The only key of a built-in schema that has a default: the protocol of a port.
            _ => (name == "protocol").then(|| "TCP".into()),
        }
    }

    /// The path element of a list item; `None` if it has none of the keys.
    pub(super) fn path_element(self, item: &Value) -> Option<String> {
        if let MergeType::Set = self {
            return Some(field_set::value_element(item));
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
        given.then(|| field_set::key_element(keys))
    }
}

/// Facts about a field that the schema names.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedField {
    pub(super) required: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(schema: &str, path: &[&str]) -> MergeType<'static> {
        let kind = crate::kinds().iter().find(|kind| kind.schema == schema).unwrap();
        path.iter().fold(
            MergeType::root(kind),
            |ty, name| {
                if *name == "[]" { ty.item() } else { ty.child(name).0 }
            },
        )
    }

    #[test]
    fn merge_types_follow_the_schema() {
        let pod = "api.core.v1.Pod";
        assert!(matches!(at(pod, &["metadata", "labels"]), MergeType::Map(_)));
        assert!(matches!(at(pod, &["metadata", "finalizers"]), MergeType::Set));
        assert!(matches!(at(pod, &["metadata", "ownerReferences"]), MergeType::Associative(..)));
        assert!(matches!(at(pod, &["metadata", "ownerReferences", "[]"]), MergeType::Atomic));
        assert!(matches!(at(pod, &["spec", "nodeSelector"]), MergeType::Atomic));
        assert!(matches!(at(pod, &["spec", "containers", "[]"]), MergeType::Struct(_)));
        assert!(matches!(at(pod, &["spec", "containers", "[]", "args"]), MergeType::Atomic));
        let limits = at(pod, &["spec", "containers", "[]", "resources", "limits"]);
        assert!(matches!(limits, MergeType::Map(_)));
        assert!(matches!(limits.child("cpu").0, MergeType::Atomic));
        assert!(matches!(at("api.apps.v1.Deployment", &["spec", "selector"]), MergeType::Atomic));
        assert!(matches!(at("api.apps.v1.ControllerRevision", &["data"]), MergeType::Deduced));
    }

    #[test]
    fn a_port_is_identified_by_number_and_protocol() {
        let ports = at("api.core.v1.Service", &["spec", "ports"]);
        assert_eq!(
            ports.path_element(&json!({"port": 80})),
            Some("k:{\"port\":80,\"protocol\":\"TCP\"}".into())
        );
        assert_eq!(ports.path_element(&json!({"name": "x"})), None);
    }
}
