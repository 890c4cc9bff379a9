//! Regular expressions in Go's syntax (RE2 with Perl's extensions), as the Kubernetes API has them.
//!
//! In: a pattern. Out: Go's syntax error, or an expression that matches as Go's does. The pattern is translated to the
//! syntax of the `regex` crate: the two differ in escapes, classes, flags, limits and in what `\d`, `\w`, `\s`, `\b` mean.

mod cache;
mod class;
mod error;
mod parse;
mod translation;
mod unicode;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use error::RegexpError;

/// Bytes that a compiled expression may take.
const MAX_COMPILED_BYTES: usize = 64 << 20;

/// Nesting of groups and repetitions in a translated pattern. Go's own limit is 1000 levels of the syntax tree.
const MAX_NESTING: u32 = 8_000;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Regexp(Arc<regex::Regex>);

impl Regexp {
    /// Parses a pattern without compiling it.
    pub fn check(pattern: &str) -> Result<(), RegexpError> {
        let translated = parse::translate(pattern)?;
        // Small expressions always compile.
        if translated.weight > MAX_UNCOMPILED_WEIGHT {
            cache::get_or_compile(pattern, || compile(pattern, &translated))?;
        }
        Ok(())
    }

    /// Compiles a pattern. Patterns that are used often are compiled once.
    pub fn new(pattern: &str) -> Result<Regexp, RegexpError> {
        let compiled = cache::get_or_compile(pattern, || compile(pattern, &parse::translate(pattern)?))?;
        Ok(Regexp(compiled))
    }

    /// Whether the expression matches a part of the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The first match.
    pub fn find<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.0.find(text).map(|found| found.as_str())
    }

    /// All matches that do not overlap, in order.
    pub fn find_all<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.find_iter(text).map(|found| found.as_str())
    }
}

/// A lighter expression always compiles.
const MAX_UNCOMPILED_WEIGHT: u64 = 20_000;

/// Whether a text matches a valid pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    Regexp::new(pattern).is_ok_and(|regexp| regexp.is_match(text))
}

fn compile(pattern: &str, translated: &translation::Translated) -> Result<Arc<regex::Regex>, RegexpError> {
    let built = regex::RegexBuilder::new(&translated.pattern())
        .size_limit(MAX_COMPILED_BYTES)
        .nest_limit(MAX_NESTING)
        .build();
    built.map(Arc::new).map_err(|_| RegexpError::new(error::TOO_LARGE, pattern))
}
