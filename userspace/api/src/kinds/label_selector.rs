//! Label selectors as fields hold them.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::selector::LabelSelector;

pub(super) fn validate_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    if let Err(bad) = LabelSelector::from_object(selector) {
        errors.invalid(path, selector, &bad.0);
    }
}
