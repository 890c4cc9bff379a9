//! `format`: texts with clauses such as `%s` and `%.2f`, as the version of Kubernetes' environment writes them.

use super::args::go_quoted;
use super::convert::string;
use super::time;
use crate::cel::budget::CelError;
use crate::cel::values::{Key, Value, failed};

const DEFAULT_PRECISION: usize = 6;
/// Digits after the point.
const MAX_PRECISION: usize = 1_000;
/// Bytes that one call may write.
const MAX_BYTES: usize = 16 << 20;
/// Levels of lists in lists.
const MAX_DEPTH: usize = 64;

/// How a clause writes its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cel) enum Verb {
    String,
    Decimal,
    Fixed(usize),
    Scientific,
    Binary,
    Hex { upper: bool },
    Octal,
}

impl Verb {
    /// The reason why an argument of a type cannot be written so.
    pub(in crate::cel) fn refusal(self, type_name: &str) -> String {
        let what = match self {
            Verb::String => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
            }
            Verb::Decimal => "decimal clause can only be used on integers",
            Verb::Fixed(_) => "fixed-point clause can only be used on doubles",
            Verb::Scientific => "scientific clause can only be used on doubles",
            Verb::Binary => "only integers and bools can be formatted as binary",
            Verb::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Verb::Octal => "octal clause can only be used on integers",
        };
        format!("error during formatting: {what}, was given {type_name}")
    }
}

/// Reads the clauses of a format before its arguments have values.
pub(in crate::cel) trait FormatCheck {
    /// Checks the argument of a clause.
    fn argument(&mut self, index: usize, verb: Verb) -> Result<(), (usize, String)>;
    fn count(&self) -> usize;
}

/// Checks a format; returns the number of arguments that it needs, or the error and the argument that it is about.
pub(in crate::cel) fn check_format(
    format: &str,
    check: &mut dyn FormatCheck,
) -> Result<usize, (Option<usize>, String)> {
    let mut used = 0;
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return Err((None, "unexpected end of string".to_owned()));
        }
        if used >= check.count() {
            return Err((None, format!("index {used} out of range")));
        }
        let (verb, after) = clause(rest).map_err(|error| (None, error.to_string()))?;
        check.argument(used, verb).map_err(|(at, why)| (Some(at), why))?;
        rest = after;
        used += 1;
    }
    Ok(used)
}

/// A clause after its `%`, and the text after it.
fn clause(text: &str) -> Result<(Verb, &str), CelError> {
    let failed = |why: &str| failed(format!("could not parse formatting clause: {why}"));
    let (precision, rest) = match text.strip_prefix('.') {
        None => (None, text),
        Some(rest) => {
            let end = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = rest.split_at(end);
            if rest.is_empty() {
                return failed("error while parsing precision: could not find end of precision specifier");
            }
            match digits.parse::<usize>() {
                Ok(precision) => (Some(precision.min(MAX_PRECISION)), rest),
                Err(_) => {
                    let digits = go_quoted(digits);
                    return failed(&format!(
                        "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {digits}: invalid syntax"
                    ));
                }
            }
        }
    };
    let verb = match rest.chars().next() {
        Some('s') => Verb::String,
        Some('d') => Verb::Decimal,
        Some('f') => Verb::Fixed(precision.unwrap_or(DEFAULT_PRECISION)),
        Some('e') => Verb::Scientific,
        Some('b') => Verb::Binary,
        Some('x') => Verb::Hex { upper: false },
        Some('X') => Verb::Hex { upper: true },
        Some('o') => Verb::Octal,
        // Upstream reads one byte.
        Some(other) => {
            let byte = other.to_string().bytes().next().map(char::from).unwrap_or(other);
            return failed(&format!("unrecognized formatting clause \"{byte}\""));
        }
        None => return failed("could not find end of precision specifier"),
    };
    Ok((verb, &rest[1..]))
}

/// Writes the arguments into a format.
pub(super) fn format(format: &str, args: &[Value<'_>]) -> Result<String, CelError> {
    let mut out = String::new();
    let mut args = args.iter().enumerate();
    let mut used = 0;
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let Some((_, arg)) = args.next() else { return failed(format!("index {used} out of range")) };
        if rest.is_empty() {
            return failed("unexpected end of string");
        }
        let (verb, after) = clause(rest)?;
        write(verb, arg, &mut out)?;
        if out.len() > MAX_BYTES {
            return Err(CelError::Budget);
        }
        rest = after;
        used += 1;
    }
    out.push_str(rest);
    Ok(out)
}

fn write(verb: Verb, arg: &Value<'_>, out: &mut String) -> Result<(), CelError> {
    let refused = || failed(verb.refusal(arg.type_name()));
    let text = match (verb, arg) {
        (Verb::String, _) => return write_string(verb, arg, out),
        (Verb::Decimal, Value::Int(value)) => value.to_string(),
        (Verb::Decimal, Value::Uint(value)) => value.to_string(),
        (Verb::Fixed(precision), arg) => match double(arg) {
            Some(value) => localized(value, |value| grouped(&format!("{value:.precision$}"))),
            None => return refused(),
        },
        (Verb::Scientific, arg) => match double(arg) {
            Some(value) => localized(value, scientific),
            None => return refused(),
        },
        (Verb::Binary, Value::Int(value)) => signed(*value, |value| format!("{value:b}")),
        (Verb::Binary, Value::Uint(value)) => format!("{value:b}"),
        (Verb::Binary, Value::Bool(value)) => u8::from(*value).to_string(),
        (Verb::Octal, Value::Int(value)) => signed(*value, |value| format!("{value:o}")),
        (Verb::Octal, Value::Uint(value)) => format!("{value:o}"),
        (Verb::Hex { upper }, arg) => {
            let lower = match arg {
                Value::Int(value) => signed(*value, |value| format!("{value:x}")),
                Value::Uint(value) => format!("{value:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => return refused(),
            };
            if upper { lower.to_uppercase() } else { lower }
        }
        _ => return refused(),
    };
    out.push_str(&text);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signed(value: i64, write: impl Fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", write(value.unsigned_abs()))
}

/// The number of a double, or of a text that names one.
fn double(arg: &Value<'_>) -> Option<f64> {
    match arg {
        Value::Double(value) => Some(*value),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// A number in the notation of the locale `en-US`.
fn localized(value: f64, write: impl Fn(f64) -> String) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_infinite() {
        return format!("{sign}∞");
    }
    format!("{sign}{}", write(value.abs()))
}

/// Digits in groups of three before the point.
fn grouped(text: &str) -> String {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text, String::new()),
    };
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + &fraction
}

fn scientific(value: f64) -> String {
    let plain = format!("{value:.6e}");
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("⁻", digits),
        None => ("", exponent),
    };
    let raised: String = format!("{digits:0>2}")
        .chars()
        .map(|digit| match digit {
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            other => char::from_u32(0x2070 + other.to_digit(10).unwrap_or(0)).unwrap_or(other),
        })
        .collect();
    format!("{mantissa}×10{sign}{raised}")
}

fn write_string(verb: Verb, arg: &Value<'_>, out: &mut String) -> Result<(), CelError> {
    match arg {
        Value::List(_) | Value::Map(_) => nested(arg, MAX_DEPTH, out),
        Value::Null => {
            out.push_str("null");
            Ok(())
        }
        Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Timestamp(_)
        | Value::Bytes(_)
        | Value::Duration(_)
        | Value::Type(_) => {
            out.push_str(&string(arg)?);
            Ok(())
        }
        other => failed(verb.refusal(other.type_name())),
    }
}

/// A value within a list or map, in the notation of the language.
fn nested(value: &Value<'_>, depth: usize, out: &mut String) -> Result<(), CelError> {
    if depth == 0 || out.len() > MAX_BYTES {
        return Err(CelError::Budget);
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::String(text) => out.push_str(&go_quoted(text)),
        Value::Bytes(bytes) => out.push_str(&format!("b{}", go_quoted(&String::from_utf8_lossy(bytes)))),
        Value::Double(value) if !value.is_finite() => {
            out.push_str(&format!("\"{}\"", super::convert::go_double(*value)))
        }
        Value::Double(value) => out.push_str(&format!("{value:.6}")),
        Value::Timestamp(at) => {
            out.push_str(&format!("timestamp(\"{}\")", at));
        }
        Value::Duration(span) => out.push_str(&format!("duration(\"{}\")", time::seconds_text(*span))),
        Value::Type(name) => out.push_str(&format!("type({name})")),
        Value::Int(_) | Value::Uint(_) | Value::Bool(_) => out.push_str(&string(value)?),
        Value::List(list) => {
            out.push('[');
            for (at, item) in list.items()?.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                nested(item, depth - 1, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                let Some(found) = map.get(&key.value()) else { continue };
                let name = match &key {
                    Key::String(name) => go_quoted(name),
                    other => string(&other.value())?,
                };
                let mut value = String::new();
                nested(&found?, depth - 1, &mut value)?;
                entries.push((name, value));
            }
            entries.sort();
            let entries: Vec<String> =
                entries.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
            out.push_str(&format!("{{{}}}", entries.join(", ")));
        }
        other => {
            return failed(format!(
                "error during formatting: no formatting function for {}",
                other.type_name()
            ));
        }
    }
    Ok(())
}

/// A value in an error message.
pub(super) fn shown(value: &Value<'_>) -> String {
    string(value).unwrap_or_else(|_| value.type_name().to_owned())
}
