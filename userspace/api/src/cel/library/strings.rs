//! Texts. Positions count characters.

use super::args::{bounded_text, int, items, position, text};
use super::format;
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::types::Type;
use crate::cel::values::{Value, failed};

type Made<'a> = Result<Value<'a>, CelError>;

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Int, String};
    let two = [String, String];
    table.member("contains", "contains_string", &two, Bool, |args| {
        Ok(Value::Bool(text(args, 0)?.contains(text(args, 1)?)))
    });
    table.member("endsWith", "ends_with_string", &two, Bool, |args| {
        Ok(Value::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
    });
    table.member("startsWith", "starts_with_string", &two, Bool, |args| {
        Ok(Value::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
    });
    table.member("charAt", "string_char_at_int", [String, Int], String, |args| {
        let (text, index) = (text(args, 0)?, int(args, 1)?);
        let at = position(index, text.chars().count())?;
        Ok(Value::text(text.chars().nth(at).map(|c| c.to_string()).unwrap_or_default()))
    });
    table.member("indexOf", "string_index_of_string", &two, Int, |args| index_of(args, 0));
    table.member("indexOf", "string_index_of_string_int", [String, String, Int], Int, |args| {
        index_of(args, int(args, 2)?)
    });
    table.member("lastIndexOf", "string_last_index_of_string", &two, Int, last_index_of);
    table.member("lastIndexOf", "string_last_index_of_string_int", [String, String, Int], Int, |args| {
        last_index_of_from(args, int(args, 2)?)
    });
    table.member("lowerAscii", "string_lower_ascii", [String], String, |args| {
        Ok(Value::text(text(args, 0)?.to_ascii_lowercase()))
    });
    table.member("upperAscii", "string_upper_ascii", [String], String, |args| {
        Ok(Value::text(text(args, 0)?.to_ascii_uppercase()))
    });
    declare_parts(table);
}

fn declare_parts(table: &mut Table) {
    use Type::{Int, String};
    let two = [String, String];
    let three = [String, String, String];
    table.member("replace", "string_replace_string_string", &three, String, |args| replace(args, -1));
    table.member(
        "replace",
        "string_replace_string_string_int",
        [String, String, String, Int],
        String,
        |args| replace(args, int(args, 3)?),
    );
    let list = || Type::list(String);
    table.member("split", "string_split_string", &two, list(), |args| split(args, -1));
    table.member("split", "string_split_string_int", [String, String, Int], list(), |args| {
        split(args, int(args, 2)?)
    });
    table.member("substring", "string_substring_int", [String, Int], String, |args| {
        let text = text(args, 0)?;
        let at = position(int(args, 1)?, text.chars().count())?;
        Ok(Value::text(text.chars().skip(at).collect::<std::string::String>()))
    });
    table.member("substring", "string_substring_int_int", [String, Int, Int], String, substring);
    table.member("trim", "string_trim", [String], String, |args| Ok(Value::text(text(args, 0)?.trim())));
    table.member("format", "string_format", [String, Type::list(Type::Dyn)], String, |args| {
        format::format(text(args, 0)?, &items(args, 1)?).map(Value::text)
    });
    table.global("strings.quote", "strings_quote", [String], String, |args| {
        Ok(Value::text(quoted(text(args, 0)?)))
    });
    table.member("join", "list_join", [list()], String, |args| join(args, ""));
    table.member("join", "list_join_string", [list(), String], String, |args| join(args, text(args, 1)?));
}

fn whole<'a>(at: usize) -> Made<'a> {
    Ok(Value::Int(i64::try_from(at).unwrap_or(i64::MAX)))
}

fn index_of<'a>(args: &[Value<'a>], from: i64) -> Made<'a> {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let Ok(start) = usize::try_from(from) else { return failed(format!("index out of range: {from}")) };
    let Some((offset, _)) = text.char_indices().nth(start) else { return Ok(Value::Int(-1)) };
    match text[offset..].find(part) {
        Some(at) => whole(start + text[offset..offset + at].chars().count()),
        None => Ok(Value::Int(-1)),
    }
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Made<'a> {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    if part.is_empty() {
        return whole(text.chars().count());
    }
    match text.rfind(part) {
        Some(at) => whole(text[..at].chars().count()),
        None => Ok(Value::Int(-1)),
    }
}

fn last_index_of_from<'a>(args: &[Value<'a>], from: i64) -> Made<'a> {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let Ok(start) = usize::try_from(from) else { return failed(format!("index out of range: {from}")) };
    let Some((offset, _)) = text.char_indices().nth(start) else { return Ok(Value::Int(-1)) };
    // The part may begin at the position, and so end after it.
    let end = text.len().min(offset + part.len());
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    match text[..end].rfind(part) {
        Some(at) => whole(text[..at].chars().count()),
        None => Ok(Value::Int(-1)),
    }
}

fn replace<'a>(args: &[Value<'a>], times: i64) -> Made<'a> {
    let (text, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let times = usize::try_from(times).unwrap_or(usize::MAX);
    let most = if from.is_empty() { text.chars().count() + 1 } else { text.len() / from.len() };
    bounded_text(text.len().saturating_add(most.min(times).saturating_mul(to.len())))?;
    Ok(Value::text(text.replacen(from, to, times)))
}

fn split<'a>(args: &[Value<'a>], most: i64) -> Made<'a> {
    let (text, separator) = (text(args, 0)?, text(args, 1)?);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let parts: Vec<&str> = if separator.is_empty() {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == most {
                parts.push(rest);
                break;
            }
            let (first, after) = rest.split_at(c.len_utf8());
            parts.push(first);
            rest = after;
        }
        parts
    } else {
        text.splitn(most, separator).collect()
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

fn substring<'a>(args: &[Value<'a>]) -> Made<'a> {
    let (text, start, end) = (text(args, 0)?, int(args, 1)?, int(args, 2)?);
    if start > end {
        return failed(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let count = text.chars().count();
    let (from, to) = (position(start, count)?, position(end, count)?);
    Ok(Value::text(text.chars().skip(from).take(to - from).collect::<String>()))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn join<'a>(args: &[Value<'a>], separator: &str) -> Made<'a> {
    let mut out = String::new();
    for (at, item) in items(args, 0)?.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        match item {
            Value::String(text) => out.push_str(text),
            other => return failed(format!("join: invalid input: {}", format::shown(other))),
        }
        bounded_text(out.len())?;
    }
    Ok(Value::text(out))
}
