//! PriorityClasses.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::table::cell::{number_cell, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, require_one_of, set_default};

/// Higher values are reserved for the system.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

pub(super) const ROW: Row = Row {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    schema: "api.scheduling.v1.PriorityClass",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::integer("Value", |object, _| number_cell(&object["value"])),
    Column::boolean("Global-Default", |object, _| (object["globalDefault"] == true).into()),
    AGE,
    Column::wide("PreemptionPolicy", |object, _| text_cell(&object["preemptionPolicy"])),
];

fn default(object: &mut Value) {
    set_default(object, "preemptionPolicy", "PreemptLowerPriority");
}

fn validate(object: &Value, errors: &mut Errors) {
    let (name, value) = (meta::name(object), object["value"].as_i64().unwrap_or(0));
    if name.starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().find(|(system, _)| *system == name);
        let problem = match known {
            None => format!("{name} is not a known system priority class"),
            Some((_, required)) if *required != value => {
                format!("value of {name} PriorityClass must be {required}")
            }
            Some(_) if object["globalDefault"] == true => {
                format!("globalDefault of {name} PriorityClass must be false")
            }
            Some(_) => return,
        };
        let detail = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
        );
        errors.forbidden(&Path::new("metadata").child("name"), &detail);
    } else if value > MAX_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.forbidden(&Path::new("value"), &detail);
    }
    if object["preemptionPolicy"].is_string() {
        require_one_of(object, "preemptionPolicy", &Path::new(""), &PREEMPTION_POLICIES, errors);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new["value"] != old["value"] {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    immutable(&new["preemptionPolicy"], &old["preemptionPolicy"], &Path::new("preemptionPolicy"), errors);
}
