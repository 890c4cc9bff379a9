//! The capacity of a device, and what a claim may request of it.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::quantity::Quantity;
use crate::resources::quantity;
use crate::value::{items, text};

const MAX_VALUES: usize = 10;

pub(super) fn validate_capacity(capacity: &Value, device: &Value, path: &Path, errors: &mut Errors) {
    let (policy, at) = (&capacity["requestPolicy"], path.child("requestPolicy"));
    if !policy.is_object() {
        return;
    }
    if device["allowMultipleAllocations"] != true {
        return errors.forbidden(&at, "allowMultipleAllocations must be true");
    }
    let (has_values, has_range) =
        (items(policy, "validValues").next().is_some(), policy["validRange"].is_object());
    let (field, validate) = match (has_values, has_range) {
        (true, true) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            return errors.forbidden(&at, detail);
        }
        (true, false) => ("validValues", validate_values as Validate),
        (false, true) => ("validRange", validate_range as Validate),
        (false, false) => return,
    };
    if policy["default"].is_null() {
        return errors.required(&at.child("default"), &format!("required when {field} is defined"));
    }
    validate(policy, &capacity["value"], &at.child(field), errors);
}

/// A policy and the whole capacity.
type Validate = fn(&Value, &Value, &Path, &mut Errors);

/// Whether both are quantities and the first is the larger.
fn exceeds(one: &Value, other: &Value) -> bool {
    matches!((quantity(one), quantity(other)), (Some(one), Some(other)) if one > other)
}

fn validate_values(policy: &Value, capacity: &Value, path: &Path, errors: &mut Errors) {
    let values: Vec<&Value> = items(policy, "validValues").collect();
    for (i, pair) in values.windows(2).enumerate() {
        if exceeds(pair[0], pair[1]) {
            errors.invalid(&path.index(i + 1), pair[1], "values must be sorted in ascending order");
        }
    }
    if values.len() > MAX_VALUES {
        errors.too_many(path, values.len(), MAX_VALUES);
    } else {
        for (i, value) in values.iter().enumerate().filter(|(_, value)| exceeds(value, capacity)) {
            let detail = format!("option is larger than capacity value: {}", text(capacity));
            errors.invalid(&path.index(i), value, &detail);
        }
        let mut seen = HashSet::new();
        for (i, value) in values.iter().enumerate() {
            let whole = quantity(value).map_or(0, Quantity::value);
            if !seen.insert(whole) {
                errors.duplicate(&path.index(i), &whole.to_string().into());
            }
        }
    }
    let is_default = |value: &&&Value| quantity(value) == quantity(&policy["default"]);
    if values.len() > MAX_VALUES || !values.iter().any(|value| is_default(&value)) {
        errors.invalid(path, &policy["default"], "default value is not valid according to the requestPolicy");
    }
}

fn validate_range(policy: &Value, capacity: &Value, path: &Path, errors: &mut Errors) {
    let (range, default) = (&policy["validRange"], &policy["default"]);
    let (min, max, step) = (&range["min"], &range["max"], &range["step"]);
    if min.is_null() {
        return errors.required(&path.child("min"), "required when validRange is defined");
    }
    let checks = [
        ("min", exceeds(min, capacity), min, "min is larger than capacity value", capacity),
        ("min", exceeds(min, default), default, "default is less than min", min),
        ("max", exceeds(min, max), min, "min is larger than max", max),
        ("max", exceeds(max, capacity), max, "max is larger than capacity value", capacity),
        ("max", exceeds(default, max), default, "default is more than max", max),
    ];
    for (field, _, shown, why, bound) in checks.into_iter().filter(|check| check.1) {
        errors.invalid(&path.child(field), shown, &format!("{why}: {}", text(bound)));
    }
    let (Some(first), Some(by)) = (quantity(min), quantity(step)) else { return };
    let at = path.child("step");
    let next = first.saturating_add(by);
    if quantity(capacity).is_some_and(|capacity| next > capacity) {
        let detail = format!("one step {next} is larger than capacity value: {}", text(capacity));
        errors.invalid(&at, step, &detail);
    }
    for value in [default, max].into_iter().filter(|value| !value.is_null()) {
        let distance = quantity(value).map_or(0, Quantity::value).saturating_sub(first.value());
        if distance.checked_rem(by.value()).is_some_and(|rest| rest != 0) {
            let detail =
                format!("value is not a multiple of a given step ({}) from ({})", text(step), text(min));
            errors.invalid(&at, value, &detail);
        }
    }
}
