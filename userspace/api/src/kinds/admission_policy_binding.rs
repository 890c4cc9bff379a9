//! Both kinds of admission policy binding: defaults, validation and columns.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::admission_policy::{default_resources, validate_matched};
use crate::table::cell::{UNSET, selector_text, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::one_of;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::text("PolicyName", |object, _| text_cell(&object["spec"]["policyName"])),
    Column::text("ParamRef", param),
    AGE,
];

pub(super) fn default(object: &mut Value) {
    default_resources(&mut object["spec"], "matchResources");
}

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if spec["policyName"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("policyName"), "");
    }
    let (reference, at) = (&spec["paramRef"], path.child("paramRef"));
    if reference.is_object() {
        let named = reference["name"].as_str().is_some_and(|name| !name.is_empty());
        match (named, reference["selector"].is_object()) {
            (true, true) => errors.forbidden(&at.child("name"), "name and selector are mutually exclusive"),
            (false, false) => errors.required(&at, "one of name or selector must be specified"),
            _ => {}
        }
        match reference["parameterNotFoundAction"].as_str() {
            None => errors.required(&at.child("parameterNotFoundAction"), ""),
            Some(_) => one_of(reference, "parameterNotFoundAction", &at, &["Allow", "Deny"], errors),
        }
    }
    if spec["matchResources"].is_object() {
        validate_matched(&spec["matchResources"], &path.child("matchResources"), errors);
    }
}

fn param(object: &Value, _: Timestamp) -> Value {
    let reference = &object["spec"]["paramRef"];
    match (reference["name"].as_str(), reference["namespace"].as_str()) {
        (Some(name), namespace) if !name.is_empty() => format!("{}/{name}", namespace.unwrap_or("*")).into(),
        _ if reference["selector"].is_object() => selector_text(&reference["selector"]).into(),
        _ => UNSET.into(),
    }
}
