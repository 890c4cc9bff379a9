//! The names of signers: `example.com/name`.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems};
use crate::value::text;

const MAX_DOMAIN_LENGTH: usize = 253;
/// A domain, a namespace's name, an object's name, and what separates them.
const MAX_LENGTH: usize = 571;

/// Checks the name of a signer.
pub(super) fn validate_signer_name(signer: &Value, path: &Path, errors: &mut Errors) {
    let name = text(signer);
    if name.is_empty() {
        return errors.required(path, "");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, signer, detail);
    };
    if domain.len() > MAX_DOMAIN_LENGTH {
        errors.too_long(path, MAX_DOMAIN_LENGTH);
    }
    validate_labels(domain, NameForm::Label, path, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, &(*domain).into(), detail);
    }
    validate_labels(rest, NameForm::Subdomain, path, errors);
    if name.len() > MAX_LENGTH {
        errors.too_long(path, MAX_LENGTH);
    }
}

/// Reports the first label of a segment that is not of its form.
fn validate_labels(segment: &str, form: NameForm, path: &Path, errors: &mut Errors) {
    for label in segment.split('.') {
        let problems = name_problems(label, form);
        for problem in &problems {
            errors.invalid(path, &segment.into(), &format!("validating label {label:?}: {problem}"));
        }
        if !problems.is_empty() {
            return;
        }
    }
}
