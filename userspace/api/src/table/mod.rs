//! Tables, as `kubectl get` shows them: a kind's columns, an object's cells.

pub(crate) mod cell;
pub(crate) mod column;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom::columns;
use crate::kinds::Kind;

/// `columnDefinitions` of the kind's table.
pub fn definitions(kind: &Kind) -> Value {
    if let Some(custom) = &kind.custom {
        return columns::definitions(&custom.version.columns);
    }
    let definitions = kind.columns.iter().map(|column| {
        let format = if matches!(column.name, "Name" | "Attacher") { "name" } else { "" };
        json!({
            "name": column.name, "type": column.type_name, "format": format, "description": "",
            "priority": i32::from(column.wide),
        })
    });
    definitions.collect()
}

/// The object's cells, as many as there are columns.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    if let Some(custom) = &kind.custom {
        return columns::cells(&custom.version.columns, object, now);
    }
    kind.columns.iter().map(|column| (column.cell)(object, now)).collect()
}

/// `conditions` of an object's row: a pod that has ended is `Completed`.
pub fn conditions(kind: &Kind, object: &Value) -> Option<Value> {
    let message =
        match object["status"]["phase"].as_str().filter(|_| kind.group.is_empty() && kind.kind == "Pod") {
            Some("Succeeded") => "The pod has completed successfully.",
            Some("Failed") => "The pod failed.",
            _ => return None,
        };
    let reason = &object["status"]["phase"];
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_cell_for_each_column_even_of_an_empty_object() {
        for kind in crate::kinds() {
            let cells = cells(kind, &json!({}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.as_array().map(Vec::len), definitions(kind).as_array().map(Vec::len));
        }
    }
}
