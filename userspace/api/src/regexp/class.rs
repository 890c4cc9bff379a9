//! Classes of characters, translated to the syntax of the `regex` crate.

use std::fmt::Write as _;

use super::unicode;

/// No character, and every character.
const NEVER: &str = r"[^\x{0}-\x{10FFFF}]";
const ANY: &str = r"(?s:.)";

/// Estimated ranges of a class with a Unicode name, and of a complement in UTF-8.
const NAMED_WEIGHT: u64 = 1_000;
const COMPLEMENT_WEIGHT: u64 = 12;

/// Go's classes of an escape or a POSIX name, as ranges.
const GROUPS: [(&str, &str); 17] = [
    ("d", "0-9"),
    ("s", r"\t\n\x0C\r\x20"),
    ("w", "0-9A-Z_a-z"),
    ("alnum", "0-9A-Za-z"),
    ("alpha", "A-Za-z"),
    ("ascii", r"\x00-\x7F"),
    ("blank", r"\t\x20"),
    ("cntrl", r"\x00-\x1F\x7F"),
    ("digit", "0-9"),
    ("graph", "!-~"),
    ("lower", "a-z"),
    ("print", r"\x20-~"),
    ("punct", r"!-/:-@\[-`\{-~"),
    ("space", r"\t-\r\x20"),
    ("upper", "A-Z"),
    ("word", "0-9A-Z_a-z"),
    ("xdigit", "0-9A-Fa-f"),
];

/// A class while it is parsed.
pub(super) struct Class {
    negated: bool,
    fold: bool,
    items: String,
    pub(super) weight: u64,
    /// The only character, if there is one.
    single: Option<char>,
    count: usize,
}

impl Class {
    /// `fold`: case does not matter.
    pub(super) fn new(negated: bool, fold: bool) -> Class {
        let weight = if negated { COMPLEMENT_WEIGHT } else { 1 };
        Class { negated, fold, items: String::new(), weight, single: None, count: 0 }
    }

    /// Adds a group by its escape (`d`, `D`) or POSIX name (`alpha`, `^alpha`). False: there is no such group.
    pub(super) fn add_group(&mut self, name: &str) -> bool {
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name.to_owned(), true),
            None if name.len() == 1 => (name.to_ascii_lowercase(), name == name.to_ascii_uppercase()),
            None => (name.to_owned(), false),
        };
        let Some((_, ranges)) = GROUPS.iter().find(|(known, _)| *known == name) else { return false };
        self.count += 2;
        self.weight += if negated { COMPLEMENT_WEIGHT } else { 4 };
        let caret = if negated { "^" } else { "" };
        // Writes to a String do not fail, here and below.
        let _ = write!(self.items, "[{caret}{ranges}]");
        true
    }

    /// Adds a Unicode class by name. False: there is no such class.
    pub(super) fn add_named(&mut self, name: &str, negated: bool) -> bool {
        let Some((name, complement)) = unicode::class(name) else { return false };
        self.count += 2;
        self.weight += NAMED_WEIGHT;
        // Texts have no surrogates.
        match (name == "gc=Cs", negated != complement) {
            (true, false) => {}
            (true, true) => self.items.push_str(r"\x{0}-\x{10FFFF}"),
            (false, false) => drop(write!(self.items, r"\p{{{name}}}")),
            (false, true) => drop(write!(self.items, r"\P{{{name}}}")),
        }
        true
    }

    /// Adds the characters from `low` to `high`; surrogates match nothing.
    pub(super) fn add_range(&mut self, low: u32, high: u32) {
        self.count += if low == high { 1 } else { 2 };
        self.single = char::from_u32(low);
        let surrogates = 0xD800..=0xDFFF;
        let low = if surrogates.contains(&low) { 0xE000 } else { low };
        let high = if surrogates.contains(&high) { 0xD7FF } else { high };
        if low <= high {
            self.weight += 1;
            let _ = write!(self.items, r"\x{{{low:X}}}-\x{{{high:X}}}");
        }
    }

    /// Whether the class is one character, which Go makes a literal.
    pub(super) fn is_single(&self) -> bool {
        self.count == 1 && !self.negated && !self.fold && self.single.is_some()
    }

    pub(super) fn write(&self, out: &mut String) {
        let (open, close) = if self.fold { ("(?i:[", "])") } else { ("[", "]") };
        match (self.items.is_empty(), self.negated) {
            (true, false) => out.push_str(NEVER),
            (true, true) => out.push_str(ANY),
            (false, negated) => {
                out.push_str(open);
                out.push_str(if negated { "^" } else { "" });
                out.push_str(&self.items);
                out.push_str(close);
            }
        }
    }
}

/// Writes a literal character. Only letters and digits stand for themselves in every context.
pub(super) fn write_literal(code: u32, fold: bool, out: &mut String) {
    let Some(c) = char::from_u32(code) else { return out.push_str(NEVER) };
    match fold && c.is_alphabetic() {
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => drop(write!(out, r"\x{{{code:X}}}")),
        true => drop(write!(out, "(?i:{c})")),
        false => out.push(c),
    }
}
