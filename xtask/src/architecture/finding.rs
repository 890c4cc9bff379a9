//! What the check reports.

use super::rules::Rule;

/// Something that a rule does not allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub rule: Rule,
    /// The file, relative to the top of the tree.
    pub file: String,
    /// 0 when the finding concerns the whole file.
    pub line: usize,
    pub problem: String,
    /// The function or dependency that it concerns, by which the table excuses it; empty for none.
    pub(super) subject: String,
}

impl Finding {
    pub(super) fn new(
        rule: Rule,
        file: impl Into<String>,
        line: usize,
        problem: impl Into<String>,
    ) -> Finding {
        Finding { rule, file: file.into(), line, problem: problem.into(), subject: String::new() }
    }

    pub(super) fn about(self, subject: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), ..self }
    }
}
