//! Paths below a folder or a volume.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::value::text;

/// Checks a path that must stay below its folder.
pub(super) fn validate_descending(value: &Value, path: &Path, errors: &mut Errors) {
    if text(value).starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    validate_no_backsteps(value, path, errors);
}

/// Refuses a path that goes up.
pub(super) fn validate_no_backsteps(value: &Value, path: &Path, errors: &mut Errors) {
    if goes_up(text(value)) {
        errors.invalid(path, value, "must not contain '..'");
    }
}

pub(super) fn goes_up(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// Checks the path of a file in a volume. Names that begin with `..` are the node's own.
pub(super) fn validate_local_path(value: &Value, path: &Path, errors: &mut Errors) {
    validate_descending(value, path, errors);
    if text(value).starts_with("..") && !text(value).starts_with("../") {
        errors.invalid(path, value, "must not start with '..'");
    }
}
