//! Numbers, percentages and quantities as fields hold them.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems};
use crate::resources::quantity;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Refuses negative numbers in these fields.
pub(super) fn not_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        if object[*field].as_i64().is_some_and(|number| number < 0) {
            errors.invalid(&path.child(field), &object[*field], NOT_NEGATIVE);
        }
    }
}

/// Checks a number of at least 0, or a percentage.
pub(super) fn count_or_percent(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(text) => {
            for problem in name_problems(text, NameForm::Percent) {
                errors.invalid(path, value, problem);
            }
        }
        value if value.as_i64().is_some_and(|number| number < 0) => errors.invalid(path, value, NOT_NEGATIVE),
        _ => {}
    }
}

/// Refuses a percentage above 100 %.
pub(super) fn at_most_all(value: &Value, path: &Path, errors: &mut Errors) {
    if value.is_string() && count(value) > 100 {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// The number, or the number of percents; 0 for anything else.
pub(super) fn count(value: &Value) -> i64 {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or(text);
            digits.parse().unwrap_or_default()
        }
        value => value.as_i64().unwrap_or_default(),
    }
}

/// Refuses negative quantities in a resource list.
pub(super) fn quantities(resources: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in resources.as_object().into_iter().flatten() {
        if quantity(value).is_some_and(|amount| amount.millis() < 0) {
            errors.invalid(&path.key(name), value, NOT_NEGATIVE);
        }
    }
}

/// Warns of an amount of bytes that is not whole.
pub(super) fn warn_of_fraction(list: &Value, name: &str, path: &Path, warnings: &mut Vec<String>) {
    if let Some(amount) = quantity(&list[name]).filter(|amount| amount.millis() % 1000 != 0) {
        let (at, shown) = (path.key(name), amount.to_string());
        warnings.push(format!("{at}: fractional byte value {shown:?} is invalid, must be an integer"));
    }
}
