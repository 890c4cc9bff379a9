//! PriorityLevelConfigurations: the share of requests that a priority level may have in flight.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{one_of, set_default, set_zero_default};

pub(super) const ROW: Row = Row {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    subresources: &["status"],
    schema: "api.flowcontrol.v1.PriorityLevelConfiguration",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", |object, _| text_cell(&object["spec"]["type"])),
    Column::text("NominalConcurrencyShares", |object, _| {
        limited(&object["spec"]["limited"]["nominalConcurrencyShares"])
    }),
    Column::text("Queues", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["queues"])
    }),
    Column::text("HandSize", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["handSize"])
    }),
    Column::text("QueueLengthLimit", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["queueLengthLimit"])
    }),
    AGE,
];

fn default(object: &mut Value) {
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
            set_zero_default(queuing, field, value);
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
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

fn limited(value: &Value) -> Value {
    if value.is_null() { NONE.into() } else { value.clone() }
}
