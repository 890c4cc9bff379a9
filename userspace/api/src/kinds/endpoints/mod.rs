//! Endpoints: the addresses of a Service, in the form that came before EndpointSlices.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{first_three, or_none};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, set_default};

pub(super) const ROW: Row = Row {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema: "api.core.v1.Endpoints",
    columns: COLUMNS,
    strategy: Strategy { default, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, Column::text("Endpoints", endpoints), AGE];

fn default(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

fn endpoints(object: &Value, _: Timestamp) -> Value {
    let mut all = Vec::new();
    for subset in items(object, "subsets") {
        for address in items(subset, "addresses").filter_map(|a| a["ip"].as_str()) {
            all.extend(items(subset, "ports").map(|port| format!("{address}:{}", port["port"])));
        }
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    or_none(first_three(&all))
}
