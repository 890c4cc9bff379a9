//! Names as the API allows them: objects' names, labels, keys and qualified names.
//!
//! In: a text and the form that it must have. Out: all that is wrong with it, in upstream's words.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Errors, Path};

macro_rules! subdomain {
    () => {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    };
}

macro_rules! label_key {
    () => {
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    };
}

const SUBDOMAIN: &str = subdomain!();
const UNDERSCORED: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const VARIABLE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// RFC 1123 subdomain.
    Subdomain,
    /// The same, where upstream counts its length in bytes: its declared validation.
    DeclaredSubdomain,
    /// RFC 1123 subdomain whose labels may contain underscores.
    UnderscoredSubdomain,
    /// `*.` and an RFC 1123 subdomain.
    WildcardSubdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label: begins with a letter.
    Label1035,
    /// Any text that is valid as one segment of a path.
    PathSegment,
    /// An IP address in its canonical form.
    Address,
    /// `[prefix/]name`: the key of a label, also called a qualified name.
    LabelKey,
    LabelValue,
    /// The key of a ConfigMap or Secret.
    ConfigKey,
    /// RFC 6335: a service name.
    PortName,
    /// The name of an environment variable.
    Variable,
    /// The name of an HTTP header.
    Header,
    /// A C identifier.
    Identifier,
    /// Digits and `%`.
    Percent,
}

/// The first reason why a name does not have the form; `None` if it does.
pub fn name_problem(name: &str, form: NameForm) -> Option<&'static str> {
    name_problems(name, form).first().copied()
}

/// All reasons why a name does not have the form.
pub(crate) fn name_problems(name: &str, form: NameForm) -> Vec<&'static str> {
    let checks: &[(bool, &'static str)] = match form {
        NameForm::Subdomain => {
            &[(name.len() > 253, "must be no more than 253 characters"), (!is_subdomain(name), SUBDOMAIN)]
        }
        NameForm::DeclaredSubdomain => {
            &[(name.len() > 253, "must be no more than 253 bytes"), (!is_subdomain(name), SUBDOMAIN)]
        }
        NameForm::UnderscoredSubdomain => &[
            (name.len() > 253, "must be no more than 253 characters"),
            (!name.split('.').all(is_underscored_label), UNDERSCORED),
        ],
        NameForm::WildcardSubdomain => &[
            (name.len() > 253, "must be no more than 253 characters"),
            (!name.strip_prefix("*.").is_some_and(is_subdomain), WILDCARD),
        ],
        NameForm::Label => &[
            (name.len() > 63, "must be no more than 63 characters"),
            (!is_label(name), if is_subdomain(name) { "must not contain dots" } else { LABEL }),
        ],
        NameForm::Label1035 => &[
            (name.len() > 63, "must be no more than 63 characters"),
            (!is_label(name) || name.starts_with(|c: char| c.is_ascii_digit()), LABEL_1035),
        ],
        NameForm::PathSegment => &[
            (name == ".", "may not be '.'"),
            (name == "..", "may not be '..'"),
            (name.contains('/'), "may not contain '/'"),
            (name.contains('%'), "may not contain '%'"),
        ],
        NameForm::LabelValue => {
            &[(name.len() > 63, "must be no more than 63 bytes"), (!is_label_text(name), LABEL_VALUE)]
        }
        NameForm::Address => return address_problems(name),
        NameForm::LabelKey => return label_key_problems(name),
        NameForm::PortName => return port_name_problems(name),
        NameForm::ConfigKey
        | NameForm::Variable
        | NameForm::Header
        | NameForm::Identifier
        | NameForm::Percent => {
            return text_problems(name, form);
        }
    };
    only_problems(checks)
}

fn only_problems(checks: &[(bool, &'static str)]) -> Vec<&'static str> {
    checks.iter().filter(|(is_bad, _)| *is_bad).map(|(_, problem)| *problem).collect()
}

fn address_problems(name: &str) -> Vec<&'static str> {
    match name.parse::<IpAddr>() {
        Ok(ip) => only_problems(&[(ip.to_string() != name, "must be in canonical form")]),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    }
}

/// Texts that are no names of objects.
fn text_problems(name: &str, form: NameForm) -> Vec<&'static str> {
    let all = |is_allowed: fn(u8) -> bool| name.bytes().all(is_allowed);
    let checks: &[(bool, &'static str)] = match form {
        NameForm::ConfigKey => &[
            (name.len() > 253, "must be no more than 253 characters"),
            (name.is_empty() || !all(is_label_byte), CONFIG_KEY),
            (name == ".", "must not be '.'"),
            (name == "..", "must not be '..'"),
            (name.starts_with("..") && name != "..", "must not start with '..'"),
        ],
        NameForm::Variable => &[
            (name.is_empty(), "environment variable name must be non-empty"),
            (!all(|c| matches!(c, b' '..=b'~') && c != b'='), VARIABLE),
        ],
        NameForm::Header => &[(name.is_empty() || !all(|c| c.is_ascii_alphanumeric() || c == b'-'), HEADER)],
        NameForm::Identifier => &[(
            !all(|c| c.is_ascii_alphanumeric() || c == b'_')
                || name.bytes().next().is_none_or(|c| c.is_ascii_digit()),
            IDENTIFIER,
        )],
        _ => {
            let digits = name.strip_suffix('%').unwrap_or_default();
            &[(digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()), PERCENT)]
        }
    };
    only_problems(checks)
}

fn port_name_problems(name: &str) -> Vec<&'static str> {
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let checks = [
        (name.len() > 15, "must be no more than 15 characters"),
        (
            name.is_empty() || !name.bytes().all(is_allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (!name.bytes().any(|c| c.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    checks.into_iter().filter(|(is_bad, _)| *is_bad).map(|(_, problem)| problem).collect()
}

fn label_key_problems(key: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let name = match key.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return vec![concat!(
                "a valid label key ",
                label_key!(),
                " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                found.push("prefix part must be non-empty");
            } else {
                if prefix.len() > 253 {
                    found.push("prefix part must be no more than 253 bytes");
                }
                if !is_subdomain(prefix) {
                    found.push(concat!("prefix part ", subdomain!()));
                }
            }
            name
        }
        None => key,
    };
    if name.is_empty() {
        found.push("name part must be non-empty");
    } else if name.len() > 63 {
        found.push("name part must be no more than 63 bytes");
    }
    if name.is_empty() || !is_label_text(name) {
        found.push(concat!("name part ", label_key!()));
    }
    found
}

/// Reports all that is wrong with a name.
pub(crate) fn validate_name(name: &str, form: NameForm, path: &Path, errors: &mut Errors) {
    for problem in name_problems(name, form) {
        errors.invalid(path, &name.into(), problem);
    }
}

/// Reports all that is wrong with the name in a field; an absent or empty one is valid.
pub(crate) fn validate_optional_name(
    object: &Value,
    field: &str,
    form: NameForm,
    path: &Path,
    errors: &mut Errors,
) {
    if let Some(name) = object[field].as_str().filter(|name| !name.is_empty()) {
        for problem in name_problems(name, form) {
            errors.invalid(&path.child(field), &object[field], problem);
        }
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

fn is_underscored_label(name: &str) -> bool {
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_end = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|c| is_end(*c))
        && bytes.last().is_some_and(|c| is_end(*c))
        && bytes.iter().all(|c| is_end(*c) || matches!(c, b'-' | b'_'))
}

/// Why a text is no `[prefix/]name`, the form of label keys; `None` if it is one.
pub(crate) fn qualified_name_problem(name: &str) -> Option<&'static str> {
    name_problem(name, NameForm::LabelKey)
}

fn is_label_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')
}

/// Whether a text consists of what a label's value may have, in any length.
fn is_label_text(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| is_label_byte(*c))
}

pub(crate) fn is_label_value(value: &str) -> bool {
    value.len() <= 63 && is_label_text(value)
}

/// Checks a map of labels; also used for selectors and templates.
pub(crate) fn validate_labels(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        validate_name(key, NameForm::LabelKey, path, errors);
        validate_name(value.as_str().unwrap_or_default(), NameForm::LabelValue, path, errors);
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
        assert_eq!(name_problem("a.b", NameForm::Label), Some("must not contain dots"));
        assert!(name_problem("system:node", NameForm::PathSegment).is_none());
        assert!(name_problem("a/b", NameForm::PathSegment).is_some());
        assert!(qualified_name_problem("kubernetes.io/name").is_none());
        assert!(qualified_name_problem("a/b/c").is_some());
        assert!(is_label_value(""));
        assert!(!is_label_value("a b"));
        assert_eq!(name_problems("-A--", NameForm::PortName).len(), 4);
        assert!(name_problem("_a.b_c", NameForm::UnderscoredSubdomain).is_none());
    }
}
