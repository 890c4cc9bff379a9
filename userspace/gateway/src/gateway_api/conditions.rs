//! Conditions, and statuses as the API stores them. PURE.

use serde_json::{Value, json};

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) kind: &'static str,
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Condition {
    pub(super) fn yes(kind: &'static str, reason: &'static str) -> Condition {
        Condition { kind, holds: true, reason, message: String::new() }
    }

    pub(super) fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { kind, holds: false, reason, message: message.into() }
    }

    pub(super) fn of(kind: &'static str, verdict: &Result<(), Fault>) -> Condition {
        match verdict {
            Ok(()) => Condition::yes(kind, kind),
            Err(fault) => Condition::no(kind, fault.reason, fault.message.clone()),
        }
    }
}

/// Why a condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Fault {
        Fault { reason, message: message.into() }
    }
}

/// The conditions with times: that of the last one with the same state, or `now`. Others that the object has stay.
pub(super) fn stored(conditions: &[Condition], old: &Value, generation: i64, now: &str) -> Value {
    let old = old.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all: Vec<Value> = Vec::new();
    for Condition { kind, holds, reason, message } in conditions {
        let state = if *holds { "True" } else { "False" };
        let same = old.iter().find(|old| old["type"] == *kind && old["status"] == state);
        let since = same.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now);
        all.push(json!({
            "type": kind, "status": state, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        }));
    }
    Value::Array(all)
}
