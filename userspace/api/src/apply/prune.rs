//! Removing fields from a value; which fields of the last configuration go when the next one does not have them.

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::fields::{fields_of, with_named_fields};
use super::merge_type::{Atom, MergeType};
use super::path_element::PathElement;

/// Removes what an applier no longer applies: fields of its last configuration that no manager owns now. `owned` has the
/// fields of all managers, the new configuration's included.
pub(super) fn prune(ty: MergeType<'_>, merged: Value, last: &FieldSet, owned: &FieldSet) -> Value {
    let last = with_named_fields(ty, last);
    let all = with_named_fields(ty, &fields_of(ty, &merged));
    let bare = without(ty, merged.clone(), &last);
    // What the managers own comes back, and with it what is around it.
    let mut unowned = all.clone();
    unowned.subtract(&with_named_fields(ty, &fields_of(ty, &bare)));
    unowned.subtract(&with_named_fields(ty, owned));
    let kept = without(ty, merged.clone(), &unowned);
    // What the last configuration did not have stays, although no manager owns it.
    let mut gone = all;
    gone.subtract(&with_named_fields(ty, &fields_of(ty, &kept)));
    without(ty, merged, &gone.intersection(&last))
}

fn without(ty: MergeType<'_>, value: Value, fields: &FieldSet) -> Value {
    if fields.children.is_empty() { value } else { remove(ty, value, fields) }
}

/// The value without the fields of a set that is not empty. A list or map that loses its last item or entry becomes
/// empty; an atomic one that loses a part becomes empty as a whole.
fn remove(ty: MergeType<'_>, value: Value, fields: &FieldSet) -> Value {
    match (ty.atom(Some(&value)), value) {
        (Atom::Map { atomic: true }, Value::Object(_)) => Value::Object(Map::new()),
        (Atom::List { atomic: true }, Value::Array(_)) => Value::Array(Vec::new()),
        (Atom::Map { .. }, Value::Object(entries)) => {
            let left = entries.into_iter().filter_map(|(name, value)| {
                let element = PathElement::Field(name);
                let value = remove_part(ty, &element, value, fields)?;
                let PathElement::Field(name) = element else { return None };
                Some((name, value))
            });
            Value::Object(left.collect())
        }
        (Atom::List { .. }, Value::Array(items)) => {
            let left = items.into_iter().filter_map(|item| match ty.path_element(&item) {
                Ok(element) => remove_part(ty, &element, item, fields),
                Err(_) => Some(item),
            });
            Value::Array(left.collect())
        }
        (_, value) => value,
    }
}

fn remove_part(ty: MergeType<'_>, element: &PathElement, value: Value, fields: &FieldSet) -> Option<Value> {
    match fields.children.get(element) {
        None => Some(value),
        Some(part) if part.member => None,
        Some(part) => {
            let inner = match element {
                PathElement::Field(name) => ty.child(name).0,
                _ => ty.item(),
            };
            Some(remove(inner, value, part))
        }
    }
}
