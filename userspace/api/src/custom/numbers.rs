//! Numbers of custom resources in the form of Go's encoder: a whole number has no fraction.

use serde_json::Value;

/// Beyond this, Go writes an exponent.
const MAX_WHOLE: f64 = 1e15;

/// Makes `100.0` the integer 100, everywhere in a value.
pub(super) fn normalize(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) =
                number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < MAX_WHOLE)
            {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(fields) => fields.values_mut().for_each(normalize),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_lose_their_fraction() {
        let mut value = json!({"a": [100.0, -1.0, 0.5, 1e20], "b": {"c": 7}});
        normalize(&mut value);
        assert_eq!(value.to_string(), r#"{"a":[100,-1,0.5,1e+20],"b":{"c":7}}"#);
    }
}
