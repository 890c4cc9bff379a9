//! Both kinds of admission policy: defaults, and the checks that they share.

use serde_json::Value;

use crate::cel::{Type, is_identifier};
use crate::field::{Errors, Path};
use crate::kinds::admission_rules::{
    FAILURE_POLICIES, MATCH_POLICIES, default_match, validate_conditions, validate_rules, validate_selectors,
};
use crate::kinds::expression::Environment;
use crate::names::{NameForm, name_problems};
use crate::value::{items, items_mut, one_of, set_default, text};

/// Operations that a mutating policy may match; a deletion has no object to change.
const MUTABLE_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

pub(super) fn default_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec.is_object() {
        set_default(spec, "failurePolicy", "Fail");
        default_resources(spec, "matchConstraints");
    }
}

pub(super) fn default_resources(spec: &mut Value, field: &str) {
    if let Some(matched) = spec.get_mut(field).filter(|matched| matched.is_object()) {
        default_match(matched, "resourceRules");
        items_mut(matched, "excludeResourceRules").for_each(|rule| set_default(rule, "scope", "*"));
    }
}

/// Checks what both kinds of policy have; returns the names that the policy's expressions may use.
pub(super) fn validate_policy(spec: &Value, path: &Path, errors: &mut Errors) -> Environment {
    one_of(spec, "failurePolicy", path, &FAILURE_POLICIES, errors);
    let at = path.child("matchConstraints");
    if !spec["matchConstraints"].is_object() {
        errors.required(&at, "");
    } else {
        if items(&spec["matchConstraints"], "resourceRules").next().is_none() {
            errors.required(&at.child("resourceRules"), "");
        }
        validate_matched(&spec["matchConstraints"], &at, errors);
    }
    let mut environment = Environment::of_policies();
    if spec["paramKind"].is_object() {
        environment = environment.with_params(Type::Dyn.into());
        validate_param_kind(&spec["paramKind"], &path.child("paramKind"), errors);
    }
    validate_conditions(spec, path, &environment.without_variables(), errors);
    for (i, variable) in items(spec, "variables").enumerate() {
        let at = path.child("variables").index(i);
        let name = variable["name"].as_str().unwrap_or_default();
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.child("name"), &variable["name"], "must be a valid CEL identifier");
        }
        environment.add_checked(variable, &at, errors);
    }
    environment
}

fn validate_param_kind(kind: &Value, path: &Path, errors: &mut Errors) {
    let (whole, at) = (text(&kind["apiVersion"]), path.child("apiVersion"));
    let mut invalid = |value: &str, problems: Vec<&str>| {
        if !problems.is_empty() {
            errors.invalid(&at, &value.into(), &problems.join(","));
        }
    };
    match whole.split('/').collect::<Vec<&str>>().as_slice() {
        [""] => errors.required(&at, ""),
        [version] => invalid(version, name_problems(version, NameForm::Label1035)),
        [group, version] => {
            if !group.is_empty() {
                invalid(group, name_problems(group, NameForm::Subdomain));
            }
            if version.is_empty() {
                invalid(whole, vec!["version must be specified"]);
            } else {
                invalid(version, name_problems(version, NameForm::Label1035));
            }
        }
        _ => errors.invalid(&at, &whole.into(), &format!("unexpected GroupVersion string: {whole}")),
    }
    let (name, at) = (text(&kind["kind"]), path.child("kind"));
    let problems = name_problems(&name.to_lowercase(), NameForm::Label1035);
    if name.is_empty() {
        errors.required(&at, "");
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.invalid(&at, &name.into(), &detail);
    }
}

pub(super) fn validate_changeable(matched: &Value, path: &Path, errors: &mut Errors) {
    let all = items(matched, "resourceRules").flat_map(|rule| items(rule, "operations"));
    for operation in
        all.filter(|operation| !MUTABLE_OPERATIONS.contains(&operation.as_str().unwrap_or_default()))
    {
        errors.not_supported(
            &path.child("resourceRules").child("operations"),
            operation,
            &MUTABLE_OPERATIONS,
        );
    }
}

pub(super) fn validate_matched(matched: &Value, path: &Path, errors: &mut Errors) {
    validate_selectors(matched, path, errors);
    one_of(matched, "matchPolicy", path, &MATCH_POLICIES, errors);
    validate_rules(matched, "resourceRules", path, errors);
    validate_rules(matched, "excludeResourceRules", path, errors);
}
