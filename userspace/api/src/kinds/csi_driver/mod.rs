//! CSIDrivers.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, UNSET, joined, list_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::set_default;

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    schema: "api.storage.v1.CSIDriver",
    columns: COLUMNS,
    strategy: Strategy { default, own_required: true, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::boolean("AttachRequired", |object, _| (object["spec"]["attachRequired"] != false).into()),
    Column::boolean("PodInfoOnMount", |object, _| (object["spec"]["podInfoOnMount"] == true).into()),
    Column::boolean("StorageCapacity", |object, _| (object["spec"]["storageCapacity"] == true).into()),
    Column::text("TokenRequests", token_requests),
    Column::boolean("RequiresRepublish", |object, _| (object["spec"]["requiresRepublish"] == true).into()),
    Column::text("Modes", |object, _| list_cell(&object["spec"], "volumeLifecycleModes", NONE)),
    AGE,
];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
    ] {
        set_default(&mut object["spec"], field, value);
    }
}

fn token_requests(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["tokenRequests"] {
        Value::Array(all) => joined(all.iter().filter_map(|request| request["audience"].as_str())).into(),
        _ => UNSET.into(),
    }
}
