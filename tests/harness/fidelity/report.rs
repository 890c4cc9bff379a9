//! PURE: outcomes to groups of equal differences, most frequent first, each with one example.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::compare::{Aspect, Difference};
use super::run::{Outcome, Outcomes};

/// Characters of a value in the text report.
const MAX_VALUE_LENGTH: usize = 400;
/// Kinds that a group lists.
const MAX_KINDS: usize = 6;

struct Group<'a> {
    aspect: Aspect,
    count: usize,
    kinds: BTreeSet<&'a str>,
    operations: BTreeSet<&'static str>,
    example: (&'a Outcome, &'a Difference),
}

/// Counts, then the groups.
pub fn text(outcomes: &Outcomes, unreadable: usize) -> String {
    let all = &outcomes.all;
    let mut text = counts(outcomes, unreadable);
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for outcome in all {
        for difference in &outcome.differences {
            let group = groups.entry(title(difference)).or_insert_with(|| Group {
                aspect: difference.aspect,
                count: 0,
                kinds: BTreeSet::new(),
                operations: BTreeSet::new(),
                example: (outcome, difference),
            });
            group.count += 1;
            group.kinds.insert(&outcome.kind);
            group.operations.insert(outcome.operation);
        }
    }
    let mut groups: Vec<(String, Group)> = groups.into_iter().collect();
    groups.sort_by(|(_, a), (_, b)| (a.aspect, b.count).cmp(&(b.aspect, a.count)));
    for (title, group) in &groups {
        describe(title, group, &mut text);
    }
    text
}

fn counts(outcomes: &Outcomes, unreadable: usize) -> String {
    let all = &outcomes.all;
    let objects: BTreeSet<_> =
        all.iter().map(|outcome| (&outcome.file, outcome.document, &outcome.name)).collect();
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    let codes = all.iter().filter(|outcome| outcome.oracle_code == outcome.skep_code).count();
    let is_field = |aspect| matches!(aspect, Aspect::FieldMissing | Aspect::FieldExtra | Aspect::Value);
    let stored: Vec<_> = all.iter().filter(|o| o.oracle_code == o.skep_code && o.oracle_code < 300).collect();
    let with = |matching: &dyn Fn(Aspect) -> bool| {
        stored.iter().filter(|outcome| outcome.differences.iter().any(|d| matching(d.aspect))).count()
    };
    let (fields, managers) = (with(&is_field), with(&|aspect| aspect == Aspect::Managers));
    let refused =
        all.iter().filter(|outcome| outcome.oracle_code == outcome.skep_code && outcome.oracle_code >= 400);
    let refused: Vec<_> = refused.collect();
    let worded =
        refused.iter().filter(|outcome| outcome.differences.iter().any(|d| d.aspect == Aspect::Message));
    let worded = worded.count();
    let definitions: BTreeSet<_> = all
        .iter()
        .filter(|o| o.operation == "create definition" && o.oracle_code < 300 && o.skep_code >= 400)
        .map(|outcome| &outcome.name)
        .collect();
    let mut text = format!(
        "objects {}, requests {}, unreadable documents {unreadable}, objects of kinds that are not served {}\n",
        objects.len(),
        all.len(),
        outcomes.unserved
    );
    let lines = [
        ("codes alike", codes, all.len()),
        ("stored objects alike", stored.len() - fields, stored.len()),
        ("managed fields alike", stored.len() - managers, stored.len()),
        ("messages of refusals alike", refused.len() - worded, refused.len()),
    ];
    for (what, count, of) in lines {
        let _ = writeln!(text, "{what}: {count} of {of}, {:.2} %", share(count, of));
    }
    let _ =
        writeln!(text, "definitions refused that the oracle takes: {} {definitions:?}", definitions.len());
    text
}

fn describe(title: &str, group: &Group, text: &mut String) {
    let mut kinds: Vec<&str> = group.kinds.iter().copied().take(MAX_KINDS).collect();
    if group.kinds.len() > MAX_KINDS {
        kinds.push("...");
    }
    let operations: Vec<&str> = group.operations.iter().copied().collect();
    let (outcome, difference) = group.example;
    let _ = writeln!(text, "\n{:>6}  {title}", group.count);
    let _ = writeln!(text, "        {}; {}", kinds.join(", "), operations.join(", "));
    let _ = writeln!(
        text,
        "        e.g. {} #{} {}/{}{}",
        outcome.file.display(),
        outcome.document,
        outcome.kind,
        outcome.name,
        if difference.path.is_empty() { String::new() } else { format!(" {}", difference.path) },
    );
    let oracle = !matches!(group.aspect, Aspect::FieldExtra | Aspect::WarningExtra);
    let skep = !matches!(group.aspect, Aspect::FieldMissing | Aspect::WarningMissing);
    for (side, value, shown) in [("oracle", &difference.oracle, oracle), ("skep", &difference.skep, skep)] {
        if shown {
            let _ = writeln!(text, "        {side:<6}: {}", shortened(value));
        }
    }
}

fn shortened(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= MAX_VALUE_LENGTH {
        return text;
    }
    text.chars().take(MAX_VALUE_LENGTH).chain("...".chars()).collect()
}

/// What equal differences have in common.
pub fn title(difference: &Difference) -> String {
    let shape = |value: &Value| match value {
        Value::String(text) => skeleton(text),
        other => skeleton(&other.to_string()),
    };
    let rest = match difference.aspect {
        Aspect::Code => format!("{} vs {}", shape(&difference.oracle), shape(&difference.skep)),
        Aspect::FieldMissing | Aspect::FieldExtra | Aspect::Value | Aspect::Managers => {
            general(&difference.path)
        }
        Aspect::WarningExtra => shape(&difference.skep),
        Aspect::Causes => String::new(),
        Aspect::NotIdempotent => if difference.skep == true { "in Skep" } else { "in oracle" }.to_owned(),
        Aspect::Message | Aspect::Reason | Aspect::WarningMissing => shape(&difference.oracle),
    };
    format!("{}: {rest}", difference.aspect.title())
}

static INDEX: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[[0-9]+\]").ok());
static KEY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"\[k:\{[^\]]*\}\]|\[v:"[^\]]*"\]|\bk:\{[^}]*\}|\bv:"[^"]*""#).ok());
static MAPS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let maps = "labels|annotations|matchLabels|nodeSelector|data|stringData|binaryData|limits|requests|hard|parameters";
    Regex::new(&format!(r"((?:^|[.:])(?:{maps}))(?:\.[^.\[]+|\[[^\]]+\])")).ok()
});
static QUOTED: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*"|`[^`]*`|\\"(?:[^"\\])*\\""#).ok());
/// What a message names: an object and its namespace, a kind.
static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\([^ ();]*/[^ ();]+; [^)]*\)").ok());
static KIND: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r#"[A-Za-z0-9.]+ "_" is invalid"#).ok());
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[0-9]+").ok());

/// A path without indexes, keys of lists and names within maps of strings.
fn general(path: &str) -> String {
    let mut text = path.to_owned();
    for (pattern, with) in [(&INDEX, "[]"), (&KEY, "[key]"), (&MAPS, "$1{}")] {
        if let Some(pattern) = pattern.as_ref() {
            text = pattern.replace_all(&text, with).into_owned();
        }
    }
    text
}

/// A text without what is quoted, and without numbers.
fn skeleton(text: &str) -> String {
    let mut text: String = text.chars().take(1000).collect();
    for (pattern, with) in
        [(&NAMED, "(_)"), (&QUOTED, "\"_\""), (&KIND, "_ is invalid"), (&INDEX, "[]"), (&NUMBER, "N")]
    {
        if let Some(pattern) = pattern.as_ref() {
            text = pattern.replace_all(&text, with).into_owned();
        }
    }
    text.chars().take(240).collect()
}
