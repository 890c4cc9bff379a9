//! Ports as many kinds have them: numbers, names and protocols.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names;

pub(super) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// RFC 6335: a service name.
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && names::is_label(name)
        && !name.contains("--")
        && name.bytes().any(|c| c.is_ascii_lowercase())
}

pub(super) fn validate_port_number(port: &Value, min: i64, path: &Path, required: bool, errors: &mut Errors) {
    match port.as_i64() {
        None if required => errors.required(path, ""),
        Some(number) if !(min..=65535).contains(&number) => {
            errors.invalid(path, port, "must be between 1 and 65535, inclusive");
        }
        _ => {}
    }
}
