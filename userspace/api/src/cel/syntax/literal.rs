//! The values of literals from the text of their tokens.

use std::sync::Arc;

use super::ast::Literal;
use super::lexer::Kind;

/// The value of a number; `Err` is the reason that upstream gives.
pub(super) fn number(kind: Kind, text: &str, negative: bool) -> Result<Literal, &'static str> {
    let (radix, digits) = match text.strip_prefix("0x") {
        Some(hex) => (16, hex),
        None => (10, text),
    };
    match kind {
        Kind::Uint => {
            let digits = digits.trim_end_matches(['u', 'U']);
            u64::from_str_radix(digits, radix).map(Literal::Uint).map_err(|_| "invalid uint literal")
        }
        Kind::Float => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Literal::Double(if negative { -value } else { value })),
            _ => Err("invalid double literal"),
        },
        _ => {
            let signed = format!("{}{digits}", if negative { "-" } else { "" });
            i64::from_str_radix(&signed, radix).map(Literal::Int).map_err(|_| "invalid int literal")
        }
    }
}

/// The value of a quoted text, or of bytes with their prefix.
pub(super) fn text(kind: Kind, token: &str) -> Result<Literal, &'static str> {
    let normal = token.replace("\r\n", "\n").replace('\r', "\n");
    let is_bytes = kind == Kind::Bytes;
    let quoted = if is_bytes { &normal[1..] } else { &*normal };
    let (raw, quoted) = match quoted.strip_prefix(['r', 'R']) {
        Some(quoted) => (true, quoted),
        None => (false, quoted),
    };
    let quotes =
        if quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''")) { 3 } else { 1 };
    let inner = &quoted[quotes..quoted.len() - quotes];
    let bytes = if raw { inner.as_bytes().to_vec() } else { unescape(inner, is_bytes)? };
    if is_bytes {
        return Ok(Literal::Bytes(Arc::from(bytes)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Literal::String(Arc::from(text))),
        Err(_) => Err("invalid unicode code point"),
    }
}

/// The lexer has checked the form of escapes.
fn unescape(text: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut push = |code: u32| -> Result<(), &'static str> {
        if is_bytes {
            out.push(u8::try_from(code).unwrap_or(u8::MAX));
            return Ok(());
        }
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    };
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                if is_bytes {
                    push(u32::from(byte))?;
                }
            }
            if !is_bytes {
                push(u32::from(c))?;
            }
            continue;
        }
        let kind = chars.next().unwrap_or_default();
        let mut digits = |count: usize, radix: u32| {
            let digits: String = chars.by_ref().take(count).collect();
            u32::from_str_radix(&digits, radix).map_err(|_| "unable to unescape string")
        };
        let code = match kind {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' | 'X' => digits(2, 16)?,
            'u' | 'U' if is_bytes => return Err("unable to unescape string"),
            'u' => digits(4, 16)?,
            'U' => digits(8, 16)?,
            '0'..='3' => kind.to_digit(8).unwrap_or(0) * 64 + digits(2, 8)?,
            other => u32::from(other),
        };
        push(code)?;
    }
    Ok(out)
}
