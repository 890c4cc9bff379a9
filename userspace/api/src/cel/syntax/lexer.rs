//! Splits an expression into tokens. What is no token is skipped and reported, as upstream's lexer does it.

use super::issue::Issue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An operator or bracket.
    Symbol(&'static str),
    Identifier,
    /// A name in backquotes.
    Escaped,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    pub text: String,
    /// Offset in characters.
    pub offset: usize,
}

/// Operators, the longer before those that they begin with.
const SYMBOLS: [&str; 23] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/",
];
const WORDS: [&str; 4] = ["in", "true", "false", "null"];

pub(super) fn tokens(source: &str) -> (Vec<Token>, Vec<Issue>) {
    let text: Vec<char> = source.chars().collect();
    let (mut tokens, mut issues, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(c) = text.get(at) {
        if matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
            at += 1;
            continue;
        }
        if text[at..].starts_with(&['/', '/']) {
            at += text[at..].iter().take_while(|c| **c != '\n').count();
            continue;
        }
        let mut scan = Scan { text: &text, start: at, failed: at };
        match scan.token() {
            Some((kind, end)) => {
                tokens.push(Token { kind, text: text[at..end].iter().collect(), offset: at });
                at = end;
            }
            None => {
                let end = (scan.failed + 1).min(text.len());
                let wrong: String = text[at..end].iter().collect();
                issues.push(Issue::at(at, format!("Syntax error: token recognition error at: '{wrong}'")));
                at = end;
            }
        }
    }
    tokens.push(Token { kind: Kind::End, text: "<EOF>".to_owned(), offset: text.len() });
    (tokens, issues)
}

/// A text in a message.
pub(super) fn shown(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

struct Scan<'t> {
    text: &'t [char],
    start: usize,
    /// The first character that fits no token.
    failed: usize,
}

impl Scan<'_> {
    fn at(&self, index: usize) -> Option<char> {
        self.text.get(index).copied()
    }

    fn count(&self, from: usize, test: impl Fn(char) -> bool) -> usize {
        self.text[from.min(self.text.len())..].iter().take_while(|c| test(**c)).count()
    }

    fn token(&mut self) -> Option<(Kind, usize)> {
        let first = self.at(self.start)?;
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        if first.is_ascii_digit() || first == '.' && is_digit(self.at(self.start + 1)) {
            return Some(self.number());
        }
        if let Some(end) = self.string(self.start, false) {
            return Some((Kind::String, end));
        }
        if matches!(first, 'r' | 'R')
            && let Some(end) = self.string(self.start + 1, true)
        {
            return Some((Kind::String, end));
        }
        if matches!(first, 'b' | 'B') {
            let raw = matches!(self.at(self.start + 1), Some('r' | 'R'));
            if let Some(end) = self.string(self.start + 1 + usize::from(raw), raw) {
                return Some((Kind::Bytes, end));
            }
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if is_word(first) {
            let end = self.start + self.count(self.start, is_word);
            let word: String = self.text[self.start..end].iter().collect();
            let kind = WORDS
                .iter()
                .find(|known| **known == word)
                .map_or(Kind::Identifier, |word| Kind::Symbol(word));
            return Some((kind, end));
        }
        if first == '`' {
            let inner = self.count(self.start + 1, |c| is_word(c) || matches!(c, '.' | '-' | '/' | ' '));
            let end = self.start + 1 + inner;
            self.failed = end;
            return (inner > 0 && self.at(end) == Some('`')).then_some((Kind::Escaped, end + 1));
        }
        if first == '%' {
            return Some((Kind::Symbol("%"), self.start + 1));
        }
        for symbol in SYMBOLS {
            if self.text[self.start..].iter().copied().take(symbol.len()).eq(symbol.chars()) {
                return Some((Kind::Symbol(symbol), self.start + symbol.len()));
            }
        }
        if matches!(first, '=' | '&' | '|') {
            self.failed = self.start + 1;
        }
        None
    }

    fn number(&self) -> (Kind, usize) {
        let digits = |from: usize| self.count(from, |c| c.is_ascii_digit());
        let exponent = |from: usize| {
            if !matches!(self.at(from), Some('e' | 'E')) {
                return 0;
            }
            let sign = usize::from(matches!(self.at(from + 1), Some('+' | '-')));
            match digits(from + 1 + sign) {
                0 => 0,
                count => 1 + sign + count,
            }
        };
        let unsigned = |end: usize| match self.at(end) {
            Some('u' | 'U') => (Kind::Uint, end + 1),
            _ => (Kind::Int, end),
        };
        if self.at(self.start) == Some('0') && self.at(self.start + 1) == Some('x') {
            let hex = self.count(self.start + 2, |c| c.is_ascii_hexdigit());
            if hex > 0 {
                return unsigned(self.start + 2 + hex);
            }
        }
        let whole = self.start + digits(self.start);
        let fraction = match self.at(whole) {
            Some('.') => digits(whole + 1),
            _ => 0,
        };
        if fraction > 0 {
            let end = whole + 1 + fraction;
            return (Kind::Float, end + exponent(end));
        }
        match exponent(whole) {
            0 => unsigned(whole),
            count => (Kind::Float, whole + count),
        }
    }

    /// The end of a quoted text that begins at `from`.
    fn string(&mut self, from: usize, raw: bool) -> Option<usize> {
        let quote = self.at(from).filter(|c| matches!(c, '"' | '\''))?;
        let triple = self.at(from + 1) == Some(quote) && self.at(from + 2) == Some(quote);
        if triple && let Some(end) = self.string_end(from + 3, quote, 3, raw) {
            return Some(end);
        }
        self.string_end(from + 1, quote, 1, raw)
    }

    fn string_end(&mut self, from: usize, quote: char, quotes: usize, raw: bool) -> Option<usize> {
        let mut at = from;
        loop {
            if self.count(at, |c| c == quote) >= quotes {
                return Some(at + quotes);
            }
            let escape = match self.at(at) {
                Some('\\') if !raw => self.escape(at + 1),
                Some('\n' | '\r') | None if quotes == 1 => Err(at),
                Some(_) => Ok(at + 1),
                None => Err(at),
            };
            match escape {
                Ok(next) => at = next,
                Err(failed) => {
                    self.failed = self.failed.max(failed);
                    return None;
                }
            }
        }
    }

    /// The end of an escape sequence after its backslash, or the character that does not fit.
    fn escape(&self, at: usize) -> Result<usize, usize> {
        let all = |count: usize, test: fn(char) -> bool| {
            for index in at + 1..=at + count {
                if !self.at(index).is_some_and(test) {
                    return Err(index);
                }
            }
            Ok(at + 1 + count)
        };
        let is_hex = |c: char| c.is_ascii_hexdigit();
        match self.at(at) {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(at + 1),
            Some('x' | 'X') => all(2, is_hex),
            Some('u') => all(4, is_hex),
            Some('U') => all(8, is_hex),
            Some('0'..='3') => all(2, |c| matches!(c, '0'..='7')),
            _ => Err(at),
        }
    }
}
