//! Conversions between types, and the notations of numbers.

use std::sync::Arc;

use super::time;
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::moment::{Moment, parse_duration};
use crate::cel::types::Type;
use crate::cel::values::{Value, failed, no_overload};

type Made<'a> = Result<Value<'a>, CelError>;

/// 2^63 and 2^64, the first doubles beyond the whole numbers.
const INT_END: f64 = 9_223_372_036_854_775_808.0;
const UINT_END: f64 = 18_446_744_073_709_551_616.0;

/// The power of ten from which a double is written with an exponent.
const EXPONENT_FROM: i32 = 6;

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let a = Type::Variable(0);
    table.global("type", "type", [a.clone()], Type::Type(Arc::new(a.clone())), |args| match args {
        [value] => Ok(Value::Type(Arc::from(value.type_name()))),
        _ => no_overload(),
    });
    table.global("dyn", "to_dyn", [a], Type::Dyn, |args| args.first().cloned().map_or_else(no_overload, Ok));
    for (id, of) in [("bool_to_bool", Bool), ("string_to_bool", String)] {
        table.global("bool", id, [of], Bool, to_bool);
    }
    for (id, of) in [("bytes_to_bytes", Bytes), ("string_to_bytes", String)] {
        table.global("bytes", id, [of], Bytes, to_bytes);
    }
    for (id, of) in [
        ("double_to_double", Double),
        ("int64_to_double", Int),
        ("string_to_double", String),
        ("uint64_to_double", Uint),
    ] {
        table.global("double", id, [of], Double, to_double);
    }
    for (id, of) in
        [("duration_to_duration", Duration), ("int64_to_duration", Int), ("string_to_duration", String)]
    {
        table.global("duration", id, [of], Duration, to_duration);
    }
    for (id, of) in [
        ("int64_to_int64", Int),
        ("double_to_int64", Double),
        ("duration_to_int64", Duration),
        ("string_to_int64", String),
        ("timestamp_to_int64", Timestamp),
        ("uint64_to_int64", Uint),
    ] {
        table.global("int", id, [of], Int, to_int);
    }
    declare_texts(table);
}

fn declare_texts(table: &mut Table) {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    for (id, of) in [
        ("string_to_string", String),
        ("bool_to_string", Bool),
        ("bytes_to_string", Bytes),
        ("double_to_string", Double),
        ("duration_to_string", Duration),
        ("int64_to_string", Int),
        ("timestamp_to_string", Timestamp),
        ("uint64_to_string", Uint),
    ] {
        table.global("string", id, [of], String, |args| match args {
            [value] => string(value).map(Value::text),
            _ => no_overload(),
        });
    }
    for (id, of) in
        [("timestamp_to_timestamp", Timestamp), ("int64_to_timestamp", Int), ("string_to_timestamp", String)]
    {
        table.global("timestamp", id, [of], Timestamp, to_timestamp);
    }
    for (id, of) in [
        ("uint64_to_uint64", Uint),
        ("double_to_uint64", Double),
        ("int64_to_uint64", Int),
        ("string_to_uint64", String),
    ] {
        table.global("uint", id, [of], Uint, to_uint);
    }
}

fn unconvertible<'a>(to: &str) -> Made<'a> {
    failed(format!("type conversion error from 'string' to '{to}'"))
}

fn to_bool<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(*value)),
        [Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => unconvertible("bool"),
        },
        _ => no_overload(),
    }
}

fn to_bytes<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
        [Value::String(text)] => Ok(Value::Bytes(Arc::from(text.as_bytes()))),
        _ => no_overload(),
    }
}

fn to_double<'a>(args: &[Value<'a>]) -> Made<'a> {
    Ok(Value::Double(match args {
        [Value::Double(value)] => *value,
        [Value::Int(value)] => *value as f64,
        [Value::Uint(value)] => *value as f64,
        [Value::String(text)] => match parse_double(text) {
            Some(value) => value,
            None => return unconvertible("double"),
        },
        _ => return no_overload(),
    }))
}

/// A decimal number or a name of infinity or NaN; a number out of range is none.
fn parse_double(text: &str) -> Option<f64> {
    let plain = text.trim_start_matches(['+', '-']);
    if plain.is_empty() || text.len() > plain.len() + 1 {
        return None;
    }
    let named = ["inf", "infinity", "nan"].iter().any(|name| plain.eq_ignore_ascii_case(name));
    let value: f64 = text.parse().ok()?;
    (named || value.is_finite()).then_some(value)
}

fn to_duration<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Duration(span)] => Ok(Value::Duration(*span)),
        // Upstream declares this conversion and does not have it.
        [Value::Int(_)] => failed("type conversion error from 'int' to 'google.protobuf.Duration'"),
        [Value::String(text)] => match parse_duration(text) {
            Some(span) => Ok(Value::Duration(span)),
            None => unconvertible("google.protobuf.Duration"),
        },
        _ => no_overload(),
    }
}

fn to_int<'a>(args: &[Value<'a>]) -> Made<'a> {
    Ok(Value::Int(match args {
        [Value::Int(value)] => *value,
        [Value::Double(value)] if *value > -INT_END && *value < INT_END => value.trunc() as i64,
        [Value::Double(_)] => return failed("integer overflow"),
        [Value::Duration(nanos)] => *nanos,
        [Value::Timestamp(at)] => at.seconds(),
        [Value::Uint(value)] => match i64::try_from(*value) {
            Ok(value) => value,
            Err(_) => return failed("integer overflow"),
        },
        [Value::String(text)] => match text.parse() {
            Ok(value) => value,
            Err(_) => return unconvertible("int"),
        },
        _ => return no_overload(),
    }))
}

fn to_uint<'a>(args: &[Value<'a>]) -> Made<'a> {
    Ok(Value::Uint(match args {
        [Value::Uint(value)] => *value,
        [Value::Double(value)] if *value >= 0.0 && *value < UINT_END => value.trunc() as u64,
        [Value::Double(_)] => return failed("unsigned integer overflow"),
        [Value::Int(value)] => match u64::try_from(*value) {
            Ok(value) => value,
            Err(_) => return failed("unsigned integer overflow"),
        },
        [Value::String(text)] if !text.starts_with('+') => match text.parse() {
            Ok(value) => value,
            Err(_) => return unconvertible("uint"),
        },
        [Value::String(_)] => return unconvertible("uint"),
        _ => return no_overload(),
    }))
}

fn to_timestamp<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Timestamp(at)] => Ok(Value::Timestamp(*at)),
        [Value::Int(seconds)] => match Moment::of_seconds(*seconds) {
            Some(at) => Ok(Value::Timestamp(at)),
            None => failed("timestamp overflow"),
        },
        [Value::String(text)] => match Moment::parse(text) {
            Some(at) => Ok(Value::Timestamp(at)),
            None => unconvertible("google.protobuf.Timestamp"),
        },
        _ => no_overload(),
    }
}

/// A value as `string()` writes it.
pub(super) fn string(value: &Value<'_>) -> Result<String, CelError> {
    Ok(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => go_double(*value),
        Value::Duration(span) => time::seconds_text(*span),
        Value::Timestamp(at) => at.to_string(),
        Value::Type(name) => name.to_string(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        _ => return no_overload(),
    })
}

/// A double in Go's shortest notation.
pub(super) fn go_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..EXPONENT_FROM).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}
