//! Parses Go's syntax of regular expressions and writes the translated pattern. Accepts, refuses and names errors as Go's
//! `regexp/syntax` does with Perl's flags. One pass, with an explicit stack.

use super::class::{Class, write_literal};
use super::error::{
    INVALID_COUNT, INVALID_ESCAPE, INVALID_NAME, INVALID_NESTED_REPEAT, INVALID_PERL, INVALID_RANGE,
    MISSING_ARGUMENT, MISSING_BRACKET, MISSING_PAREN, RegexpError, TOO_DEEP, TOO_LARGE, TRAILING_BACKSLASH,
    UNEXPECTED_PAREN,
};
use super::translation::{Form, MAX_COPIES, MAX_DEPTH, MAX_LEVELS, MAX_SIZE, Measures, Translated};

/// Estimated ranges of characters of `.` in UTF-8.
const DOT_WEIGHT: u64 = 12;

/// The highest count of a repetition.
const MAX_COUNT: u32 = 1000;

#[derive(Clone, Copy, Default)]
struct Flags {
    /// `i`
    fold: bool,
    /// `m`
    lines: bool,
    /// `s`
    dot_newline: bool,
    /// `U`
    lazy: bool,
}

/// A part on the stack of the parser.
enum Element {
    Part {
        /// Where its translation starts.
        start: usize,
        measures: Measures,
    },
    /// An open group, with the flags outside of it.
    Open { start: usize, capture: bool, outside: Flags },
    /// Separates the alternatives from what follows them.
    Bar,
}

struct Parser<'a> {
    whole: &'a str,
    /// The part that is not yet parsed.
    rest: &'a str,
    flags: Flags,
    stack: Vec<Element>,
    out: String,
    opens: Vec<usize>,
}

type Parsed<T> = Result<T, RegexpError>;

/// Translates a pattern.
pub(super) fn translate(pattern: &str) -> Parsed<Translated> {
    let mut parser = Parser {
        whole: pattern,
        rest: pattern,
        flags: Flags::default(),
        stack: Vec::new(),
        out: String::with_capacity(pattern.len() * 2),
        opens: Vec::new(),
    };
    let mut last_repeat = None;
    while let Some(c) = parser.rest.chars().next() {
        last_repeat = parser.step(c, last_repeat)?;
    }
    parser.alternate()?;
    match parser.stack.as_slice() {
        [Element::Part { measures, .. }] => Ok(Translated::new(parser.out, parser.opens, *measures)),
        _ => Err(parser.error(MISSING_PAREN, pattern)),
    }
}

impl<'a> Parser<'a> {
    fn error(&self, problem: &'static str, part: &str) -> RegexpError {
        RegexpError::new(problem, part)
    }

    /// The text from `before` to what is left.
    fn since(&self, before: &'a str) -> &'a str {
        &before[..before.len() - self.rest.len()]
    }

    fn next(&mut self) -> Option<char> {
        let mut rest = self.rest.chars();
        let c = rest.next();
        self.rest = rest.as_str();
        c
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let found = self.rest.strip_prefix(prefix);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Parses the next part. In and out: the text from the last repetition operator, if it came right before.
    fn step(&mut self, c: char, last_repeat: Option<&'a str>) -> Parsed<Option<&'a str>> {
        let before = self.rest;
        match c {
            '[' => self.class()?,
            '\\' => self.escape()?,
            '(' if before.starts_with("(?") => self.perl_group()?,
            '*' | '+' | '?' => {
                self.next();
                let max = (c == '?').then_some(1);
                self.repeat(u32::from(c == '+'), max, &c.to_string(), before, last_repeat)?;
                return Ok(Some(before));
            }
            '{' => {
                if let Some((min, max, rest)) = counts(before) {
                    self.rest = rest;
                    let operator = self.since(before);
                    if min > MAX_COUNT || max.is_some_and(|max| max > MAX_COUNT || min > max) {
                        return Err(self.error(INVALID_COUNT, operator));
                    }
                    self.repeat(min, max, operator, before, last_repeat)?;
                    return Ok(Some(before));
                }
                self.next();
                self.literal(c.into())?;
            }
            _ => {
                self.next();
                match c {
                    '(' => self.open(true, self.flags),
                    '|' => self.bar()?,
                    ')' => self.close()?,
                    '^' if self.flags.lines => self.assertion("(?m:^)")?,
                    '^' => self.assertion(r"(?:\A)")?,
                    '$' if self.flags.lines => self.assertion("(?m:$)")?,
                    '$' => self.assertion(r"(?:\z)")?,
                    '.' => {
                        let dot = if self.flags.dot_newline { "(?s:.)" } else { r"[^\n]" };
                        self.part(dot, Measures::leaf(Form::Class, DOT_WEIGHT))?;
                    }
                    c => self.literal(c.into())?,
                }
            }
        }
        Ok(None)
    }

    /// Writes a part and pushes it.
    fn part(&mut self, text: &str, measures: Measures) -> Parsed<()> {
        let start = self.out.len();
        self.out.push_str(text);
        self.push(start, measures)
    }

    fn assertion(&mut self, text: &str) -> Parsed<()> {
        self.part(text, Measures::leaf(Form::Other, 1))
    }

    fn literal(&mut self, code: u32) -> Parsed<()> {
        let start = self.out.len();
        write_literal(code, self.flags.fold, &mut self.out);
        let form = Form::Literal { single: true, fold: self.flags.fold };
        self.push(start, Measures::leaf(form, 1))
    }

    fn push(&mut self, start: usize, measures: Measures) -> Parsed<()> {
        self.join_literals();
        self.check_limits(&measures)?;
        self.stack.push(Element::Part { start, measures });
        Ok(())
    }

    /// Joins two literals on top of the stack: no operator can apply to the second any more.
    fn join_literals(&mut self) {
        let [.., Element::Part { measures: one, .. }, Element::Part { measures: two, .. }] =
            self.stack.as_mut_slice()
        else {
            return;
        };
        if let (Form::Literal { fold: a, .. }, Form::Literal { fold: b, .. }) = (one.form, two.form)
            && a == b
        {
            one.join(two);
            self.stack.pop();
        }
    }

    fn check_limits(&self, measures: &Measures) -> Parsed<()> {
        if measures.size > MAX_SIZE {
            return Err(self.error(TOO_LARGE, self.whole));
        }
        if measures.levels > MAX_LEVELS || measures.depth > MAX_DEPTH {
            return Err(self.error(TOO_DEEP, self.whole));
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        operator: &str,
        before: &'a str,
        last_repeat: Option<&'a str>,
    ) -> Parsed<()> {
        let lazy = self.flags.lazy != self.eat("?");
        if let Some(last) = last_repeat {
            return Err(self.error(INVALID_NESTED_REPEAT, self.since(last)));
        }
        let Some(Element::Part { start, measures }) = self.stack.last_mut() else {
            return Err(self.error(MISSING_ARGUMENT, self.since(before)));
        };
        if measures.form == Form::Repetition {
            self.opens.push(*start);
            self.out.push(')');
        }
        *measures = measures.repeat(min, max);
        let repeated = *measures;
        self.out.push_str(operator);
        self.out.push_str(if lazy { "?" } else { "" });
        self.check_limits(&repeated)?;
        if (min >= 2 || max.is_some_and(|max| max >= 2)) && repeated.copies > MAX_COPIES {
            return Err(self.error(INVALID_COUNT, self.since(before)));
        }
        Ok(())
    }

    /// Takes the parts above the last group or bar off the stack.
    fn take_parts(&mut self) -> (usize, Vec<Measures>) {
        let is_boundary = |element: &Element| !matches!(element, Element::Part { .. });
        let from = self.stack.iter().rposition(is_boundary).map_or(0, |at| at + 1);
        let mut first = self.out.len();
        let parts = self.stack.drain(from..).rev().filter_map(|element| match element {
            Element::Part { start, measures } => {
                first = start;
                Some(measures)
            }
            Element::Open { .. } | Element::Bar => None,
        });
        let mut parts: Vec<Measures> = parts.collect();
        parts.reverse();
        (first, parts)
    }

    fn concatenate(&mut self) -> Parsed<()> {
        self.join_literals();
        let (start, parts) = self.take_parts();
        self.push(start, Measures::of_all(Form::Concatenation, &parts))
    }

    /// Moves the part above a bar to the alternatives below it. False: there is no bar.
    fn swap_bar(&mut self) -> bool {
        let [.., Element::Bar, Element::Part { .. }] = self.stack.as_slice() else { return false };
        let Some(Element::Part { start, measures }) = self.stack.pop() else { return false };
        let length = self.stack.len();
        if let Some(Element::Part { measures: below, .. }) = self.stack.get_mut(length.wrapping_sub(2))
            && below.form.is_one_character()
            && measures.form.is_one_character()
        {
            below.form = Form::Class;
            below.weight = below.weight.saturating_add(measures.weight);
        } else {
            self.stack.insert(length - 1, Element::Part { start, measures });
        }
        true
    }

    fn bar(&mut self) -> Parsed<()> {
        self.concatenate()?;
        if !self.swap_bar() {
            self.stack.push(Element::Bar);
        }
        self.out.push('|');
        Ok(())
    }

    /// Makes one part of the alternatives above the last open group.
    fn alternate(&mut self) -> Parsed<()> {
        self.concatenate()?;
        if self.swap_bar() {
            self.stack.pop();
        }
        let (start, parts) = self.take_parts();
        self.push(start, Measures::of_all(Form::Alternation, &parts))
    }

    fn open(&mut self, capture: bool, inside: Flags) {
        self.join_literals();
        let (start, outside) = (self.out.len(), self.flags);
        // Captures are not used; groups without them are faster.
        self.out.push_str("(?:");
        self.stack.push(Element::Open { start, capture, outside });
        self.flags = inside;
    }

    fn close(&mut self) -> Parsed<()> {
        self.alternate()?;
        let part = self.stack.pop();
        let Some((Element::Part { measures, .. }, Element::Open { start, capture, outside })) =
            part.zip(self.stack.pop())
        else {
            return Err(self.error(UNEXPECTED_PAREN, self.whole));
        };
        self.out.push(')');
        self.flags = outside;
        let measures = if capture { measures.capture() } else { measures };
        self.push(start, measures)
    }

    /// `(?P<name>`, `(?<name>`, `(?flags)`, `(?flags:`.
    fn perl_group(&mut self) -> Parsed<()> {
        let before = self.rest;
        let named = before.strip_prefix("(?P<").or(before.strip_prefix("(?<"));
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            let Some((name, rest)) = named.split_once('>') else {
                return Err(self.error(INVALID_NAME, before));
            };
            self.rest = rest;
            if name.is_empty() || !name.bytes().all(|c| c == b'_' || c.is_ascii_alphanumeric()) {
                return Err(self.error(INVALID_NAME, self.since(before)));
            }
            self.open(true, self.flags);
            return Ok(());
        }
        self.rest = &before[2..];
        let (mut flags, mut on, mut any) = (self.flags, true, true);
        while let Some(c) = self.next() {
            match c {
                'i' => flags.fold = on,
                'm' => flags.lines = on,
                's' => flags.dot_newline = on,
                'U' => flags.lazy = on,
                '-' if on => {
                    (on, any) = (false, false);
                    continue;
                }
                ':' | ')' if any => {
                    match c {
                        ':' => self.open(false, flags),
                        _ => self.flags = flags,
                    }
                    return Ok(());
                }
                _ => break,
            }
            any = true;
        }
        Err(self.error(INVALID_PERL, self.since(before)))
    }

    fn escape(&mut self) -> Parsed<()> {
        let before = self.rest;
        match before.as_bytes().get(1) {
            Some(b'A') => self.assert_escape(r"(?:\A)"),
            Some(b'b') => self.assert_escape(r"(?-u:\b)"),
            Some(b'B') => self.assert_escape(r"(?-u:\B)"),
            Some(b'z') => self.assert_escape(r"(?:\z)"),
            Some(b'C') => Err(self.error(INVALID_ESCAPE, &before[..2])),
            Some(b'Q') => {
                let quoted = &before[2..];
                let (literal, rest) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                self.rest = rest;
                literal.chars().try_for_each(|c| self.literal(c.into()))
            }
            _ => {
                let mut class = Class::new(false, self.flags.fold);
                if self.class_escape(&mut class)? {
                    return self.push_class(&class);
                }
                let code = self.character_escape()?;
                self.literal(code)
            }
        }
    }

    fn assert_escape(&mut self, text: &str) -> Parsed<()> {
        self.rest = &self.rest[2..];
        self.assertion(text)
    }

    fn push_class(&mut self, class: &Class) -> Parsed<()> {
        let start = self.out.len();
        class.write(&mut self.out);
        let form = match class.is_single() {
            true => Form::Literal { single: true, fold: false },
            false => Form::Class,
        };
        self.push(start, Measures::leaf(form, class.weight))
    }

    /// `\pN`, `\p{name}`, `\d` and the like. False: something else follows.
    fn class_escape(&mut self, class: &mut Class) -> Parsed<bool> {
        let before = self.rest;
        match before.as_bytes() {
            [b'\\', sign @ (b'p' | b'P'), ..] => {
                self.rest = &before[2..];
                let name = match self.next() {
                    Some('{') => {
                        let Some((name, rest)) = self.rest.split_once('}') else {
                            return Err(self.error(INVALID_RANGE, before));
                        };
                        self.rest = rest;
                        name
                    }
                    _ => &self.since(before)[2..],
                };
                let (name, inverted) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                if !class.add_named(name, inverted != (*sign == b'P')) {
                    return Err(self.error(INVALID_RANGE, self.since(before)));
                }
                Ok(true)
            }
            [b'\\', b'd' | b'D' | b's' | b'S' | b'w' | b'W', ..] => {
                self.rest = &before[2..];
                Ok(class.add_group(&before[1..2]))
            }
            _ => Ok(false),
        }
    }

    /// An escape that stands for one character.
    fn character_escape(&mut self) -> Parsed<u32> {
        let before = self.rest;
        self.rest = &before[1..];
        let Some(c) = self.next() else { return Err(self.error(TRAILING_BACKSLASH, "")) };
        let code = match c {
            '1'..='7' if !self.rest.starts_with(|c| matches!(c, '0'..='7')) => None,
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
                    self.next();
                    code = code * 8 + digit;
                }
                Some(code)
            }
            'x' => self.hexadecimal(),
            'a' => Some(0x07),
            'f' => Some(0x0C),
            'n' => Some(0x0A),
            'r' => Some(0x0D),
            't' => Some(0x09),
            'v' => Some(0x0B),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c.into()),
            _ => None,
        };
        code.ok_or_else(|| self.error(INVALID_ESCAPE, self.since(before)))
    }

    /// The rest of `\x41` or `\x{41}`.
    fn hexadecimal(&mut self) -> Option<u32> {
        let first = self.next()?;
        if first != '{' {
            let (high, low) = (first.to_digit(16), self.next().and_then(|c| c.to_digit(16)));
            return Some(high? * 16 + low?);
        }
        let (mut code, mut any) = (0, false);
        loop {
            let c = self.next()?;
            if c == '}' {
                return any.then_some(code);
            }
            code = code * 16 + c.to_digit(16)?;
            any = true;
            if code > u32::from(char::MAX) {
                return None;
            }
        }
    }

    /// `[...]`
    fn class(&mut self) -> Parsed<()> {
        let before = self.rest;
        self.rest = &before[1..];
        let mut class = Class::new(self.eat("^"), self.flags.fold);
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if self.posix_group(&mut class)? || self.class_escape(&mut class)? {
                continue;
            }
            let item = self.rest;
            let low = self.class_character(before)?;
            let mut high = low;
            if self.rest.len() >= 2 && self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                high = self.class_character(before)?;
                if high < low {
                    return Err(self.error(INVALID_RANGE, self.since(item)));
                }
            }
            class.add_range(low, high);
        }
        self.next();
        self.push_class(&class)
    }

    fn class_character(&mut self, whole: &'a str) -> Parsed<u32> {
        if self.rest.starts_with('\\') {
            return self.character_escape();
        }
        self.next().map(u32::from).ok_or_else(|| self.error(MISSING_BRACKET, whole))
    }

    /// `[:alpha:]` within a class. False: something else follows.
    fn posix_group(&mut self, class: &mut Class) -> Parsed<bool> {
        let before = self.rest;
        let Some((name, rest)) = before.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
            return Ok(false);
        };
        self.rest = rest;
        // Names of one letter are those of escapes.
        if name.trim_start_matches('^').len() < 2 || name.starts_with("^^") || !class.add_group(name) {
            return Err(self.error(INVALID_RANGE, self.since(before)));
        }
        Ok(true)
    }
}

/// `{2}`, `{2,}` or `{2,5}` at the beginning of a text: the counts, and what follows. Counts that are too large are
/// above every limit.
fn counts(text: &str) -> Option<(u32, Option<u32>, &str)> {
    let (min, rest) = count(text.strip_prefix('{')?)?;
    let Some(rest) = rest.strip_prefix(',') else { return Some((min, Some(min), rest.strip_prefix('}')?)) };
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, None, rest));
    }
    let (max, rest) = count(rest)?;
    Some((min, Some(max), rest.strip_prefix('}')?))
}

/// A number without leading zeros.
fn count(text: &str) -> Option<(u32, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    let valid = length == 1 || length > 1 && !digits.starts_with('0');
    valid.then(|| (digits.parse().unwrap_or(u32::MAX), rest))
}
