//! Bounds of JSON documents: how deep they nest. Parsers, copies, comparisons and drops of a value recurse once a level, so
//! a value that a request builds must not nest deeper than a thread's stack allows.

use serde_json::Value;

/// Levels of lists and objects in an object of the API. JSON parsers, ours and clients' (serde_json), stop at 127; the
/// difference is for what surrounds an object: a list, a watch event, a review, and the managed fields that mirror it.
pub const MAX_DEPTH: usize = 100;

/// Whether a value has more than [`MAX_DEPTH`] levels. Recurses no deeper than that.
pub fn is_too_deep(value: &Value) -> bool {
    !fits(value, MAX_DEPTH)
}

/// Whether a value has at most `levels` levels of lists and objects.
pub(crate) fn fits(value: &Value, levels: usize) -> bool {
    let inner = levels.checked_sub(1);
    match (value, inner) {
        (Value::Array(_) | Value::Object(_), None) => false,
        (Value::Array(items), Some(inner)) => items.iter().all(|item| fits(item, inner)),
        (Value::Object(fields), Some(inner)) => fields.values().all(|value| fits(value, inner)),
        _ => true,
    }
}

/// Number of values in a value, itself included.
pub(crate) fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn levels_are_lists_and_objects() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(!is_too_deep(&nested(MAX_DEPTH)));
        assert!(is_too_deep(&nested(MAX_DEPTH + 1)));
        assert!(fits(&json!("x"), 0) && fits(&json!({}), 1) && !fits(&json!({"a": []}), 1));
        assert_eq!(count(&json!({"a": [1, 2], "b": {}})), 5);
    }
}
