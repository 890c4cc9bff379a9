//! Checks of a Job's `successPolicy`, in upstream's words.

use std::fmt;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::numbers::not_negative;
use crate::value::items;

const MAX_RULES: usize = 20;
/// Bytes of `succeededIndexes`.
const MAX_INDEXES_LENGTH: usize = 64 * 1024;

/// In: the Job's specification, whose completion mode is Indexed.
pub(super) fn validate_success_policy(spec: &Value, path: &Path, errors: &mut Errors) {
    let (policy, rules) = (&spec["successPolicy"], path.child("rules"));
    if !policy.is_object() {
        return;
    }
    match items(policy, "rules").count() {
        0 => {
            let detail = "at least one rules must be specified when the successPolicy is specified";
            errors.required(&rules, detail);
        }
        count if count > MAX_RULES => errors.too_many(&rules, count, MAX_RULES),
        _ => {}
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (number, rule) in items(policy, "rules").enumerate() {
        validate_rule(rule, completions, &rules.index(number), errors);
    }
}

fn validate_rule(rule: &Value, completions: i64, path: &Path, errors: &mut Errors) {
    let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let at = path.child("succeededIndexes");
    let mut total = 0;
    if let Some(text) = indexes {
        if text.len() > MAX_INDEXES_LENGTH {
            errors.too_long(&at, MAX_INDEXES_LENGTH);
        }
        match count_indexes(text, completions) {
            Ok(counted) => total = counted,
            Err(problem) => {
                let detail = format!("error parsing succeededIndexes: {problem}");
                errors.invalid(&at, &rule["succeededIndexes"], &detail);
            }
        }
    }
    not_negative(rule, &["succeededCount"], path, errors);
    let Some(count) = count else { return };
    let mut at_most = |max: i64, of: &str| {
        if count > max {
            let detail = format!("must be less than or equal to {max} (the number of {of})");
            errors.invalid(&path.child("succeededCount"), &rule["succeededCount"], &detail);
        }
    };
    at_most(completions, "specified completions");
    if indexes.is_some() {
        at_most(total, "indexes in the specified succeededIndexes field");
    }
}

/// Why a list of indexes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IndexProblem {
    Order { previous: i64, current: i64 },
    Parts(String),
    NotANumber(String),
    TooLarge(String),
}

impl fmt::Display for IndexProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexProblem::Order { previous, current } => {
                write!(f, "non-increasing order, previous: {previous}, current: {current}")
            }
            IndexProblem::Parts(text) => write!(
                f,
                "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ),
            IndexProblem::NotANumber(text) => {
                write!(f, "cannot convert string to integer for index: {text:?}")
            }
            IndexProblem::TooLarge(text) => write!(f, "too large index: {text:?}"),
        }
    }
}

/// The number of indexes in a list such as "0,2-4".
fn count_indexes(text: &str, completions: i64) -> Result<i64, IndexProblem> {
    let (mut total, mut previous) = (0, None);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        match previous {
            Some(previous) if previous >= first => {
                return Err(IndexProblem::Order { previous, current: first });
            }
            _ => previous = Some(last),
        }
        total += last - first + 1;
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), IndexProblem> {
    let parts: Vec<&str> = text.split('-').collect();
    let index = |text: &str| {
        let index: i64 = text.parse().map_err(|_| IndexProblem::NotANumber(text.to_owned()))?;
        if index < completions { Ok(index) } else { Err(IndexProblem::TooLarge(text.to_owned())) }
    };
    match parts.as_slice() {
        [only] => index(only).map(|index| (index, index)),
        [first, last] => match (index(first)?, index(last)?) {
            (previous, current) if previous >= current => Err(IndexProblem::Order { previous, current }),
            interval => Ok(interval),
        },
        _ => Err(IndexProblem::Parts(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_checked_in_upstreams_words() {
        let check = |rule: Value| {
            let mut errors = Errors::default();
            validate_rule(&rule, 5, &Path::new("r"), &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let cases = [
            (json!({"succeededIndexes": "0,2-4", "succeededCount": 4}), ""),
            (
                json!({}),
                "r: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ),
            (
                json!({"succeededIndexes": "0,3-2"}),
                "r.succeededIndexes: Invalid value: \"0,3-2\": error parsing succeededIndexes: non-increasing order, previous: 3, current: 2",
            ),
            (
                json!({"succeededIndexes": "0,9-2"}),
                "r.succeededIndexes: Invalid value: \"0,9-2\": error parsing succeededIndexes: too large index: \"9\"",
            ),
            (
                json!({"succeededIndexes": "2,1"}),
                "r.succeededIndexes: Invalid value: \"2,1\": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1",
            ),
            (
                json!({"succeededIndexes": "x"}),
                "r.succeededIndexes: Invalid value: \"x\": error parsing succeededIndexes: cannot convert string to integer for index: \"x\"",
            ),
            (
                json!({"succeededIndexes": "1", "succeededCount": 2}),
                "r.succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)",
            ),
            (
                json!({"succeededCount": 6}),
                "r.succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)",
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(check(rule.clone()), expected, "{rule}");
        }
    }
}
