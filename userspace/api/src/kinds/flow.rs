//! The API's own flow control: FlowSchemas and PriorityLevelConfigurations.

use serde_json::{Value, json};

use super::containers::one_of;
use crate::field::{Errors, Path};
use crate::value::{items, set_default};

pub(super) fn default_flow_schema(object: &mut Value) {
    if object["spec"]["matchingPrecedence"].as_i64().unwrap_or(0) == 0 && object["spec"].is_object() {
        object["spec"]["matchingPrecedence"] = 1000.into();
    }
}

pub(super) fn validate_flow_schema(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let precedence = &spec["matchingPrecedence"];
    if !(1..=10_000).contains(&precedence.as_i64().unwrap_or(0)) {
        let at = path.child("matchingPrecedence");
        let detail = if precedence.as_i64().unwrap_or(0) <= 0 {
            "must be a positive value"
        } else {
            "must not be greater than 10000"
        };
        errors.invalid(&at, precedence, detail);
    }
    if spec["priorityLevelConfiguration"]["name"].as_str().is_none_or(str::is_empty) {
        let at = path.child("priorityLevelConfiguration").child("name");
        errors.required(&at, "must reference a priority level");
    }
    one_of(
        &spec["distinguisherMethod"],
        "type",
        &path.child("distinguisherMethod"),
        &["ByNamespace", "ByUser"],
        errors,
    );
    for (i, rule) in items(spec, "rules").enumerate() {
        let at = path.child("rules").index(i);
        if items(rule, "subjects").next().is_none() {
            errors.required(&at.child("subjects"), "subjects must contain at least one value");
        }
        if items(rule, "resourceRules").next().is_none() && items(rule, "nonResourceRules").next().is_none() {
            errors.required(&at, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
    }
}

pub(super) fn default_priority_level(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    for (kind, field, shares) in [("Exempt", "exempt", 0), ("Limited", "limited", 30)] {
        if spec["type"] != kind || !spec[field].is_object() && kind == "Limited" {
            continue;
        }
        set_default(spec, field, json!({}));
        set_default(&mut spec[field], "nominalConcurrencyShares", shares);
        set_default(&mut spec[field], "lendablePercent", 0);
    }
    let response = spec.get_mut("limited").and_then(|limited| limited.get_mut("limitResponse"));
    if let Some(queuing) =
        response.and_then(|response| response.get_mut("queuing")).filter(|queuing| queuing.is_object())
    {
        for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
            set_default(queuing, field, value);
        }
    }
}

pub(super) fn validate_priority_level(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    match spec["type"].as_str() {
        Some("Exempt") if !spec["limited"].is_null() => {
            errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
        }
        Some("Limited") => {
            if !spec["exempt"].is_null() {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            if spec["limited"].is_null() {
                errors.required(&path.child("limited"), "must not be empty when type is Limited");
            } else {
                let response = path.child("limited").child("limitResponse");
                one_of(&spec["limited"]["limitResponse"], "type", &response, &["Queue", "Reject"], errors);
            }
        }
        Some("Exempt") => {}
        _ => errors.not_supported(&path.child("type"), &spec["type"], &["Exempt", "Limited"]),
    }
}
