//! Paths by a regular expression, with its groups in the path that the endpoint gets.

use regex::Regex;

/// The whole path becomes another one.
#[derive(Clone, Debug)]
pub struct CaptureRewrite {
    /// Of the rule that the request matched.
    pub pattern: Regex,
    /// With `$1` for groups; a query in it comes before that of the request.
    pub to: Box<str>,
}

impl PartialEq for CaptureRewrite {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.to == other.to
    }
}

impl Eq for CaptureRewrite {}

impl CaptureRewrite {
    /// Path and query. A path that the pattern does not match stays.
    pub(crate) fn apply(&self, path: &str, query: Option<&str>) -> (String, Option<String>) {
        let Some(groups) = self.pattern.captures(path) else {
            return (path.to_owned(), query.map(str::to_owned));
        };
        let filled = fill(&self.to, |group| groups.get(group).map_or("", |found| found.as_str()));
        let (path, own) = match filled.split_once('?') {
            Some((path, own)) => (path.to_owned(), Some(own.to_owned())),
            None => (filled, None),
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let query = match (own.filter(|own| !own.is_empty()), query) {
            (Some(own), Some(query)) => Some(format!("{own}&{query}")),
            (Some(own), None) => Some(own),
            (None, query) => query.map(str::to_owned),
        };
        (path, query)
    }
}

/// `$N` and `${N}` become groups.
fn fill<'a>(text: &str, group: impl Fn(usize) -> &'a str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (inner, braced) = match after.strip_prefix('{') {
            Some(inner) => (inner, true),
            None => (after, false),
        };
        let digits = inner.bytes().take_while(u8::is_ascii_digit).count();
        let number = inner.get(..digits).and_then(|digits| digits.parse().ok());
        match number {
            Some(number) => {
                out.push_str(group(number));
                rest = inner.get(digits..).unwrap_or_default();
                rest = if braced { rest.strip_prefix('}').unwrap_or(rest) } else { rest };
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_the_match_come_into_the_path() {
        for (pattern, to, path, query, wanted) in [
            ("^/something(/|$)(.*)", "/$2", "/something/new/x", None, ("/new/x", None)),
            ("^/something(/|$)(.*)", "/$2", "/something", Some("q"), ("/", Some("q"))),
            ("^/api/(v[0-9]+)/(.*)", "/${2}/of/$1", "/api/v2/a", None, ("/a/of/v2", None)),
            ("^/x", "/", "/x/y", None, ("/", None)),
            ("^/x/(.*)", "/y?id=$1", "/x/7", Some("a=b"), ("/y", Some("id=7&a=b"))),
            ("^/x/(.*)", "$1", "/x/7", None, ("/7", None)),
            ("^/x", "/$y$", "/x", None, ("/$y$", None)),
            ("^/other", "/", "/x", Some("q"), ("/x", Some("q"))),
        ] {
            let rewrite = CaptureRewrite { pattern: Regex::new(pattern).unwrap(), to: to.into() };
            let (path, query) = rewrite.apply(path, query);
            assert_eq!((&*path, query.as_deref()), wanted, "{pattern} {to}");
        }
    }
}
