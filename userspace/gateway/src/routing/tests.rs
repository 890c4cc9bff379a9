//! The compiled table against a matcher that tries every rule.

use std::cmp::Reverse;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::*;

/// How specific a match of host and path is; greater is more. `None`: no match.
fn host_rank(pattern: &HostPattern, host: &str) -> Option<(u8, usize)> {
    let label_and_suffix = |suffix: &str| {
        let label = host.strip_suffix(suffix)?.strip_suffix('.')?;
        (!label.is_empty()).then(|| label.to_owned())
    };
    match pattern {
        HostPattern::Exact(name) => (**name == *host).then_some((3, 0)),
        HostPattern::OneLabel(suffix) => {
            label_and_suffix(suffix).filter(|label| !label.contains('.')).map(|_| (2, 0))
        }
        HostPattern::Suffix(suffix) => label_and_suffix(suffix).map(|_| (1, suffix.len())),
        HostPattern::Any => Some((0, 0)),
    }
}

fn path_rank(pattern: &PathMatch, path: &str) -> Option<(u8, usize)> {
    match pattern {
        PathMatch::Exact(exact) => (**exact == *path).then_some((2, 0)),
        PathMatch::Pattern(text) => {
            regex::Regex::new(text).unwrap().is_match(path).then_some((1, text.len()))
        }
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((0, prefix.len()))
        }
    }
}

fn naive(
    rules: &[Rule<usize>],
    defaults: &[(HostPattern, usize)],
    request: &RequestHead<'_>,
) -> Option<usize> {
    let matching = rules.iter().filter_map(|rule| {
        let host = host_rank(&rule.host, request.host)?;
        let path = path_rank(&rule.path, request.path)?;
        let Conditions { method, headers, query, last_element } = &rule.conditions;
        let holds = method.as_ref().is_none_or(|method| method == request.method)
            && headers
                .iter()
                .all(|(name, value)| request.headers.get(name).is_some_and(|found| found == value.as_str()))
            && query.iter().all(|(name, value)| {
                let pairs = request.query.unwrap_or_default().split('&');
                let first = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| key == name);
                first.is_some_and(|(_, found)| found == value)
            })
            && last_element.as_ref().is_none_or(|last| request.path.ends_with(&format!("/{last}")));
        let names_method = method.is_some() || last_element.is_some();
        let rank = (host, path, names_method, headers.len(), query.len(), Reverse(rule.target));
        holds.then_some((rank, rule.target))
    });
    let found = matching.max_by_key(|(rank, _)| *rank).map(|(_, target)| target);
    found.or_else(|| {
        let ranked = defaults
            .iter()
            .filter_map(|(host, target)| Some((host_rank(host, request.host)?, Reverse(*target))));
        ranked.max().map(|(_, Reverse(target))| target)
    })
}

fn host() -> impl Strategy<Value = String> {
    "(a|b)(\\.(a|b)){0,3}"
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        3 => host().prop_map(|name| HostPattern::Exact(name.into())),
        2 => host().prop_map(|name| HostPattern::OneLabel(name.into())),
        2 => host().prop_map(|name| HostPattern::Suffix(name.into())),
        1 => Just(HostPattern::Any),
    ]
}

fn path() -> impl Strategy<Value = String> {
    "(/|(/(a|b|ab)){1,4}/?)"
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let header = || {
        ("(x|y)", "(1|2)").prop_map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value))
    };
    let method = prop_oneof![2 => Just(None), 1 => Just(Some(Method::GET)), 1 => Just(Some(Method::POST))];
    let headers = prop::collection::vec(header(), 0..3);
    let query = prop::collection::vec(("(p|q)", "(1|2)"), 0..3);
    let last = prop_oneof![3 => Just(None), 1 => "(a|b)".prop_map(|last| Some(last.into()))];
    (method, headers, query, last).prop_map(|(method, headers, query, last_element)| Conditions {
        method,
        headers,
        query,
        last_element,
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule<usize>>> {
    let path = prop_oneof![
        2 => path().prop_map(|path| PathMatch::Exact(path.into())),
        2 => path().prop_map(|path| PathMatch::Prefix(path.into())),
        1 => path().prop_map(|path| PathMatch::Pattern(format!("^{}", path.replace("ab", "[ab]+")).into())),
    ];
    let conditions = prop_oneof![2 => Just(Conditions::default()), 1 => conditions()];
    prop::collection::vec((pattern(), path, conditions), 0..40).prop_map(|rules| {
        let numbered = rules.into_iter().enumerate();
        numbered.map(|(target, (host, path, conditions))| Rule { host, path, conditions, target }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_table_finds_what_a_search_of_all_rules_finds(
        rules in rules(),
        defaults in prop::collection::vec(pattern(), 0..4),
        requests in prop::collection::vec(
            (any::<bool>(), host(), path(), "((p|q)=(1|2)(&(p|q)=(1|2)){0,2})?", "[12]?", "[12]?"), 1..20),
    ) {
        let defaults: Vec<_> = defaults.into_iter().zip(1_000..).collect();
        let table = RouteTable::compile(rules.clone(), defaults.clone());
        for (is_get, host, path, query, x, y) in &requests {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x", x), ("y", y)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_str(value).unwrap());
                }
            }
            let request = RequestHead {
                method: if *is_get { &Method::GET } else { &Method::POST },
                host,
                path,
                query: Some(query.as_str()),
                headers: &headers,
            };
            prop_assert_eq!(
                table.find(&request).copied().ok(), naive(&rules, &defaults, &request), "{:?}", request
            );
        }
    }
}

/// The table of Ingress' documentation (kubernetes.io, Ingress, Examples).
#[test]
fn paths_match_as_ingress_documents() {
    let exact = |path: &str| PathMatch::Exact(path.into());
    let prefix = |path: &str| PathMatch::Prefix(path.into());
    for (rules, path, wanted) in [
        (vec![prefix("/")], "/any/path", Some(0)),
        (vec![exact("/foo")], "/foo", Some(0)),
        (vec![exact("/foo")], "/bar", None),
        (vec![exact("/foo")], "/foo/", None),
        (vec![exact("/foo/")], "/foo", None),
        (vec![exact("/foo")], "/FOO", None),
        (vec![prefix("/foo")], "/foo", Some(0)),
        (vec![prefix("/foo")], "/foo/", Some(0)),
        (vec![prefix("/foo/")], "/foo", Some(0)),
        (vec![prefix("/foo/")], "/foo/", Some(0)),
        (vec![prefix("/aaa/bb")], "/aaa/bbb", None),
        (vec![prefix("/aaa/bbb")], "/aaa/bbb", Some(0)),
        (vec![prefix("/aaa/bbb/")], "/aaa/bbb", Some(0)),
        (vec![prefix("/aaa/bbb")], "/aaa/bbb/", Some(0)),
        (vec![prefix("/aaa/bbb")], "/aaa/bbb/ccc", Some(0)),
        (vec![prefix("/aaa/bbb")], "/aaa/bbbxyz", None),
        (vec![prefix("/"), prefix("/aaa")], "/aaa/ccc", Some(1)),
        (vec![prefix("/"), prefix("/aaa"), prefix("/aaa/bbb")], "/aaa/bbb", Some(2)),
        (vec![prefix("/"), prefix("/aaa"), prefix("/aaa/bbb")], "/ccc", Some(0)),
        (vec![prefix("/aaa")], "/ccc", None),
        (vec![prefix("/foo"), exact("/foo")], "/foo", Some(1)),
    ] {
        let rules = rules.into_iter().enumerate().map(|(target, path)| Rule {
            host: HostPattern::Any,
            path,
            conditions: Conditions::default(),
            target,
        });
        let rules: Vec<_> = rules.collect();
        let table = RouteTable::compile(rules.clone(), []);
        let request = RequestHead {
            method: &Method::GET,
            host: "example.com",
            path,
            query: None,
            headers: &HeaderMap::new(),
        };
        assert_eq!(table.find(&request).copied().ok(), wanted, "{path} in {rules:?}");
    }
}

#[test]
fn a_rule_of_any_host_comes_before_every_default() {
    let rule = Rule {
        host: HostPattern::Any,
        path: PathMatch::Prefix("/x".into()),
        conditions: Conditions::default(),
        target: 1,
    };
    let table = RouteTable::compile([rule], [(HostPattern::of_ingress("foo.com"), 2), (HostPattern::Any, 3)]);
    let find = |host, path| {
        let head = RequestHead { method: &Method::GET, host, path, query: None, headers: &HeaderMap::new() };
        table.find(&head).copied().unwrap()
    };
    assert_eq!((find("foo.com", "/x"), find("foo.com", "/y"), find("bar.com", "/y")), (1, 2, 3));
}

#[test]
fn query_parameters_are_compared_decoded() {
    let conditions = Conditions { query: vec![("a b".into(), "c&d".into())], ..Conditions::default() };
    let headers = HeaderMap::new();
    let holds = |query| {
        conditions.hold(&RequestHead { method: &Method::GET, host: "", path: "/", query, headers: &headers })
    };
    assert!(holds(Some("x&a+b=c%26d")) && holds(Some("a%20b=c%26d&a+b=other")));
    assert!(!holds(Some("a+b=other&a+b=c%26d")) && !holds(None) && !holds(Some("")));
}
