//! Versions (semver.org 2.0.0). Build metadata has no part in comparisons.

use std::any::Any;
use std::cmp::Ordering;

use super::args::{go_quoted, library, text};
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::types::Type;
use crate::cel::values::{Opaque, Value, failed};

pub(in crate::cel) const SEMVER: &str = "kubernetes.Semver";

#[derive(Clone, Debug)]
pub(in crate::cel) struct Version {
    numbers: [u64; 3],
    before: Vec<Part>,
}

/// A part of what comes before a release.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Number(u64),
    Text(String),
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.compare(other) == Ordering::Equal
    }
}

impl Opaque for Version {
    fn type_name(&self) -> &'static str {
        SEMVER
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Version {
    fn parse(text: &str) -> Result<Version, CelError> {
        if text.is_empty() {
            return failed("Version string empty");
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts.as_slice() else {
            return failed("No Major.Minor.Patch elements found");
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (*rest, None),
        };
        let (patch, before) = match rest.split_once('-') {
            Some((patch, before)) => (patch, Some(before)),
            None => (rest, None),
        };
        let mut numbers = [0; 3];
        for ((slot, digits), name) in
            numbers.iter_mut().zip([major, minor, patch]).zip(["major", "minor", "patch"])
        {
            *slot = number(digits, name)?;
        }
        let before = before.map_or(Ok(Vec::new()), |before| before.split('.').map(part).collect())?;
        for one in build.into_iter().flat_map(|build| build.split('.')) {
            if one.is_empty() {
                return failed("Build meta data is empty");
            }
            if !one.chars().all(is_word) {
                return failed(format!("Invalid character(s) found in build meta data {}", go_quoted(one)));
            }
        }
        Ok(Version { numbers, before })
    }

    /// Parses a version that may have a `v` before it, leading zeros, and fewer than three numbers.
    fn parse_tolerant(text: &str) -> Result<Version, CelError> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text
            .splitn(3, '.')
            .map(|part| {
                let plain = part.trim_start_matches('0');
                match plain.chars().next() {
                    _ if part.len() <= 1 => part.to_owned(),
                    Some(first) if first.is_ascii_digit() => plain.to_owned(),
                    _ => format!("0{plain}"),
                }
            })
            .collect();
        if parts.len() < 3 {
            if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return failed("short version cannot contain PreRelease/Build meta data");
            }
            parts.resize(3, "0".to_owned());
        }
        Version::parse(&parts.join("."))
    }

    fn compare(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.before.is_empty(), other.before.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => {
                    let pairs = self.before.iter().zip(&other.before);
                    let first = pairs.map(|(a, b)| a.compare(b)).find(|order| order.is_ne());
                    first.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
                }
            }
        })
    }
}

impl Part {
    fn compare(&self, other: &Part) -> Ordering {
        match (self, other) {
            (Part::Number(a), Part::Number(b)) => a.cmp(b),
            (Part::Number(_), Part::Text(_)) => Ordering::Less,
            (Part::Text(_), Part::Number(_)) => Ordering::Greater,
            (Part::Text(a), Part::Text(b)) => a.cmp(b),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

fn number(digits: &str, name: &str) -> Result<u64, CelError> {
    let shown = go_quoted(digits);
    if !digits.bytes().all(|c| c.is_ascii_digit()) {
        return failed(format!("Invalid character(s) found in {name} number {shown}"));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        return failed(format!("{name} number must not contain leading zeroes {shown}"));
    }
    digits.parse().or_else(|_| {
        let why = if digits.is_empty() { "invalid syntax" } else { "value out of range" };
        failed(format!("strconv.ParseUint: parsing {shown}: {why}"))
    })
}

fn part(text: &str) -> Result<Part, CelError> {
    if text.is_empty() {
        return failed("Prerelease is empty");
    }
    let shown = go_quoted(text);
    if is_number(text) {
        if text.len() > 1 && text.starts_with('0') {
            return failed(format!("Numeric PreRelease version must not contain leading zeroes {shown}"));
        }
        return text
            .parse()
            .map(Part::Number)
            .or_else(|_| failed(format!("strconv.ParseUint: parsing {shown}: value out of range")));
    }
    if text.chars().all(is_word) {
        return Ok(Part::Text(text.to_owned()));
    }
    failed(format!("Invalid character(s) found in prerelease {shown}"))
}

fn parsed(args: &[Value<'_>]) -> Result<Result<Version, CelError>, CelError> {
    let text = text(args, 0)?;
    Ok(match args.get(1) {
        Some(Value::Bool(true)) => Version::parse_tolerant(text),
        _ => Version::parse(text),
    })
}

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Int, String};
    let of = Type::Library(SEMVER);
    let two = [of.clone(), of.clone()];
    for (id, test, params) in [
        ("string_to_semver", "is_semver_string", &[String][..]),
        ("string_bool_to_semver", "is_semver_string_bool", &[String, Bool][..]),
    ] {
        table.global("semver", id, params, of.clone(), |args| Ok(Value::library(parsed(args)??)));
        table.global("isSemver", test, params, Bool, |args| Ok(Value::Bool(parsed(args)?.is_ok())));
    }
    table.member("isGreaterThan", "semver_is_greater_than", &two, Bool, |args| {
        Ok(Value::Bool(order(args)?.is_gt()))
    });
    table.member("isLessThan", "semver_is_less_than", &two, Bool, |args| {
        Ok(Value::Bool(order(args)?.is_lt()))
    });
    table.member("compareTo", "semver_compare_to", &two, Int, |args| Ok(Value::Int(order(args)? as i64)));
    table.member("major", "semver_major", [of.clone()], Int, |args| number_of(args, 0));
    table.member("minor", "semver_minor", [of.clone()], Int, |args| number_of(args, 1));
    table.member("patch", "semver_patch", [of], Int, |args| number_of(args, 2));
}

fn one<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v Version, CelError> {
    library(args, index)
}

fn order(args: &[Value<'_>]) -> Result<Ordering, CelError> {
    Ok(one(args, 0)?.compare(one(args, 1)?))
}

fn number_of<'a>(args: &[Value<'a>], index: usize) -> Result<Value<'a>, CelError> {
    let number = one(args, 0)?.numbers.get(index).copied().unwrap_or(0);
    Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
}
