//! Errors of an expression with their positions, shown as upstream's compiler shows them.

/// Issues that are shown of one expression.
const MAX_SHOWN: usize = 100;
/// Characters of a line that is shown below an issue.
const MAX_LINE: usize = 16_384;

/// An error in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cel) struct Issue {
    /// The position in characters; `None` for an error about the whole expression.
    pub offset: Option<usize>,
    pub message: String,
}

impl Issue {
    pub(in crate::cel) fn at(offset: usize, message: impl Into<String>) -> Issue {
        Issue { offset: Some(offset), message: message.into() }
    }

    pub(in crate::cel) fn of_all(message: impl Into<String>) -> Issue {
        Issue { offset: None, message: message.into() }
    }
}

/// All issues in the order of their positions.
pub(in crate::cel) fn render(source: &str, issues: &[Issue]) -> String {
    let mut located: Vec<(Option<(usize, usize)>, &str)> =
        issues.iter().map(|issue| (issue.offset.map(|at| position(source, at)), &*issue.message)).collect();
    located.sort_by_key(|(position, _)| *position);
    let more = located.len().saturating_sub(MAX_SHOWN);
    let mut shown: Vec<String> =
        located.iter().take(MAX_SHOWN).map(|(position, message)| one(source, *position, message)).collect();
    if more > 0 {
        shown.push(format!("{more} more errors were truncated"));
    }
    shown.join("\n")
}

/// The line from one and the column from zero.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let (mut line, mut column) = (1, 0);
    for c in source.chars().take(offset) {
        if c == '\n' {
            (line, column) = (line + 1, 0);
        } else {
            column += 1;
        }
    }
    (line, column)
}

fn one(source: &str, position: Option<(usize, usize)>, message: &str) -> String {
    let Some((line, column)) = position else { return format!("ERROR: <input>:-1:0: {message}") };
    let mut out = format!("ERROR: <input>:{line}:{}: {message}", column + 1);
    let text = source.split('\n').nth(line - 1).unwrap_or_default().replace('\t', " ");
    if text.len() <= MAX_LINE {
        let wide = |c: char, narrow, wide| if c.len_utf8() > 1 { wide } else { narrow };
        let points: String = text.chars().take(column).map(|c| wide(c, '.', '\u{ff0e}')).collect();
        let mark = text.chars().nth(column).map_or('^', |c| wide(c, '^', '\u{ff3e}'));
        out.push_str(&format!("\n | {text}\n | {points}{mark}"));
    }
    out
}
