//! Names and lists as the kinds of resource.k8s.io have them.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::csi::validate_driver_name;
use crate::names::{NameForm, validate_name};
use crate::value::{items, text};

const MAX_POOL_BYTES: usize = 253;
/// Of the part of an attribute's name behind its domain.
const MAX_ID_BYTES: usize = 32;

/// Subdomains, separated by slashes.
pub(super) fn validate_pool_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > MAX_POOL_BYTES {
        errors.too_long(path, MAX_POOL_BYTES);
    }
    name.split('/').for_each(|part| validate_name(part, NameForm::Subdomain, path, errors));
}

/// The name of an attribute or a capacity: `[domain/]identifier`. As upstream, nothing is said of more slashes.
pub(super) fn validate_qualified_name(name: &str, path: &Path, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => validate_id(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(path, &"".into(), "the domain must not be empty");
            } else {
                validate_driver_name(&(*domain).into(), path, errors);
            }
            if id.is_empty() {
                errors.invalid(path, &"".into(), "the name must not be empty");
            } else {
                validate_id(id, path, errors);
            }
        }
        _ => {}
    }
}

fn validate_id(id: &str, path: &Path, errors: &mut Errors) {
    if id.len() > MAX_ID_BYTES {
        errors.too_long(path, MAX_ID_BYTES);
    }
    validate_name(id, NameForm::Identifier, path, errors);
}

/// Whether a list is short enough; if not, its items are not checked.
pub(super) fn within(object: &Value, field: &str, max: usize, path: &Path, errors: &mut Errors) -> bool {
    let count = items(object, field).count();
    if count > max {
        errors.too_many(&path.child(field), count, max);
    }
    count <= max
}

/// Reports the items of a list whose key an earlier one has.
pub(super) fn unique<'a>(keys: impl Iterator<Item = &'a str>, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, key) in keys.enumerate() {
        if !seen.insert(key) {
            errors.duplicate(&path.index(i), &key.into());
        }
    }
}

/// As [`unique`], by a field of the items.
pub(super) fn unique_by(object: &Value, list: &str, field: &str, path: &Path, errors: &mut Errors) {
    unique(items(object, list).map(|item| text(&item[field])), &path.child(list), errors);
}
