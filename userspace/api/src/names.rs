//! Names as the API allows them: objects' names, labels and qualified names.
//!
//! In: a text and the form that it must have. Out: what is wrong with it, in upstream's words.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Errors, Path};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub(crate) const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label: begins with a letter.
    Label1035,
    /// Any text that is valid as one segment of a path.
    PathSegment,
    /// An IP address in its canonical form.
    Address,
}

/// Why a name does not have the form; `None` if it does.
pub fn name_problem(name: &str, form: NameForm) -> Option<&'static str> {
    match form {
        NameForm::Subdomain if name.len() > 253 => Some("must be no more than 253 bytes"),
        NameForm::Subdomain => (!is_subdomain(name)).then_some(SUBDOMAIN),
        NameForm::Label if name.len() > 63 => Some("must be no more than 63 bytes"),
        NameForm::Label => (!is_label(name)).then_some(LABEL),
        NameForm::Label1035 if name.len() > 63 => Some("must be no more than 63 bytes"),
        NameForm::Label1035 => {
            (!is_label(name) || name.starts_with(|c: char| c.is_ascii_digit())).then_some(LABEL_1035)
        }
        NameForm::PathSegment if matches!(name, "." | "..") => Some("may not be '.' or '..'"),
        NameForm::PathSegment if name.contains('/') => Some("may not contain '/'"),
        NameForm::PathSegment if name.contains('%') => Some("may not contain '%'"),
        NameForm::PathSegment => None,
        NameForm::Address => match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == name => None,
            Ok(_) => Some("must be in canonical form"),
            Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        },
    }
}

pub(crate) fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.split('.').all(is_label)
}

pub(crate) fn is_label(name: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = name.as_bytes();
    ends(bytes.first().copied())
        && ends(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// Why a text is no `[prefix/]name`, the form of label keys; `None` if it is one.
pub(crate) fn qualified_name_problem(name: &str) -> Option<&'static str> {
    let name = match name.split_once('/') {
        Some((prefix, _)) if !is_subdomain(prefix) || prefix.len() > 253 => return Some(SUBDOMAIN),
        Some((_, name)) => name,
        None => name,
    };
    if name.is_empty() || !is_label_value(name) { Some(QUALIFIED_NAME) } else { None }
}

pub(crate) fn is_label_value(value: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let bytes = value.as_bytes();
    let ends = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| inner(*c))
}

/// Checks a map of labels; also used for selectors and templates.
pub(crate) fn validate_labels(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Some(problem) = qualified_name_problem(key) {
            errors.invalid(path, &Value::from(key.as_str()), problem);
        }
        match value.as_str() {
            Some(text) if is_label_value(text) => {}
            _ => errors.invalid(path, value, LABEL_VALUE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_their_form() {
        assert!(name_problem("a.b-c.d0", NameForm::Subdomain).is_none());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert!(name_problem(bad, NameForm::Subdomain).is_some(), "{bad}");
        }
        assert!(name_problem("0a", NameForm::Label).is_none());
        assert!(name_problem("0a", NameForm::Label1035).is_some());
        assert!(name_problem("system:node", NameForm::PathSegment).is_none());
        assert!(name_problem("a/b", NameForm::PathSegment).is_some());
        assert!(qualified_name_problem("kubernetes.io/name").is_none());
        assert!(qualified_name_problem("a/b/c").is_some());
        assert!(is_label_value(""));
        assert!(!is_label_value("a b"));
    }
}
