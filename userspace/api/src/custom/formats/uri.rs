//! The format `uri`, as Go's `url.ParseRequestURI` takes it: a path from the root, or a scheme and what follows.

pub(super) fn accepts(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|c| c < 0x20 || c == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = scheme(text) else { return false };
    let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        Some(inner) => {
            let (authority, path) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
            is_authority(authority) && is_escaped(path)
        }
        None => is_escaped(rest),
    }
}

/// The scheme and the rest; an empty scheme if there is none. `None`: there is a colon without a scheme.
fn scheme(text: &str) -> Option<(&str, &str)> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return None,
            ':' => return Some((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Some(("", text))
}

/// Whether every `%` begins an escape.
fn is_escaped(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
}

fn is_authority(authority: &str) -> bool {
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let is_user = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    if user.is_some_and(|user| !user.chars().all(is_user) || !is_escaped(user)) {
        return false;
    }
    let Some(bracketed) = host.strip_prefix('[') else {
        let (name, port) = host.split_at(host.rfind(':').unwrap_or(host.len()));
        return is_port(port) && is_name(name);
    };
    let Some((inner, port)) = bracketed.rsplit_once(']') else { return false };
    let (address, zone) = inner.split_once("%25").unwrap_or((inner, ""));
    is_port(port) && address.parse::<std::net::Ipv6Addr>().is_ok() && is_escaped(zone)
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()))
}

/// A host's name. Only bytes beyond ASCII may be escaped in it.
fn is_name(name: &str) -> bool {
    let allowed =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    let beyond_ascii =
        |digits: &str| matches!(digits.bytes().next(), Some(b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F'));
    name.chars().all(allowed) && is_escaped(name) && name.split('%').skip(1).all(beyond_ascii)
}
