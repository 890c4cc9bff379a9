//! PURE. The query of a node's logs (KEP-2258): which file or which services, and which of their lines.

use jiff::Timestamp;
use serde_json::json;
use skep_api::Errors;
use skep_api::field::Path;
use skep_api::regexp::Regexp;

use crate::server::query::Query;

const MAX_TAIL_LINES: i64 = 100_000;
const MAX_SERVICES: usize = 4;
const MAX_SERVICE_BYTES: usize = 256;

/// Where the lines come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A path below the folder of logs.
    File(String),
    Services(Vec<String>, Filter),
}

/// Which lines of the journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) tail: Option<i64>,
    /// 0 is the current boot, -1 the one before.
    pub(super) boot: Option<i64>,
    /// A regular expression as journalctl has it (PCRE2).
    pub(super) pattern: Option<String>,
}

/// Why a query has no answer; every error of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// A parameter does not parse.
    Syntax(String),
    /// The parameters parse, and are not allowed.
    Value(String),
}

/// `None`: there is no query.
pub(super) fn parse(query: &Query) -> Result<Option<Source>, Malformed> {
    let mut errors = Errors::default();
    let asked = query.all("query");
    let (files, services): (Vec<String>, Vec<String>) = asked
        .iter()
        .filter(|one| !one.trim().is_empty())
        .cloned()
        // A slash says that it is a file; the clients of Windows write the other one.
        .partition(|one| one.contains(['/', '\\']));
    if !asked.is_empty() && files.is_empty() && services.is_empty() {
        errors.invalid(&Path::new("query"), &json!(asked), "query cannot be empty");
    }
    let filter = Filter {
        since: parameter(query, "sinceTime", &mut errors, |_| "invalid time format".to_owned()),
        until: parameter(query, "untilTime", &mut errors, |_| "invalid time format".to_owned()),
        tail: parameter(query, "tailLines", &mut errors, not_a_number),
        boot: parameter(query, "boot", &mut errors, not_a_number),
        pattern: query.first("pattern").filter(|pattern| !pattern.is_empty()).map(str::to_owned),
    };
    if !errors.is_empty() {
        return Err(Malformed::Syntax(all(&errors)));
    }
    if asked.is_empty() && filter == Filter::default() {
        return Ok(None);
    }
    check_names(&files, &services, &filter, &mut errors);
    check_filter(&filter, &mut errors);
    match files.into_iter().next() {
        _ if !errors.is_empty() => Err(Malformed::Value(all(&errors))),
        Some(file) => Ok(Some(Source::File(file.replace('\\', "/")))),
        None => Ok(Some(Source::Services(services, filter))),
    }
}

fn not_a_number(value: &str) -> String {
    format!("strconv.Atoi: parsing \"{value}\": invalid syntax")
}

fn parameter<T: std::str::FromStr>(
    query: &Query,
    name: &str,
    errors: &mut Errors,
    why: impl Fn(&str) -> String,
) -> Option<T> {
    let value = query.first(name).filter(|value| !value.is_empty())?;
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.invalid(&Path::new(name), &json!(value), &why(value));
    }
    parsed
}

fn check_names(files: &[String], services: &[String], filter: &Filter, errors: &mut Errors) {
    let query = Path::new("query");
    for service in services {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
        if service.len() > MAX_SERVICE_BYTES {
            errors.invalid(&query, &json!(service), &format!("length must be less than {MAX_SERVICE_BYTES}"));
        } else if !service.chars().all(safe) {
            errors.invalid(&query, &json!(service), "input contains unsupported characters");
        }
    }
    if services.len() > MAX_SERVICES {
        errors.too_many(&query, services.len(), MAX_SERVICES);
    }
    match (files, services) {
        ([], []) => errors.required(&query, "cannot be empty with options"),
        ([_, ..], [_, ..]) => {
            let both = format!("[{}], [{}]", files.join(" "), services.join(" "));
            errors.invalid(&query, &json!(both), "cannot specify a file and service");
        }
        ([_, _, ..], _) => errors.invalid(&query, &json!(files), "cannot specify more than one file"),
        ([_], _) if *filter != Filter::default() => {
            errors.invalid(&query, &json!(files), "cannot specify file with options");
        }
        _ => {}
    }
}

fn check_filter(filter: &Filter, errors: &mut Errors) {
    if let (Some(since), Some(until)) = (filter.since, filter.until)
        && since > until
    {
        errors.invalid(&Path::new("untilTime"), &json!(until.to_string()), "must be after `sinceTime`");
    }
    if let Some(boot) = filter.boot.filter(|boot| *boot > 0) {
        errors.invalid(&Path::new("boot"), &json!(boot), "must be less than 1");
    }
    if let Some(tail) = filter.tail.filter(|tail| !(0..=MAX_TAIL_LINES).contains(tail)) {
        let why = format!("must be between 0 and {MAX_TAIL_LINES}, inclusive");
        errors.invalid(&Path::new("tailLines"), &json!(tail), &why);
    }
    if let Some(pattern) = &filter.pattern
        && let Err(error) = Regexp::check(pattern)
    {
        errors.invalid(&Path::new("pattern"), &json!(pattern), &error.to_string());
    }
}

/// The text of an aggregate of errors.
fn all(errors: &Errors) -> String {
    match errors.0.as_slice() {
        [only] => only.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_file_or_services_and_says_what_is_wrong_with_it() {
        let syntax = |text: &str| Err(Malformed::Syntax(text.to_owned()));
        let value = |text: &str| Err(Malformed::Value(text.to_owned()));
        let services = |filter| Ok(Some(Source::Services(vec!["kubelet".to_owned()], filter)));
        let file = |name: &str| Ok(Some(Source::File(name.to_owned())));
        let time = |text: &str| text.parse().ok();
        for (query, wanted) in [
            ("", Ok(None)),
            ("query=kubelet", services(Filter::default())),
            ("query=/apt/history.log", file("/apt/history.log")),
            ("query=apt%5Chistory.log", file("apt/history.log")),
            (
                "query=kubelet&tailLines=5&boot=-1&pattern=a.b&sinceTime=2026-01-01T00:00:00Z",
                services(Filter {
                    tail: Some(5),
                    boot: Some(-1),
                    pattern: Some("a.b".to_owned()),
                    since: time("2026-01-01T00:00:00Z"),
                    until: None,
                }),
            ),
            ("query=+", syntax("query: Invalid value: [\" \"]: query cannot be empty")),
            ("query=k&sinceTime=today", syntax("sinceTime: Invalid value: \"today\": invalid time format")),
            (
                "query=k&tailLines=x&untilTime=y",
                syntax(
                    "[untilTime: Invalid value: \"y\": invalid time format, tailLines: Invalid value: \"x\": \
                     strconv.Atoi: parsing \"x\": invalid syntax]",
                ),
            ),
            ("tailLines=5", value("query: Required value: cannot be empty with options")),
            ("query=k&boot=1", value("boot: Invalid value: 1: must be less than 1")),
            (
                "query=k&tailLines=100001",
                value("tailLines: Invalid value: 100001: must be between 0 and 100000, inclusive"),
            ),
            (
                "query=a/b&query=k",
                value("query: Invalid value: \"[a/b], [k]\": cannot specify a file and service"),
            ),
            ("query=a/b&boot=0", value("query: Invalid value: [\"a/b\"]: cannot specify file with options")),
            (
                "query=--root%3D",
                value("query: Invalid value: \"--root=\": input contains unsupported characters"),
            ),
            (
                "query=k&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z",
                value("untilTime: Invalid value: \"2026-01-01T00:00:00Z\": must be after `sinceTime`"),
            ),
            (
                "query=a&query=b&query=c&query=d&query=e",
                value("query: Too many: 5: must have at most 4 items"),
            ),
        ] {
            assert_eq!(parse(&Query::parse(query)), wanted, "{query}");
        }
    }

    #[test]
    fn a_pattern_that_does_not_parse_is_named() {
        let bad = parse(&Query::parse("query=k&pattern=("));
        assert!(
            matches!(&bad, Err(Malformed::Value(why)) if why.starts_with("pattern: Invalid value: \"(\": ")),
            "{bad:?}"
        );
    }
}
