//! The order of API versions: the preferred one first.

use std::cmp::Ordering;

/// Kubernetes' order of versions: stable before beta before alpha, newer before older, then all others by name.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability, major and minor of `v1`, `v2beta3`; `None` for anything else.
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let number = |text: &str| {
        let plain = text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    for (word, stability) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_upstreams_order() {
        let mut versions =
            ["foo10", "v1", "v3beta1", "v11alpha2", "v10", "v2", "foo1", "v12alpha1", "v11beta2"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
        );
    }
}
