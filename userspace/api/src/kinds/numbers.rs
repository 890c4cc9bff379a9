//! Numbers, percentages and quantities as fields hold them.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::resources::quantity;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Each of these fields, if it is there, is 0 or more.
pub(super) fn not_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        if object[*field].as_i64().is_some_and(|number| number < 0) {
            errors.invalid(&path.child(field), &object[*field], NOT_NEGATIVE);
        }
    }
}

/// A whole number from 0, or a percentage up to 100 %.
pub(super) fn count_or_percent(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(text) => match text.strip_suffix('%').map(str::parse::<u64>) {
            Some(Ok(percent)) if percent <= 100 => {}
            Some(Ok(_)) => errors.invalid(path, value, "must not be greater than 100%"),
            _ => errors.invalid(path, value, PERCENT),
        },
        value if value.as_i64().is_some_and(|number| number < 0) => errors.invalid(path, value, NOT_NEGATIVE),
        _ => {}
    }
}

/// Whether nothing comes of a count or percentage.
pub(super) fn is_zero(value: &Value) -> bool {
    value == 0 || value == "0" || value == "0%"
}

/// The quantities of a list of resources are 0 or more.
pub(super) fn quantities(resources: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in resources.as_object().into_iter().flatten() {
        if quantity(value).is_some_and(|amount| amount.millis() < 0) {
            errors.invalid(&path.key(name), value, NOT_NEGATIVE);
        }
    }
}
