//! Numbers, percentages and quantities as fields hold them.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::resources::quantity;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Refuses negative numbers in these fields.
pub(super) fn not_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        if object[*field].as_i64().is_some_and(|number| number < 0) {
            errors.invalid(&path.child(field), &object[*field], NOT_NEGATIVE);
        }
    }
}

/// Checks a number of at least 0, or a percentage of at most 100 %.
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

/// Whether a number or percentage is 0.
pub(super) fn is_zero(value: &Value) -> bool {
    value == 0 || value == "0" || value == "0%"
}

/// Refuses negative quantities in a resource list.
pub(super) fn quantities(resources: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in resources.as_object().into_iter().flatten() {
        if quantity(value).is_some_and(|amount| amount.millis() < 0) {
            errors.invalid(&path.key(name), value, NOT_NEGATIVE);
        }
    }
}
