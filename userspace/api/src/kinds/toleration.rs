//! Tolerations, of pods and of runtime classes.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems, validate_optional_name};
use crate::value::{items, one_of, text};

pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks the tolerations in a field of `object`.
pub(super) fn validate_tolerations(object: &Value, path: &Path, errors: &mut Errors) {
    for (i, toleration) in items(object, "tolerations").enumerate() {
        let at = path.child("tolerations").index(i);
        validate_optional_name(toleration, "key", NameForm::LabelKey, &at, errors);
        let (operator, value, effect) =
            (text(&toleration["operator"]), text(&toleration["value"]), text(&toleration["effect"]));
        let operator_at = at.child("operator");
        if text(&toleration["key"]).is_empty() && operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&operator_at, &operator.into(), detail);
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.child("effect"), &effect.into(), detail);
        }
        match operator {
            "" | "Equal" => {
                let problems = name_problems(value, NameForm::LabelValue);
                if !problems.is_empty() {
                    errors.invalid(&operator_at, &value.into(), &problems.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(
                    &operator_at,
                    &value.into(),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            "Lt" | "Gt" => validate_number(value, &at.child("value"), errors),
            _ => errors.not_supported(&operator_at, &operator.into(), &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            one_of(toleration, "effect", &at, &EFFECTS, errors);
        }
    }
}

/// A decimal integer in its canonical form.
fn validate_number(value: &str, path: &Path, errors: &mut Errors) {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_canonical = !digits.is_empty()
        && digits.bytes().all(|c| c.is_ascii_digit())
        && (!digits.starts_with('0') || value == "0");
    if value.is_empty() {
        errors.invalid(path, &value.into(), "must be non-empty");
    } else if !is_canonical {
        errors.invalid(path, &value.into(), "must be a valid decimal integer in canonical form");
    }
    if value.parse::<i64>().is_err() {
        let is_number = digits.bytes().all(|c| c.is_ascii_digit()) && !digits.is_empty();
        let problem = if is_number { "value out of range" } else { "invalid syntax" };
        let detail = format!("strconv.ParseInt: parsing {value:?}: {problem}");
        errors.invalid(path, &value.into(), &detail);
    }
}
