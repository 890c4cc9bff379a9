//! Tables, as `kubectl get` shows them: a kind's columns, an object's cells.

mod built_in;
mod cells;
mod pod;
mod settings;
mod storage;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom::columns;
use crate::kinds::Kind;
use built_in::built_in;

/// A column; priority 1 shows only in `-o wide`.
struct Column {
    name: &'static str,
    /// As OpenAPI has it: `string`, `integer`, `boolean`.
    kind: &'static str,
    wide: bool,
    cell: Cell,
}

type Cell = fn(&Value, Timestamp) -> Value;

/// `columnDefinitions` of the kind's table.
pub fn definitions(kind: &Kind) -> Value {
    if let Some(custom) = &kind.custom {
        return columns::definitions(&custom.version.columns);
    }
    let definitions = built_in(kind).iter().map(|column| {
        let format = if matches!(column.name, "Name" | "Attacher") { "name" } else { "" };
        json!({
            "name": column.name, "type": column.kind, "format": format, "description": "",
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
    built_in(kind).iter().map(|column| (column.cell)(object, now)).collect()
}

/// What a row says of its object beside the cells: that a pod has ended.
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

/// A span as upstream shortens it: `12s`, `3m4s`, `5h6m`, `2d`, `3y20d`.
pub(crate) fn age_of(since: &Value, now: Timestamp) -> String {
    match since.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(since) => short((now.as_second() - since.as_second()).max(0)),
        None => "<unknown>".to_owned(),
    }
}

pub(crate) fn short(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |first: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shortened_as_upstream_does() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (700, "11m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(short(seconds), text);
        }
    }

    #[test]
    fn every_kind_has_a_cell_for_each_column_even_of_an_empty_object() {
        for kind in crate::kinds() {
            let cells = cells(kind, &json!({}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.as_array().map(Vec::len), definitions(kind).as_array().map(Vec::len));
        }
    }
}
