//! Hosts of listeners and routes, and what they have in common. PURE.

use crate::routing::HostPattern;

/// A hostname of the API: empty is any host, `*.SUFFIX` any name with at least one label before it.
pub(super) fn pattern(hostname: &str) -> HostPattern {
    let hostname = hostname.to_ascii_lowercase();
    match hostname.strip_prefix("*.") {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None if hostname.is_empty() => HostPattern::Any,
        None => HostPattern::Exact(hostname.into()),
    }
}

/// The hosts that both stand for: the more specific one of the two, or none.
pub(super) fn common(listener: &HostPattern, route: &HostPattern) -> Option<HostPattern> {
    use HostPattern::{Any, Exact, OneLabel, Suffix};
    match (listener, route) {
        (Any, other) | (other, Any) => Some(other.clone()),
        (Exact(a), Exact(b)) => (a == b).then(|| listener.clone()),
        (Suffix(suffix) | OneLabel(suffix), Exact(name)) => is_below(name, suffix).then(|| route.clone()),
        (Exact(name), Suffix(suffix) | OneLabel(suffix)) => is_below(name, suffix).then(|| listener.clone()),
        (Suffix(a) | OneLabel(a), Suffix(b) | OneLabel(b)) => {
            match (a == b || is_below(b, a), is_below(a, b)) {
                (true, _) => Some(route.clone()),
                (_, true) => Some(listener.clone()),
                _ => None,
            }
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_specific_of_two_hosts_is_common() {
        for (listener, route, wanted) in [
            ("", "a.com", Some("a.com")),
            ("a.com", "", Some("a.com")),
            ("", "", Some("")),
            ("a.com", "a.com", Some("a.com")),
            ("a.com", "b.com", None),
            ("*.com", "x.a.com", Some("x.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "xa.com", None),
            ("x.a.com", "*.com", Some("x.a.com")),
            ("*.a.com", "*.com", Some("*.a.com")),
            ("*.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.b.com", None),
        ] {
            let found = common(&pattern(listener), &pattern(route));
            assert_eq!(found, wanted.map(pattern), "{listener} {route}");
        }
    }
}
