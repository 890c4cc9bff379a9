//! Values without fields, as Go's decoders read them. Out: their canonical form, or why they cannot be decoded.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::facts::{Scalar, Shape, named};
use super::time_form;
use crate::quantity::{BadQuantity, Quantity};

/// Go's zero time.
pub(super) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Whether values of this shape are times.
pub(super) fn is_time(shape: Shape) -> bool {
    match shape {
        Shape::Type(name) => named(name).and_then(|found| found.shape).is_some_and(is_time),
        shape => shape == Shape::Scalar(Scalar::Time),
    }
}

/// Why a value cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// It has another type.
    Type,
    /// It has the right type and a wrong form; Go's message.
    Form(String),
}

type Result<T> = std::result::Result<T, Undecodable>;

/// Checks a value; returns its canonical form if that is another one. Null is a value of every type.
pub(super) fn canonical(scalar: Scalar, value: &Value) -> Result<Option<Value>> {
    let unchanged_if = |fits: bool| if fits { Ok(None) } else { Err(Undecodable::Type) };
    match scalar {
        _ if value.is_null() => Ok(None),
        Scalar::String => unchanged_if(value.is_string()),
        Scalar::Int32 => int32(value),
        Scalar::Int64 => match value.as_i64() {
            Some(_) => Ok(None),
            None => negative_zero(value),
        },
        Scalar::Number => number(value),
        Scalar::Boolean => unchanged_if(value.is_boolean()),
        Scalar::Time => time(value, time_form::SECONDS),
        Scalar::Base64 => bytes(value),
        Scalar::Quantity => quantity(value, Quantity::canonical),
        Scalar::IntOrString if value.is_string() => Ok(None),
        Scalar::IntOrString => int32(value),
        Scalar::Object => unchanged_if(value.is_object()),
        Scalar::Any => Ok(None),
    }
}

/// As [`canonical`], for a time in microseconds.
pub(super) fn canonical_micro_time(value: &Value) -> Result<Option<Value>> {
    if value.is_null() { Ok(None) } else { time(value, time_form::MICROSECONDS) }
}

fn int32(value: &Value) -> Result<Option<Value>> {
    match value.as_i64() {
        Some(number) if i32::try_from(number).is_ok() => Ok(None),
        Some(_) => Err(Undecodable::Type),
        None => negative_zero(value),
    }
}

/// `-0` is an integer in Go, and a float to our parser.
fn negative_zero(value: &Value) -> Result<Option<Value>> {
    match value.as_f64() {
        Some(number) if number == 0.0 && number.is_sign_negative() => Ok(Some(0.into())),
        _ => Err(Undecodable::Type),
    }
}

/// Go's decoder skips line breaks in base64 and ignores the unused bits of the last digit.
fn bytes(value: &Value) -> Result<Option<Value>> {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&ALPHABET, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    let Some(text) = value.as_str() else { return Err(Undecodable::Type) };
    if STANDARD.decode(text).is_ok() {
        return Ok(None);
    }
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match LENIENT.decode(&compact) {
        Ok(bytes) => Ok(Some(STANDARD.encode(bytes).into())),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                // Go names the beginning of the incomplete group.
                _ => compact.len() - compact.len() % 4,
            };
            Err(Undecodable::Form(format!("illegal base64 data at input byte {at}")))
        }
    }
}

/// A double; Go writes a whole one without a fraction.
fn number(value: &Value) -> Result<Option<Value>> {
    /// Whole numbers up to here are exact.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(number) = value.as_f64() else { return Err(Undecodable::Type) };
    let is_whole = value.is_f64() && number.fract() == 0.0 && number.abs() <= MAX_EXACT;
    // Zero may be negative, which no integer is.
    Ok((is_whole && !(number == 0.0 && number.is_sign_negative())).then(|| Value::from(number as i64)))
}

/// Writes the whole numbers in a value without a fraction. The depth of a body is bounded.
pub fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(_) => {
            if let Ok(Some(canonical)) = number(value) {
                *value = canonical;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// As [`canonical`], for a quantity in a list of resources.
pub(super) fn canonical_resource(value: &Value) -> Result<Option<Value>> {
    if value.is_null() { Ok(Some("0".into())) } else { quantity(value, Quantity::canonical_resource) }
}

/// Whether values of this shape are quantities.
pub(super) fn is_quantity(shape: Shape) -> bool {
    match shape {
        Shape::Type(name) => named(name).and_then(|found| found.shape).is_some_and(is_quantity),
        shape => shape == Shape::Scalar(Scalar::Quantity),
    }
}

/// A quantity as text; a number is one too.
fn quantity(
    value: &Value,
    canonical: fn(&str) -> std::result::Result<Option<String>, BadQuantity>,
) -> Result<Option<Value>> {
    let number;
    let text = match value {
        Value::String(text) => text.trim(),
        value => {
            number = value.to_string();
            &number
        }
    };
    let canonical = canonical(text).map_err(|error| Undecodable::Form(error.to_string()))?;
    let is_text = value.as_str() == Some(text);
    Ok(canonical.or_else(|| (!is_text).then(|| text.to_owned())).map(Value::from))
}

/// A time in UTC with the fraction of its form. Go's zero time is null.
fn time(value: &Value, form: time_form::Form) -> Result<Option<Value>> {
    let Some(text) = value.as_str() else { return Err(Undecodable::Type) };
    form.check(text).map_err(|problem| Undecodable::Form(problem.0))?;
    let refused = || {
        let message = "Time.MarshalJSON: year outside of range [0,9999]";
        Undecodable::Form(message.to_owned())
    };
    // Go accepts a comma before the fraction.
    let at: Timestamp = text.replace(',', ".").parse().map_err(|_| refused())?;
    let civil = at.to_zoned(TimeZone::UTC);
    if civil.year() < 0 {
        return Err(refused());
    }
    if (civil.year(), civil.day_of_year(), at.as_second() % 86_400, at.subsec_nanosecond()) == (1, 1, 0, 0) {
        return Ok(Some(Value::Null));
    }
    let canonical = at.strftime(form.canonical).to_string();
    Ok((canonical != text).then(|| canonical.into()))
}

/// A value as Go's messages name it; numbers with their digits where a number is wanted.
pub(super) fn found(value: &Value, wanted: &str) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if matches!(wanted, "int32" | "int64" | "float64") => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_go_decodes_is_taken_in_its_canonical_form() {
        for (scalar, value, wanted) in [
            (Scalar::Int64, json!(-0.0), json!(0)),
            (Scalar::Base64, json!("QU\r\nJD\n"), json!("QUJD")),
            (Scalar::Base64, json!("QR=="), json!("QQ==")),
            (Scalar::Quantity, json!(0.5), json!("500m")),
            (Scalar::Quantity, json!(2), json!("2")),
            (Scalar::Quantity, json!(" 1Gi "), json!("1Gi")),
            (Scalar::Quantity, json!("1024Mi"), json!("1Gi")),
            (Scalar::Number, json!(2.0), json!(2)),
            (Scalar::Time, json!("2026-01-02T03:04:05.999+01:00"), json!("2026-01-02T02:04:05Z")),
            (Scalar::Time, json!("0001-01-01T00:00:00Z"), Value::Null),
        ] {
            assert_eq!(canonical(scalar, &value), Ok(Some(wanted)), "{scalar:?} {value}");
        }
        let micro = canonical_micro_time(&json!("2026-01-02T03:04:05.000001+01:00"));
        assert_eq!(micro, Ok(Some("2026-01-02T02:04:05.000001Z".into())));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for (scalar, values) in [
            (
                Scalar::Int32,
                vec![json!(2.0), json!(1e300), json!(2_147_483_648_i64), json!("1"), json!(true)],
            ),
            (Scalar::Int64, vec![json!(30.0), json!(u64::MAX), json!(1e18), json!([1])]),
            (Scalar::IntOrString, vec![json!(2_147_483_648_i64), json!(1.5), json!({}), json!(true)]),
            (Scalar::Base64, vec![json!("QQ= ="), json!("QQ==\t"), json!("QQ"), json!("_-=="), json!(1)]),
            (Scalar::Quantity, vec![json!(""), json!("x"), json!(true), json!({}), json!("1K")]),
            (
                Scalar::Time,
                [
                    "2026-01-02",
                    "2026-01-02 03:04:05Z",
                    "2026-01-02t03:04:05Z",
                    "2026-01-02T03:04:05z",
                    "20260102T030405Z",
                    "2026-01-02T03:04:60Z",
                    "2026-02-30T03:04:05Z",
                    "2026-01-02T24:04:05Z",
                    "2026-01-02T03:04:05+01",
                    "2026-01-02T03:04:05Z[UTC]",
                    "9999-12-31T23:59:59Z",
                    "+02026-01-02T03:04:05Z",
                    "",
                ]
                .map(Value::from)
                .into(),
            ),
        ] {
            for value in values {
                assert!(canonical(scalar, &value).is_err(), "{scalar:?} {value}");
            }
        }
        assert!(canonical_micro_time(&json!("2026-01-02T03:04:05Z")).is_err());
        let month = canonical(Scalar::Time, &json!("2026-13-02T03:04:05Z"));
        let text = "parsing time \"2026-13-02T03:04:05Z\": month out of range";
        assert_eq!(month, Err(Undecodable::Form(text.to_owned())));
    }
}
