//! Both kinds of admission policy binding: defaults, validation and columns.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::admission_policy::{default_resources, validate_matched};
use crate::kinds::label_selector::validate_selector;
use crate::names::{NameForm, validate_optional_name};
use crate::table::cell::{UNSET, selector_text, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{is_zero, require_one_of, require_text};

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
    if require_text(spec, "policyName", &path, errors) {
        validate_optional_name(spec, "policyName", NameForm::Subdomain, &path, errors);
    }
    let (reference, at) = (&spec["paramRef"], path.child("paramRef"));
    if reference.is_object() {
        validate_reference(reference, &at, errors);
    }
    if spec["matchResources"].is_object() {
        validate_matched(&spec["matchResources"], &path.child("matchResources"), errors);
    }
}

fn validate_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    validate_optional_name(reference, "name", NameForm::PathSegment, path, errors);
    let (is_named, selects) = (!is_zero(&reference["name"]), reference["selector"].is_object());
    if is_named && selects {
        errors.forbidden(&path.child("name"), "name and selector are mutually exclusive");
    }
    validate_selector(&reference["selector"], &path.child("selector"), errors);
    if is_named && selects {
        errors.forbidden(&path.child("selector"), "name and selector are mutually exclusive");
    }
    if !is_named && !selects {
        errors.required(path, "one of name or selector must be specified");
    }
    require_one_of(reference, "parameterNotFoundAction", path, &["Deny", "Allow"], errors);
}

fn param(object: &Value, _: Timestamp) -> Value {
    let reference = &object["spec"]["paramRef"];
    match (reference["name"].as_str(), reference["namespace"].as_str()) {
        (Some(name), namespace) if !name.is_empty() => format!("{}/{name}", namespace.unwrap_or("*")).into(),
        _ if reference["selector"].is_object() => selector_text(&reference["selector"]).into(),
        _ => UNSET.into(),
    }
}
