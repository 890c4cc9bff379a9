//! Converts `events.k8s.io/v1` Events to those of the core group, which are stored, and back.

use serde_json::{Value, json};

/// Field names: `events.k8s.io` on the left, core on the right.
const NAMES: [(&str, &str); 8] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("reportingInstance", "reportingInstance"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) fn to_storage(event: Value) -> Value {
    let mut core =
        rename_fields(event, |name| NAMES.iter().find(|(new, _)| *new == name).map(|(_, old)| *old));
    core["apiVersion"] = "v1".into();
    core
}

pub(super) fn from_storage(event: Value) -> Value {
    let mut new =
        rename_fields(event, |name| NAMES.iter().find(|(_, old)| *old == name).map(|(new, _)| *new));
    new["apiVersion"] = "events.k8s.io/v1".into();
    new
}

fn rename_fields(event: Value, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return json!({}) };
    let fields = fields.into_iter();
    fields.map(|(name, value)| (rename(&name).map_or(name, str::to_owned), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_the_same() {
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "reason": "r", "deprecatedCount": 2, "regarding": {"name": "p"}});
        let core = to_storage(event.clone());
        assert_eq!(
            (&core["message"], &core["count"], &core["involvedObject"]["name"]),
            (&json!("n"), &json!(2), &json!("p"))
        );
        assert_eq!(from_storage(core), event);
    }
}
