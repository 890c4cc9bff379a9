//! How a value of a kind's schema merges: as a whole, by field, by map entry or by list item.
//!
//! In: a kind or a definition's schema. Out: the [`MergeType`] of each value and its [`Atom`] (the same names as
//! structured-merge-diff's `schema`).

use serde_json::Value;

use super::path_element::PathElement;
use crate::custom::{self, ListType, Structural};
use crate::kinds::Kind;
use crate::schema::{Field, Scalar, Shape, Type, named};

/// A scalar type of structured-merge-diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarForm {
    String,
    Numeric,
    Boolean,
    Untyped,
}

/// The form in which a value is merged. An atomic list or map has one owner and is replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Scalar(ScalarForm),
    List { atomic: bool },
    Map { atomic: bool },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum MergeType<'a> {
    Scalar(ScalarForm),
    /// Anything; lists and maps are atomic.
    Untyped,
    /// Anything; maps merge by entry, lists are atomic.
    Deduced,
    /// A map of anything.
    FreeMap,
    Struct {
        schema: &'static Type,
        atomic: bool,
    },
    Map {
        values: Shape,
        atomic: bool,
    },
    List {
        items: Shape,
        field: Option<&'static Field>,
    },
    /// A value of a CustomResourceDefinition's schema.
    Custom {
        schema: &'a Structural,
        /// Whether it has ObjectMeta: the custom resource itself or an embedded resource.
        resource: bool,
        /// Whether the schema or one around it preserves unknown fields.
        preserve: bool,
    },
}

/// How a schema knows an entry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// By its name.
    Field,
    /// As any entry.
    Entry,
    Not,
}

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";
const RAW_EXTENSION: &str = "apimachinery.pkg.runtime.RawExtension";

impl<'a> MergeType<'a> {
    /// The type of a whole object.
    pub(super) fn root(kind: &'a Kind) -> MergeType<'a> {
        match &kind.custom {
            Some(custom) => {
                let schema = custom.version.schema();
                MergeType::Custom { schema, resource: true, preserve: schema.preserve }
            }
            None => named(kind.schema)
                .map_or(MergeType::Deduced, |schema| MergeType::Struct { schema, atomic: schema.atomic }),
        }
    }

    fn of(shape: Shape, field: Option<&'static Field>) -> MergeType<'a> {
        // A field may override the relationship of its type.
        let atomic = |of_type: bool| match field.and_then(Field::map_type) {
            Some("atomic") => true,
            Some("granular") => false,
            _ => of_type,
        };
        match shape {
            Shape::Type(RAW_EXTENSION) => MergeType::Untyped,
            Shape::Type(name) => match named(name) {
                None => MergeType::Deduced,
                Some(schema) => match schema.shape {
                    Some(shape) => MergeType::of(shape, field),
                    None => MergeType::Struct { schema, atomic: atomic(schema.atomic) },
                },
            },
            Shape::Map(inner) => MergeType::Map { values: Shape::of(inner), atomic: atomic(false) },
            Shape::List(inner) => MergeType::List { items: Shape::of(inner), field },
            Shape::Scalar(scalar) => match scalar {
                Scalar::String | Scalar::Base64 => MergeType::Scalar(ScalarForm::String),
                Scalar::Int32 | Scalar::Int64 | Scalar::Number => MergeType::Scalar(ScalarForm::Numeric),
                Scalar::Boolean => MergeType::Scalar(ScalarForm::Boolean),
                Scalar::Time | Scalar::Quantity => MergeType::Scalar(ScalarForm::Untyped),
                Scalar::Object => MergeType::FreeMap,
                // Upstream's published schema of an int-or-string names no type.
                Scalar::IntOrString | Scalar::Any => MergeType::Deduced,
            },
        }
    }

    fn of_structural(schema: &'a Structural, preserve: bool) -> MergeType<'a> {
        MergeType::Custom { schema, resource: schema.embedded, preserve: preserve || schema.preserve }
    }

    /// The form of a value of this type. A type that allows several forms takes that of the value; null and an absent
    /// value count as a map.
    pub(super) fn atom(self, value: Option<&Value>) -> Atom {
        match self {
            MergeType::Scalar(form) => Atom::Scalar(form),
            MergeType::Untyped => any_atom(value, true, true),
            MergeType::Deduced => any_atom(value, true, false),
            MergeType::FreeMap => Atom::Map { atomic: false },
            MergeType::Struct { atomic, .. } | MergeType::Map { atomic, .. } => Atom::Map { atomic },
            MergeType::List { field, .. } => {
                let list_type = field.and_then(Field::list_type);
                Atom::List { atomic: !matches!(list_type, Some("map" | "set")) }
            }
            MergeType::Custom { schema, .. } => match schema.shape {
                custom::Shape::Object => Atom::Map { atomic: schema.atomic_map },
                custom::Shape::Array => Atom::List { atomic: schema.list_type == ListType::Atomic },
                custom::Shape::Integer | custom::Shape::Number => Atom::Scalar(ScalarForm::Numeric),
                custom::Shape::Boolean => Atom::Scalar(ScalarForm::Boolean),
                custom::Shape::String if matches!(&*schema.checks.format, "" | "byte") => {
                    Atom::Scalar(ScalarForm::String)
                }
                custom::Shape::String => Atom::Scalar(ScalarForm::Untyped),
                custom::Shape::Any => {
                    any_atom(value, schema.list_type == ListType::Atomic, schema.atomic_map)
                }
            },
        }
    }

    /// The type of a field or entry of a map, and how the schema knows it.
    pub(super) fn child(self, name: &str) -> (MergeType<'a>, Declared) {
        match self {
            MergeType::Struct { schema, .. } => match schema.field(name) {
                Some(field) => (MergeType::of(field.shape, Some(field)), Declared::Field),
                None => (MergeType::Untyped, Declared::Not),
            },
            MergeType::Map { values, .. } => (MergeType::of(values, None), Declared::Entry),
            MergeType::Untyped => (MergeType::Untyped, Declared::Entry),
            MergeType::Custom { schema, resource, preserve } => match (name, schema.properties.get(name)) {
                ("metadata", _) if resource => {
                    (MergeType::of(Shape::Type(OBJECT_META), None), Declared::Field)
                }
                ("apiVersion" | "kind", _) if resource => {
                    (MergeType::Scalar(ScalarForm::String), Declared::Field)
                }
                (_, Some(inner)) => (MergeType::of_structural(inner, preserve), Declared::Field),
                (_, None) => match schema.additional.as_deref() {
                    Some(inner) => (MergeType::of_structural(inner, preserve), Declared::Entry),
                    None if schema.additional_allowed
                        || preserve
                        || schema.properties.is_empty() && !resource =>
                    {
                        (MergeType::Deduced, Declared::Entry)
                    }
                    None => (MergeType::Untyped, Declared::Not),
                },
            },
            _ => (MergeType::Deduced, Declared::Entry),
        }
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> MergeType<'a> {
        match self {
            MergeType::List { items, .. } => MergeType::of(items, None),
            MergeType::Custom { schema, preserve, .. } => match schema.items.as_deref() {
                Some(items) => MergeType::of_structural(items, preserve),
                None => MergeType::Untyped,
            },
            _ => MergeType::Untyped,
        }
    }

    /// Whether this is a map without declared fields whose entries may be anything.
    pub(super) fn is_deduced_map(self) -> bool {
        match self {
            MergeType::Deduced | MergeType::FreeMap => true,
            MergeType::Custom { schema, resource, .. } => {
                schema.properties.is_empty()
                    && !resource
                    && schema.additional.is_none()
                    && matches!(schema.shape, custom::Shape::Object | custom::Shape::Any)
            }
            _ => false,
        }
    }

    /// The path element of an item of a list that merges by item.
    pub(super) fn path_element(self, item: &Value) -> Result<PathElement, NoElement> {
        match self {
            MergeType::List { field: Some(field), .. } if field.list_type() == Some("map") => {
                keyed(item, field.list_map_keys(), |key| built_in_default(self.item(), key))
            }
            MergeType::Custom { schema, .. } if schema.list_type == ListType::Map => {
                keyed(item, schema.list_keys.iter().map(String::as_str), |key| {
                    schema.items.as_deref()?.properties.get(key)?.default.clone()
                })
            }
            _ => set_element(item),
        }
    }
}

fn any_atom(value: Option<&Value>, atomic_list: bool, atomic_map: bool) -> Atom {
    match value {
        None | Some(Value::Null | Value::Object(_)) => Atom::Map { atomic: atomic_map },
        Some(Value::Array(_)) => Atom::List { atomic: atomic_list },
        Some(_) => Atom::Scalar(ScalarForm::Untyped),
    }
}

/// The default of a field that identifies items: upstream publishes one for each field that is always written.
fn built_in_default(item: MergeType<'_>, key: &str) -> Option<Value> {
    let MergeType::Struct { schema, .. } = item else { return None };
    let field = schema.field(key)?;
    match (schema.name, key) {
        (_, "protocol") => Some("TCP".into()),
        ("api.core.v1.LocalObjectReference", "name") => Some("".into()),
        _ if !field.required => None,
        _ => match field.shape {
            Shape::Scalar(Scalar::Int32 | Scalar::Int64) => Some(0.into()),
            Shape::Scalar(Scalar::String) => Some("".into()),
            _ => None,
        },
    }
}

fn keyed<'k>(
    item: &Value,
    names: impl Iterator<Item = &'k str> + Clone,
    default: impl Fn(&str) -> Option<Value>,
) -> Result<PathElement, NoElement> {
    let fields = match item {
        Value::Null => return Err(NoElement::KeyedNull),
        Value::Object(fields) => fields,
        _ => return Err(NoElement::KeyedOther),
    };
    let found = names.clone().filter_map(|name| {
        let value = fields.get(name).cloned().or_else(|| default(name))?;
        Some((name.to_owned(), value))
    });
    let keys: Vec<(String, Value)> = found.collect();
    if keys.is_empty() {
        let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
        return Err(NoElement::WithoutKeys(names.join(" ")));
    }
    Ok(PathElement::key(keys))
}

fn set_element(item: &Value) -> Result<PathElement, NoElement> {
    match item {
        Value::Object(_) => Err(NoElement::SetMap),
        Value::Array(_) => Err(NoElement::SetList),
        Value::Null => Err(NoElement::SetNull),
        value => Ok(PathElement::Value(value.clone())),
    }
}

/// Why a list item has no path element, in upstream's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoElement {
    #[error("associative list with keys may not have a null element")]
    KeyedNull,
    #[error("associative list with keys may not have non-map elements")]
    KeyedOther,
    #[error(
        "associative list with keys has an element that omits all key fields [{0}] (and doesn't have default values for any key fields)"
    )]
    WithoutKeys(String),
    #[error("associative list without keys has an element that's a map type")]
    SetMap,
    #[error("not supported: associative list with lists as elements")]
    SetList,
    #[error("associative list without keys has an element that's an explicit null")]
    SetNull,
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
    fn atoms_follow_the_schema() {
        const ATOMIC: Atom = Atom::Map { atomic: true };
        const GRANULAR: Atom = Atom::Map { atomic: false };
        let text = json!("x");
        for (schema, path, wanted) in [
            ("api.core.v1.Pod", &["metadata", "labels"][..], GRANULAR),
            ("api.core.v1.Pod", &["metadata", "finalizers"], Atom::List { atomic: false }),
            ("api.core.v1.Pod", &["metadata", "ownerReferences", "[]"], ATOMIC),
            ("api.core.v1.Pod", &["spec", "nodeSelector"], ATOMIC),
            ("api.core.v1.Pod", &["spec", "containers", "[]"], GRANULAR),
            ("api.core.v1.Pod", &["spec", "containers", "[]", "args"], Atom::List { atomic: true }),
            ("api.core.v1.Pod", &["spec", "containers", "[]", "resources", "limits"], GRANULAR),
            (
                "api.core.v1.Pod",
                &["spec", "containers", "[]", "resources", "limits", "cpu"],
                Atom::Scalar(ScalarForm::Untyped),
            ),
            ("api.apps.v1.Deployment", &["spec", "selector"], ATOMIC),
            ("api.core.v1.PersistentVolume", &["spec", "claimRef"], GRANULAR),
            ("api.apps.v1.ControllerRevision", &["data"], ATOMIC),
        ] {
            assert_eq!(at(schema, path).atom(None), wanted, "{path:?}");
        }
        let surge = at("api.apps.v1.Deployment", &["spec", "strategy", "rollingUpdate", "maxSurge"]);
        assert_eq!(surge.atom(Some(&text)), Atom::Scalar(ScalarForm::Untyped));
    }

    #[test]
    fn absent_keys_have_upstreams_defaults() {
        let ports = at("api.core.v1.Service", &["spec", "ports"]);
        let element = |ty: MergeType<'_>, item: Value| ty.path_element(&item).map(|element| element.text());
        assert_eq!(element(ports, json!({"port": 80})).unwrap(), "k:{\"port\":80,\"protocol\":\"TCP\"}");
        assert_eq!(element(ports, json!({"name": "x"})).unwrap(), "k:{\"port\":0,\"protocol\":\"TCP\"}");
        let containers = at("api.core.v1.Pod", &["spec", "containers"]);
        assert_eq!(element(containers, json!({})).unwrap(), "k:{\"name\":\"\"}");
        let secrets = at("api.core.v1.ServiceAccount", &["secrets"]);
        assert_eq!(
            element(secrets, json!({"kind": "x"})).unwrap_err().to_string(),
            "associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)"
        );
    }
}
