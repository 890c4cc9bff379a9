//! FlowSchemas: the priority level of matching requests.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, number_cell, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, one_of};

pub(super) const ROW: Row = Row {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    subresources: &["status"],
    schema: "api.flowcontrol.v1.FlowSchema",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("PriorityLevel", |object, _| {
        text_cell(&object["spec"]["priorityLevelConfiguration"]["name"])
    }),
    Column::text("MatchingPrecedence", |object, _| number_cell(&object["spec"]["matchingPrecedence"])),
    Column::text("DistinguisherMethod", |object, _| {
        text_or(&object["spec"]["distinguisherMethod"]["type"], NONE).into()
    }),
    AGE,
    Column::text("MissingPL", dangling),
];

fn default(object: &mut Value) {
    if object["spec"]["matchingPrecedence"].as_i64().unwrap_or(0) == 0 && object["spec"].is_object() {
        object["spec"]["matchingPrecedence"] = 1000.into();
    }
}

fn validate(object: &Value, errors: &mut Errors) {
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

fn dangling(object: &Value, _: Timestamp) -> Value {
    let found = items(&object["status"], "conditions").find(|condition| condition["type"] == "Dangling");
    text_or(found.map_or(&Value::Null, |condition| &condition["status"]), "?").into()
}
