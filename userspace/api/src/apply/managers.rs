//! `metadata.managedFields`: which manager owns which fields, and since when.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::field_set::FieldSet;
use super::fields;
use super::merge_type::MergeType;

/// Number of update entries that are kept; the oldest ones beyond it are joined (upstream's DefaultMaxUpdateManagers).
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of joined entries.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// What identifies an entry; updates of different versions are different managers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub(super) name: String,
    pub(super) applies: bool,
    /// Empty for a manager that applies.
    pub(super) version: String,
    pub(super) subresource: String,
}

impl std::fmt::Display for ManagerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if !self.applies {
            write!(f, " using {}", self.version)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The API version in which the fields are named.
    pub(super) version: String,
    /// RFC 3339, in whole seconds.
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Managers(pub(super) BTreeMap<ManagerId, Entry>);

impl Managers {
    /// Reads `managedFields`; absent is empty. Err: what is wrong, for the API's message.
    pub(super) fn decode(list: &Value) -> Result<Managers, String> {
        let mut out = BTreeMap::new();
        for (i, entry) in list.as_array().into_iter().flatten().enumerate() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let applies = match text("operation").as_str() {
                "Apply" => true,
                "Update" => false,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let version = text("apiVersion");
            if version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType").as_str() {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
            }
            let fields = match &entry["fieldsV1"] {
                Value::Null => FieldSet::default(),
                fields => FieldSet::decode(fields).map_err(|why| format!("error decoding set: {why}"))?,
            };
            let id = ManagerId {
                name: text("manager"),
                applies,
                version: if applies { String::new() } else { version.clone() },
                subresource: text("subresource"),
            };
            out.insert(id, Entry { version, time: entry["time"].as_str().map(str::to_owned), fields });
        }
        Ok(Managers(out))
    }

    /// Writes `managedFields` in upstream's order: applying managers first, then by time. `None` without entries.
    pub(super) fn encode(&self) -> Option<Value> {
        let mut entries: Vec<(&ManagerId, &Entry)> = self.0.iter().collect();
        entries
            .sort_by_key(|(id, entry)| (!id.applies, &entry.time, &id.name, &entry.version, &id.subresource));
        let list: Vec<Value> = entries.into_iter().map(|(id, entry)| encode(id, entry)).collect();
        (!list.is_empty()).then_some(Value::Array(list))
    }

    /// Removes fields from all managers. Managers without fields are dropped.
    pub(super) fn remove_fields(&mut self, fields: &FieldSet) {
        self.0.values_mut().for_each(|entry| entry.fields.subtract(fields));
        self.0.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Adjusts the fields to what has become atomic in the schema since they were recorded.
    pub(super) fn reconcile(&mut self, root: MergeType<'_>) {
        self.0.values_mut().for_each(|entry| fields::reconcile(root, &mut entry.fields));
    }

    /// Joins the oldest updates of the same version while there are more than [`MAX_UPDATE_MANAGERS`].
    pub(super) fn cap_updates(&mut self) {
        if self.0.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        let mut updaters: Vec<(Option<String>, ManagerId)> =
            self.0.iter().filter(|(id, _)| !id.applies).map(|(id, e)| (e.time.clone(), id.clone())).collect();
        updaters.sort();
        let mut surplus = updaters.len().saturating_sub(MAX_UPDATE_MANAGERS);
        let mut first: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (time, id) in updaters {
            if surplus == 0 {
                return;
            }
            let Some(older) = first.get(&id.version).cloned() else {
                first.insert(id.version.clone(), id);
                continue;
            };
            let bucket =
                ManagerId { name: ANCIENT_CHANGES.to_owned(), subresource: String::new(), ..older.clone() };
            let Some(mut joined) = self.0.remove(&bucket).or_else(|| self.0.remove(&older)) else { continue };
            if let Some(entry) = self.0.remove(&id) {
                joined.fields.union(&entry.fields);
                joined.time = time;
                surplus -= 1;
            }
            self.0.insert(bucket, joined);
        }
    }
}

fn encode(id: &ManagerId, entry: &Entry) -> Value {
    let operation = if id.applies { "Apply" } else { "Update" };
    let mut out = json!({"manager": id.name, "operation": operation, "apiVersion": entry.version});
    if let Some(time) = &entry.time {
        out["time"] = time.as_str().into();
    }
    out["fieldsType"] = "FieldsV1".into();
    out["fieldsV1"] = entry.fields.encode();
    if !id.subresource.is_empty() {
        out["subresource"] = id.subresource.as_str().into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(managers: &Managers) -> FieldSet {
        let mut all = FieldSet::default();
        managers.0.values().for_each(|entry| all.union(&entry.fields));
        all
    }

    fn update(name: &str, second: usize) -> Value {
        json!({
            "manager": name, "operation": "Update", "apiVersion": "v1", "time": format!("2026-01-01T00:00:{second:02}Z"),
            "fieldsType": "FieldsV1", "fieldsV1": {format!("f:{name}"): {}},
        })
    }

    #[test]
    fn entries_are_encoded_in_upstreams_order() {
        let apply = json!({
            "manager": "z", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:09Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:z": {}}, "subresource": "status",
        });
        let list = json!([update("b", 2), update("a", 1), apply]);
        let encoded = Managers::decode(&list).unwrap().encode().unwrap();
        assert_eq!(encoded, json!([list[2], list[1], list[0]]));
    }

    #[test]
    fn the_oldest_of_too_many_updates_are_joined() {
        let list: Vec<Value> = (0..13).map(|n| update(&format!("m{n:02}"), n)).collect();
        let mut managers = Managers::decode(&list.into()).unwrap();
        let before = all(&managers);
        managers.cap_updates();
        assert_eq!(managers.0.len(), MAX_UPDATE_MANAGERS);
        assert_eq!(all(&managers), before);
        let ancient = managers.0.iter().find(|(id, _)| id.name == ANCIENT_CHANGES).unwrap();
        assert_eq!(ancient.1.fields.paths(), [".m00", ".m01", ".m02", ".m03"]);
        assert_eq!(ancient.1.time.as_deref(), Some("2026-01-01T00:00:03Z"));
    }

    #[test]
    fn malformed_entries_are_refused() {
        for (field, value) in
            [("operation", "Guess"), ("apiVersion", ""), ("fieldsType", ""), ("fieldsType", "V2")]
        {
            let mut entry = update("a", 1);
            entry[field] = value.into();
            assert!(Managers::decode(&json!([entry])).is_err(), "{field}");
        }
    }
}
