//! From a change to the keys that it concerns.

use crate::cache::{Change, Key, Kind, Object};
use crate::meta;

/// Both versions of a change, the older first.
pub(crate) fn versions(change: &Change) -> impl Iterator<Item = &Object> {
    change.old.iter().chain(&change.new)
}

/// Adds the key of the changed object, if it is of this kind.
pub(crate) fn own_key(change: &Change, kind: Kind, keys: &mut Vec<Key>) {
    if let Some(object) = change.object()
        && object.kind() == kind
    {
        keys.push(Key::of(object.meta()));
    }
}

/// Adds the keys of the controlling owners of this kind, before and after the change.
pub(crate) fn owner_keys(change: &Change, owner: Kind, keys: &mut Vec<Key>) {
    for object in versions(change) {
        let meta = object.meta();
        if let Some(reference) = meta::controller_of(meta)
            && reference.kind == owner.name()
            && reference.api_version.split('/').next() == owner.api_version().split('/').next()
        {
            let key = Key::new(meta::namespace(meta), &reference.name);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
}
