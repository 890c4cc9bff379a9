//! Label selectors as fields hold them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::names::{NameForm, validate_labels, validate_name};
use crate::value::{items, text};

/// Checks a label selector.
pub(super) fn validate_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    validate_selector_with(selector, true, path, errors);
}

/// As [`validate_selector`]; `checks_values` is whether the values of expressions must be those that a label may have.
pub(super) fn validate_selector_with(
    selector: &Value,
    checks_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    if !selector.is_object() {
        return;
    }
    validate_labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    for (i, expression) in items(selector, "matchExpressions").enumerate() {
        let at = path.child("matchExpressions").index(i);
        let has_values = items(expression, "values").next().is_some();
        match text(&expression["operator"]) {
            "In" | "NotIn" if !has_values => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&at.child("values"), detail);
            }
            "Exists" | "DoesNotExist" if has_values => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&at.child("values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.child("operator"), &other.into(), "not a valid selector operator"),
        }
        validate_name(text(&expression["key"]), NameForm::LabelKey, &at.child("key"), errors);
        for (j, value) in items(expression, "values").enumerate().filter(|_| checks_values) {
            validate_name(text(value), NameForm::LabelValue, &at.child("values").index(j), errors);
        }
    }
}

/// A selector as upstream shows it: keys sorted, and every field of its expressions.
pub(super) fn shown_selector(selector: &Value) -> Value {
    let mut shown = Map::new();
    let labels: BTreeMap<&String, &Value> =
        selector["matchLabels"].as_object().into_iter().flatten().collect();
    if !labels.is_empty() {
        shown.insert("matchLabels".into(), json!(labels));
    }
    let expressions = items(selector, "matchExpressions").map(|expression| {
        let mut shown = json!({"key": text(&expression["key"]), "operator": text(&expression["operator"])});
        if items(expression, "values").next().is_some() {
            shown["values"] = expression["values"].clone();
        }
        shown
    });
    let expressions: Vec<Value> = expressions.collect();
    if !expressions.is_empty() {
        shown.insert("matchExpressions".into(), expressions.into());
    }
    Value::Object(shown)
}
