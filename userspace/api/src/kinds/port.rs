//! Ports as many kinds have them: numbers, names and protocols.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, validate_name};

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Checks the number of a port; an absent one is 0.
pub(super) fn validate_port_number(port: &Value, path: &Path, errors: &mut Errors) {
    let number = port.as_i64().unwrap_or_default();
    if !(1..=65535).contains(&number) {
        errors.invalid(path, &number.into(), "must be between 1 and 65535, inclusive");
    }
}

/// Checks the number or the name of a port.
pub(super) fn validate_port(port: &Value, path: &Path, errors: &mut Errors) {
    match port {
        Value::String(name) => validate_name(name, NameForm::PortName, path, errors),
        port => validate_port_number(port, path, errors),
    }
}
