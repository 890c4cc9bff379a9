//! The URL of an issuer, or of its discovery document.

use skep_api::Errors;
use skep_api::field::Path;

/// The parts of a URL that its checks look at.
struct Parts<'a> {
    scheme: &'a str,
    has_user: bool,
    query: &'a str,
    fragment: &'a str,
    host: &'a str,
}

impl Parts<'_> {
    fn of(url: &str) -> Parts<'_> {
        let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (url, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        Parts { scheme, has_user: user.is_some(), query, fragment, host }
    }
}

/// Checks that a URL is one that can be asked: https, with a host and a path, and nothing else.
pub(super) fn validate(url: &str, path: &Path, errors: &mut Errors) {
    let value = url.into();
    let parts = Parts::of(url);
    let problems = [
        (parts.scheme != "https", "URL scheme must be https"),
        (parts.has_user, "URL must not contain a username or password"),
        (!parts.query.is_empty(), "URL must not contain a query"),
        (!parts.fragment.is_empty(), "URL must not contain a fragment"),
    ];
    let mut found = false;
    // An address of IPv6 has colons of its own.
    let after = parts.host.rsplit_once(']').map_or(parts.host, |(_, after)| after);
    if let Some((_, port)) = after.split_once(':')
        && !port.chars().all(|c| c.is_ascii_digit())
    {
        errors.invalid(path, &value, &format!("parse {url:?}: invalid port \":{port}\" after host"));
        return;
    }
    for (_, why) in problems.into_iter().filter(|(is_bad, _)| *is_bad) {
        errors.invalid(path, &value, why);
        found = true;
    }
    if !found && (parts.host.is_empty() || url.parse::<http::Uri>().is_err()) {
        errors.invalid(path, &value, "URL must have a host and no characters that need an escape");
    }
}
