//! What selects and configures devices: CEL expressions and opaque parameters.

use serde_json::Value;

use crate::cel::{CelError, Type, compile, device_scope};
use crate::field::{Errors, Path};
use crate::kinds::csi::validate_driver_name;
use crate::kinds::device_names::within;
use crate::value::{items, text};

const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION_BYTES: usize = 10_240;
const MAX_PARAMETERS_BYTES: usize = 10_240;

/// Checks the selectors of a class or of a request.
pub(super) fn validate_selectors(object: &Value, path: &Path, errors: &mut Errors) {
    if !within(object, "selectors", MAX_SELECTORS, path, errors) {
        return;
    }
    for (i, selector) in items(object, "selectors").enumerate() {
        let at = path.child("selectors").index(i).child("cel");
        if selector["cel"].is_object() {
            validate_expression(text(&selector["cel"]["expression"]), &at.child("expression"), errors);
        } else {
            errors.required(&at, "");
        }
    }
}

fn validate_expression(source: &str, path: &Path, errors: &mut Errors) {
    if source.len() > MAX_EXPRESSION_BYTES {
        return errors.too_long(path, MAX_EXPRESSION_BYTES);
    }
    match compile(source, &device_scope()) {
        Err(CelError::Instantiation(why)) => {
            errors.invalid(path, &source.into(), &format!("program instantiation failed: {why}"));
        }
        Err(error) => errors.invalid(path, &source.into(), &format!("compilation failed: {error}")),
        Ok(checked) => {
            let of = checked.of();
            if !matches!(of, Type::Bool | Type::Dyn) {
                let why = format!("must evaluate to bool or the unknown type, not {of}");
                errors.invalid(path, &source.into(), &why);
            }
        }
    }
}

/// Checks the configuration of a class, a claim or an allocation.
pub(super) fn validate_configuration(config: &Value, path: &Path, errors: &mut Errors) {
    let (opaque, at) = (&config["opaque"], path.child("opaque"));
    if !opaque.is_object() {
        return errors.required(&at, "");
    }
    validate_driver_name(&opaque["driver"], &at.child("driver"), errors);
    validate_raw(&opaque["parameters"], MAX_PARAMETERS_BYTES, &at.child("parameters"), errors);
}

/// Checks an object whose fields only its driver knows.
pub(super) fn validate_raw(raw: &Value, max_bytes: usize, path: &Path, errors: &mut Errors) {
    if raw.is_null() {
        return errors.required(path, "");
    }
    if raw.to_string().len() > max_bytes {
        errors.too_long(path, max_bytes);
    } else if !raw.is_object() {
        errors.invalid(path, &"<value omitted>".into(), "must be a valid JSON object");
    }
}
