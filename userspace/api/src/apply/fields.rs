//! The set of fields that a value has, and the adjusting of a stored set to the schema.

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::merge_type::{Atom, Declared, MergeType};
use super::path_element::PathElement;

/// The fields that a value sets: every leaf, map entry and list item. Items of a list that have the same path element
/// are one field.
pub(super) fn fields_of(ty: MergeType<'_>, value: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    match (ty.atom(Some(value)), value) {
        (Atom::Scalar(_) | Atom::List { atomic: true } | Atom::Map { atomic: true }, _) => out.member = true,
        (Atom::Map { .. }, Value::Object(entries)) => {
            for (name, value) in entries {
                let (inner, declared) = ty.child(name);
                let mut part = fields_of(inner, value);
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                part.member |= is_empty || declared != Declared::Field;
                out.insert(PathElement::field(name), part);
            }
        }
        (Atom::List { .. }, Value::Array(items)) => {
            for item in items {
                let Ok(element) = ty.path_element(item) else { continue };
                match out.children.get_mut(&element) {
                    None => {
                        let mut part = fields_of(ty.item(), item);
                        part.member = true;
                        out.children.insert(element, part);
                    }
                    Some(repeated) => repeated.children.clear(),
                }
            }
        }
        _ => {}
    }
    out
}

/// Makes the named fields that lead to members members themselves.
pub(super) fn with_named_fields(ty: MergeType<'_>, fields: &FieldSet) -> FieldSet {
    let mut out = FieldSet { member: fields.member, children: Default::default() };
    for (element, part) in &fields.children {
        let part = match element {
            PathElement::Field(name) => {
                let (inner, declared) = ty.child(name);
                let mut part = with_named_fields(inner, part);
                part.member |= declared == Declared::Field && !part.children.is_empty();
                part
            }
            PathElement::Key(_) => with_named_fields(ty.item(), part),
            PathElement::Value(_) | PathElement::Index(_) => with_named_fields(MergeType::Untyped, part),
        };
        out.children.insert(element.clone(), part);
    }
    out
}

/// Adjusts a stored set to a schema whose lists or maps have become atomic since: what was owned below one becomes the
/// list or map itself.
pub(super) fn reconcile(ty: MergeType<'_>, fields: &mut FieldSet) {
    let atom = ty.atom(None);
    if fields.children.is_empty() || matches!(atom, Atom::Map { .. }) && ty.is_deduced_map() {
        return;
    }
    match atom {
        Atom::List { atomic: true } | Atom::Map { atomic: true } => *fields = FieldSet::leaf(),
        Atom::List { .. } => fields.children.values_mut().for_each(|part| reconcile(ty.item(), part)),
        Atom::Map { .. } => {
            for (element, part) in &mut fields.children {
                let (inner, declared) = match element {
                    PathElement::Field(name) => ty.child(name),
                    _ => continue,
                };
                if declared != Declared::Not {
                    reconcile(inner, part);
                }
            }
        }
        Atom::Scalar(_) => {}
    }
}
