//! Bounds of JSON documents: how deep they nest. Parsers, copies, comparisons and drops of a value recurse once a level, so
//! a value that a request builds must not nest deeper than a thread's stack allows.

use serde_json::Value;

/// Levels of lists and objects in an object of the API. JSON parsers, ours and clients' (serde_json), stop at 127; the
/// difference is for what surrounds an object: a list, a watch event, a review, and the managed fields that mirror it.
pub const MAX_DEPTH: usize = 100;

/// Levels that serde_json parses.
const MAX_PARSED_DEPTH: u32 = 127;

/// Whether a value has more than [`MAX_DEPTH`] levels. Recurses no deeper than that.
pub fn is_too_deep(value: &Value) -> bool {
    !fits(value, MAX_DEPTH)
}

/// Whether a JSON text has more levels than a JSON parser accepts (serde_json: 127). Brackets that do not match are not
/// found.
pub fn is_text_too_deep(json: &[u8]) -> bool {
    // Nearly every text has fewer brackets than allowed levels.
    if opening_brackets(json) <= MAX_PARSED_DEPTH as usize {
        return false;
    }
    let (mut levels, mut in_text, mut escaped) = (0u32, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => levels += 1,
            b'}' | b']' => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > MAX_PARSED_DEPTH {
            return true;
        }
    }
    false
}

/// Counted in bytes, 255 at a time, so that the compiler makes vectors of them. `[` and `{` differ in one bit.
fn opening_brackets(json: &[u8]) -> usize {
    let count = |piece: &[u8]| piece.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    json.chunks(u8::MAX.into()).map(|piece| usize::from(count(piece))).sum()
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
        let text = |levels: usize| format!("{}\"[\\\"[\"{}", "[".repeat(levels), "]".repeat(levels));
        for levels in [1, 127, 128] {
            let parsed = serde_json::from_str::<Value>(&text(levels)).is_ok();
            assert_eq!(is_text_too_deep(text(levels).as_bytes()), !parsed, "{levels}");
        }
        assert_eq!(count(&json!({"a": [1, 2], "b": {}})), 5);
    }
}
