//! A column of a table, and how long ago something was, as upstream's printers write it.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::text_cell;
use crate::meta;

/// A column of a built-in kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// As OpenAPI has it: `string`, `integer`, `boolean`.
    pub(crate) type_name: &'static str,
    /// Shown only with `-o wide`: priority 1.
    pub(crate) wide: bool,
    pub(crate) cell: Cell,
}

/// The cell of an object at a time.
pub(crate) type Cell = fn(&Value, Timestamp) -> Value;

impl Column {
    pub(crate) const fn text(name: &'static str, cell: Cell) -> Column {
        Column { name, type_name: "string", wide: false, cell }
    }

    pub(crate) const fn wide(name: &'static str, cell: Cell) -> Column {
        Column { name, type_name: "string", wide: true, cell }
    }

    pub(crate) const fn integer(name: &'static str, cell: Cell) -> Column {
        Column { name, type_name: "integer", wide: false, cell }
    }

    pub(crate) const fn boolean(name: &'static str, cell: Cell) -> Column {
        Column { name, type_name: "boolean", wide: false, cell }
    }
}

pub(crate) const NAME: Column = Column::text("Name", |object, _| meta::name(object).into());
pub(crate) const AGE: Column =
    Column::text("Age", |object, now| age_of(&object["metadata"]["creationTimestamp"], now).into());
pub(crate) const CREATED: Column =
    Column::text("Created At", |object, _| text_cell(&object["metadata"]["creationTimestamp"]));

/// The time since a timestamp, as [`short`] writes it.
pub(crate) fn age_of(since: &Value, now: Timestamp) -> String {
    match since.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(since) => short((now.as_second() - since.as_second()).max(0)),
        None => "<unknown>".to_owned(),
    }
}

/// A span as upstream shortens it: `12s`, `3m4s`, `5h6m`, `2d`, `3y20d`.
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
}
