//! Paths of requests in one form, so that a route and its backend never understand a path differently.
//!
//! Escapes of unreserved characters are decoded and other escapes get upper-case digits (RFC 3986, 6.2.2); dot segments are
//! removed (5.2.4). Empty segments are kept for the backend and left out for the match, as `/admin` and `//admin` are the same for
//! many backends. A path that has dot segments only for those who decode `%2F`, take `\` for `/` or cut parameters (`..;x`) is refused.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is not absolute")]
    NotAbsolute,
    #[error("the path has a percent sign without two hexadecimal digits")]
    Escape,
    #[error("the path has a null byte or a line break")]
    Control,
    #[error("the path leads above the root")]
    AboveRoot,
    #[error("the path has a dot segment that is not clear")]
    Ambiguous,
}

/// The path of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath<'a> {
    /// As it is sent to the backend.
    pub sent: Cow<'a, str>,
    /// As routes are matched: without empty segments.
    pub matched: Cow<'a, str>,
}

/// Brings a path without query into its one form.
pub fn normalise(path: &str) -> Result<RequestPath<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(path.as_bytes()) {
        return Ok(RequestPath { sent: Cow::Borrowed(path), matched: Cow::Borrowed(path) });
    }
    let decoded = decode_unreserved(path)?;
    let segments = remove_dots(&decoded)?;
    let sent = join(&segments);
    let last = segments.len().saturating_sub(1);
    let named = segments.iter().enumerate().filter(|(at, segment)| *at == last || !segment.is_empty());
    let matched = join(&named.map(|(_, segment)| *segment).collect::<Vec<_>>());
    Ok(RequestPath { sent: Cow::Owned(sent), matched: Cow::Owned(matched) })
}

/// Whether nothing can be normalised: the usual case, without an allocation.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    path.iter().all(|byte| {
        let normal = match byte {
            b'%' | b'\\' | b';' => false,
            b'/' | b'.' => !after_slash,
            _ => true,
        };
        after_slash = *byte == b'/';
        normal
    })
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let digits = digits.ok_or(PathError::Escape)?;
        let byte = u8::from_str_radix(digits, 16).map_err(|_| PathError::Escape)?;
        match byte {
            0 | b'\r' | b'\n' => return Err(PathError::Control),
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = after.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

/// The segments after the first slash, without `.` and `..`. The last one is empty if the path ends with a slash.
fn remove_dots(path: &str) -> Result<Vec<&str>, PathError> {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_with_dots = false;
    for segment in path.split('/').skip(1) {
        ends_with_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => match segments.pop() {
                // Who joins slashes first would go up one segment more.
                Some("") => return Err(PathError::Ambiguous),
                Some(_) => {}
                None => return Err(PathError::AboveRoot),
            },
            _ if hides_dots(segment) => return Err(PathError::Ambiguous),
            _ => segments.push(segment),
        }
    }
    if ends_with_dots {
        segments.push("");
    }
    Ok(segments)
}

/// Whether a segment has dot segments for those who see more separators in it.
fn hides_dots(segment: &str) -> bool {
    if !segment.contains(['%', '\\', ';']) {
        return false;
    }
    let separated = segment.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
    separated.split(['/', '\\']).any(|part| {
        let without_parameters = part.split_once(';').map_or(part, |(name, _)| name);
        matches!(without_parameters, "." | "..")
    })
}

fn join(segments: &[&str]) -> String {
    let mut out =
        String::with_capacity(segments.iter().map(|segment| segment.len() + 1).sum::<usize>().max(1));
    for segment in segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_form() {
        use PathError::{AboveRoot, Ambiguous, Control, Escape, NotAbsolute};
        for (path, wanted) in [
            ("/", Ok(("/", "/"))),
            ("/a/b/", Ok(("/a/b/", "/a/b/"))),
            ("/a.b/..c/.d", Ok(("/a.b/..c/.d", "/a.b/..c/.d"))),
            ("/%61dmin", Ok(("/admin", "/admin"))),
            ("/%7euser/%c3%a9", Ok(("/~user/%C3%A9", "/~user/%C3%A9"))),
            ("/group%2fproject", Ok(("/group%2Fproject", "/group%2Fproject"))),
            ("/a/./b", Ok(("/a/b", "/a/b"))),
            ("/a/../b", Ok(("/b", "/b"))),
            ("/a/%2e%2E/b", Ok(("/b", "/b"))),
            ("/a/..", Ok(("/", "/"))),
            ("/a/b/.", Ok(("/a/b/", "/a/b/"))),
            ("//a///b", Ok(("//a///b", "/a/b"))),
            ("/a//", Ok(("/a//", "/a/"))),
            ("//", Ok(("//", "/"))),
            ("/a;x=1/b", Ok(("/a;x=1/b", "/a;x=1/b"))),
            ("/%252e%252e/x", Ok(("/%252e%252e/x", "/%252e%252e/x"))),
            ("a", Err(NotAbsolute)),
            ("*", Err(NotAbsolute)),
            ("", Err(NotAbsolute)),
            ("/%", Err(Escape)),
            ("/%2", Err(Escape)),
            ("/%zz", Err(Escape)),
            ("/%+1", Err(Escape)),
            ("/a%00", Err(Control)),
            ("/a%0d%0aX:", Err(Control)),
            ("/..", Err(AboveRoot)),
            ("/a/../../b", Err(AboveRoot)),
            ("/a/..%2fb", Err(Ambiguous)),
            ("/a%2f..%2fb", Err(Ambiguous)),
            ("/a/..\\b", Err(Ambiguous)),
            ("/a/%2e%2e%5cb", Err(Ambiguous)),
            ("/a/..;/b", Err(Ambiguous)),
            ("/a/..%3bx/b", Err(Ambiguous)),
            ("/a/.;x", Err(Ambiguous)),
            ("/a//../b", Err(Ambiguous)),
        ] {
            let got = normalise(path);
            let got = got.as_ref().map(|path| (&*path.sent, &*path.matched)).map_err(|error| *error);
            assert_eq!(got, wanted, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_stable_and_has_no_dot_segments(path in "/([a./%;\\\\]|%2e|%2f|%5c|//){0,12}") {
            if let Ok(once) = normalise(&path) {
                let again = normalise(&once.sent).unwrap();
                prop_assert_eq!(&again.sent, &once.sent);
                prop_assert_eq!(&again.matched, &once.matched);
                prop_assert!(!once.matched.contains("//"));
                for text in [&once.sent, &once.matched] {
                    let decoded = text.replace("%2F", "/").replace("%5C", "/").replace('\\', "/");
                    let mut parts = decoded.split('/').map(|part| part.split(';').next().unwrap_or_default());
                    prop_assert!(!parts.any(|part| part == "." || part == ".."), "{}", decoded);
                }
            }
        }
    }
}
