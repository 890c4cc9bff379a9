//! The format `duration`: Go's durations (`1h30m`), or numbers with units in words (`22 ns`, `3 days`).

use crate::regexp::{Regexp, matches};

const GO: &str = r"^[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$";
const PARTS: &str = r"\d+\s*[A-Za-zµ]+";

/// Units of texts; the last name of a line may have an ending.
const UNITS: [&[&str]; 8] = [
    &["ns", "nano"],
    &["us", "µs", "micro"],
    &["ms", "milli"],
    &["s", "sec"],
    &["m", "min"],
    &["h", "hr", "hour"],
    &["d", "day"],
    &["w", "wk", "week"],
];

pub(super) fn accepts(text: &str) -> bool {
    matches(GO, text) && !overflows(text) || in_words(text)
}

/// Whether a valid duration of Go exceeds 63 bits of nanoseconds.
fn overflows(text: &str) -> bool {
    let Ok(parts) = Regexp::new(r"[0-9.]+[a-zµμ]+") else { return true };
    let nanoseconds = |part: &str| {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit() && c != '.');
        let unit = match &part[digits.len()..] {
            "h" => 3.6e12,
            "m" => 6e10,
            "s" => 1e9,
            "ms" => 1e6,
            "ns" => 1.0,
            _ => 1e3,
        };
        digits.parse::<f64>().unwrap_or(0.0) * unit
    };
    parts.find_all(text).map(nanoseconds).sum::<f64>() >= i64::MAX as f64
}

/// Whether any part of the text is a number with a unit, and no number is too large.
fn in_words(text: &str) -> bool {
    let Ok(parts) = Regexp::new(PARTS) else { return false };
    let mut found = false;
    for part in parts.find_all(text) {
        let unit = part.trim_start_matches(|c: char| c.is_ascii_digit());
        if part[..part.len() - unit.len()].parse::<i64>().is_err() {
            return false;
        }
        let unit = unit.trim().to_lowercase();
        found |= UNITS.iter().any(|names| {
            names.contains(&unit.as_str()) || names.last().is_some_and(|last| unit.starts_with(last))
        });
    }
    found
}
