//! Go's errors of regular expressions.

pub(super) const TOO_LARGE: &str = "expression too large";
pub(super) const TOO_DEEP: &str = "expression nests too deeply";
pub(super) const INVALID_RANGE: &str = "invalid character class range";
pub(super) const INVALID_ESCAPE: &str = "invalid escape sequence";
pub(super) const INVALID_NAME: &str = "invalid named capture";
pub(super) const INVALID_PERL: &str = "invalid or unsupported Perl syntax";
pub(super) const INVALID_NESTED_REPEAT: &str = "invalid nested repetition operator";
pub(super) const INVALID_COUNT: &str = "invalid repeat count";
pub(super) const MISSING_BRACKET: &str = "missing closing ]";
pub(super) const MISSING_PAREN: &str = "missing closing )";
pub(super) const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
pub(super) const TRAILING_BACKSLASH: &str = "trailing backslash at end of expression";
pub(super) const UNEXPECTED_PAREN: &str = "unexpected )";

/// Why a pattern is refused, in the words of Go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {problem}: `{part}`")]
pub struct RegexpError {
    problem: &'static str,
    /// The part of the pattern that is wrong.
    part: String,
}

impl RegexpError {
    pub(super) fn new(problem: &'static str, part: &str) -> RegexpError {
        RegexpError { problem, part: part.to_owned() }
    }
}
