//! Paths below a domain: `example.com/name`.

use crate::field::{Errors, Path};
use crate::names::{NameForm, validate_name};

/// Checks a path below a domain.
pub fn validate_prefixed_path(value: &str, path: &Path, errors: &mut Errors) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    let Some((host, rest)) =
        value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return errors.invalid(path, &value.into(), detail);
    };
    validate_name(host, NameForm::Subdomain, path, errors);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !rest.chars().all(is_allowed) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, &rest.into(), detail);
    }
}
