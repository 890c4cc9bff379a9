//! PURE. Patterns of images: a registry's host, in whose parts `*` and `?` stand for characters, a port, and the start of a path.

/// Whether the image, without tag and scheme, matches. `*` never crosses a dot, and the port is the same or absent in both.
pub(super) fn matches(pattern: &str, image: &str) -> bool {
    let ((of_pattern, port, path), (of_image, image_port, image_path)) = (split(pattern), split(image));
    let (hosts, image_hosts) = (of_pattern.split('.'), of_image.split('.'));
    port == image_port
        && image_path.starts_with(path)
        && hosts.clone().count() == image_hosts.clone().count()
        && hosts.zip(image_hosts).all(|(pattern, part)| part_matches(pattern.as_bytes(), part.as_bytes()))
}

/// Host, port, and path with its slash.
fn split(text: &str) -> (&str, &str, &str) {
    let text = text.trim_start_matches("https://").trim_start_matches("http://");
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    (host, port, path)
}

fn part_matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            part_matches(rest, text)
                || text.split_first().is_some_and(|(_, text)| part_matches(pattern, text))
        }
        (Some((b'?', rest)), Some((_, text))) => part_matches(rest, text),
        (Some((a, rest)), Some((b, text))) if a == b => part_matches(rest, text),
        _ => false,
    }
}

/// Why a pattern is refused; `None`: it is not.
pub(super) fn problem(pattern: &str) -> Option<&'static str> {
    let (host, port, path) = split(pattern);
    if host.is_empty() {
        Some("it has no host")
    } else if host.contains(['[', ']', '\\']) {
        Some("of a host's characters only * and ? stand for others")
    } else if port.contains('*') || path.contains('*') {
        Some("a wildcard may be in the host only")
    } else if host.bytes().filter(|byte| *byte == b'*').count() > MAX_STARS {
        Some("it has too many wildcards")
    } else {
        None
    }
}

/// Each multiplies the time of a comparison.
const MAX_STARS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_part_by_part_and_paths_by_their_start() {
        for (pattern, image, wanted) in [
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/app", true),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.amazonaws.com/app", false),
            ("*.io", "a.b.io/app", false),
            ("registry.io/team", "registry.io/team/app", true),
            ("registry.io/team", "registry.io/other/app", false),
            ("registry.io", "registry.io:5000/app", false),
            ("localhost:5000", "localhost:5000/app", true),
            ("loc*st:5000", "localhost:5000/app", true),
            ("local?ost:5000", "localhost:5000/app", true),
            ("https://registry.io", "registry.io/app", true),
            ("docker.io", "docker.io/library/busybox", true),
        ] {
            assert_eq!(matches(pattern, image), wanted, "{pattern} {image}");
        }
        for (pattern, refused) in
            [("*.io", false), ("", true), ("a.io:*", true), ("a.io/*", true), ("[ab].io", true)]
        {
            assert_eq!(problem(pattern).is_some(), refused, "{pattern}");
        }
    }
}
