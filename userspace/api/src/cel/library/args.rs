//! What the libraries share: the arguments of calls, limits of what calls make, and Go's quotes.

use std::any::Any;

use crate::cel::budget::CelError;
use crate::cel::values::{Value, failed, no_overload};

/// Items of a list that an expression makes.
pub(in crate::cel) const MAX_ITEMS: usize = 4_000_000;
/// Bytes of a text that an expression makes; a longer one would exceed the budget when it is read.
const MAX_TEXT_BYTES: usize = 64 << 20;

pub(super) fn text<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v str, CelError> {
    match args.get(index) {
        Some(Value::String(text)) => Ok(text),
        _ => no_overload(),
    }
}

pub(super) fn int(args: &[Value<'_>], index: usize) -> Result<i64, CelError> {
    match args.get(index) {
        Some(Value::Int(int)) => Ok(*int),
        _ => no_overload(),
    }
}

pub(super) fn items<'a>(args: &[Value<'a>], index: usize) -> Result<Vec<Value<'a>>, CelError> {
    match args.get(index) {
        Some(Value::List(list)) => list.items(),
        _ => no_overload(),
    }
}

/// An argument of a library's type.
pub(super) fn library<'v, T: Any>(args: &'v [Value<'_>], index: usize) -> Result<&'v T, CelError> {
    args.get(index).and_then(Value::as_library).map_or_else(no_overload, Ok)
}

/// A place in a text or list; `Err` if it is out of range.
pub(super) fn position(index: i64, most: usize) -> Result<usize, CelError> {
    match usize::try_from(index) {
        Ok(at) if at <= most => Ok(at),
        _ => failed(format!("index out of range: {index}")),
    }
}

/// Refuses a text that is longer than any budget allows to read.
pub(super) fn bounded_text(bytes: usize) -> Result<(), CelError> {
    if bytes > MAX_TEXT_BYTES { Err(CelError::Budget) } else { Ok(()) }
}

/// Refuses a list that is longer than an expression may make.
pub(super) fn bounded_list(count: usize) -> Result<(), CelError> {
    if count > MAX_ITEMS { Err(CelError::Budget) } else { Ok(()) }
}

/// A text in double quotes with Go's escapes.
pub(super) fn go_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
