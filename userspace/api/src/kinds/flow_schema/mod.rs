//! FlowSchemas: the priority level of matching requests.

mod rules;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names::{NameForm, validate_name};
use crate::table::cell::{NONE, number_cell, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, text};

use rules::validate_rule;

pub(super) const ROW: Row = Row {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    subresources: &["status"],
    schema: "api.flowcontrol.v1.FlowSchema",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, own_required: true, ..Strategy::NONE },
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

const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];

fn default(object: &mut Value) {
    if object["spec"]["matchingPrecedence"].as_i64().unwrap_or(0) == 0 && object["spec"].is_object() {
        object["spec"]["matchingPrecedence"] = 1000.into();
    }
}

/// The schema of requests that never wait.
const EXEMPT: &str = "exempt";
const MAX_PRECEDENCE: i64 = 10_000;

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (precedence, at) =
        (spec["matchingPrecedence"].as_i64().unwrap_or(0), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&at, &precedence.into(), "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(&at, &precedence.into(), &format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && meta::name(object) != EXEMPT {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&at, &precedence.into(), detail);
    }
    let method = &spec["distinguisherMethod"];
    if method.is_object() && !METHODS.contains(&text(&method["type"])) {
        // As upstream shows its internal type.
        let shown = json!({"Type": text(&method["type"])});
        errors.not_supported(&path.child("distinguisherMethod").child("type"), &shown, &METHODS);
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match text(&spec["priorityLevelConfiguration"]["name"]) {
        "" => errors.required(&at, "must reference a priority level"),
        name => validate_name(name, NameForm::Subdomain, &at, errors),
    }
    for (i, rule) in items(spec, "rules").enumerate() {
        validate_rule(rule, &path.child("rules").index(i), errors);
    }
}

fn dangling(object: &Value, _: Timestamp) -> Value {
    let found = items(&object["status"], "conditions").find(|condition| condition["type"] == "Dangling");
    text_or(found.map_or(&Value::Null, |condition| &condition["status"]), "?").into()
}
