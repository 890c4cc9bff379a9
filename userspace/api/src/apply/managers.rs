//! `metadata.managedFields`: who owns which fields, since when.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fields::Fields;

/// Entries of updates that are kept apart; the oldest of more become one.
const UPDATERS_MAX: usize = 10;
/// The manager of entries that became one.
const ANCIENT: &str = "ancient-changes";

/// A manager as upstream tells them apart: those of updates by their version too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) name: String,
    pub(super) applies: bool,
    /// Empty for one that applies.
    pub(super) version: String,
    pub(super) subresource: String,
}

impl std::fmt::Display for Id {
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
    /// In which the fields are named.
    pub(super) version: String,
    /// RFC 3339, in whole seconds.
    pub(super) time: Option<String>,
    pub(super) fields: Fields,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Managers(pub(super) BTreeMap<Id, Entry>);

impl Managers {
    /// Reads `managedFields`; none is none.
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
                Value::Null => Fields::default(),
                fields => Fields::decode(fields).map_err(|why| format!("error decoding set: {why}"))?,
            };
            let id = Id {
                name: text("manager"),
                applies,
                version: if applies { String::new() } else { version.clone() },
                subresource: text("subresource"),
            };
            out.insert(id, Entry { version, time: entry["time"].as_str().map(str::to_owned), fields });
        }
        Ok(Managers(out))
    }

    /// In upstream's order: those that apply first, then by time. `None` if there are none.
    pub(super) fn encode(&self) -> Option<Value> {
        let mut entries: Vec<(&Id, &Entry)> = self.0.iter().collect();
        entries
            .sort_by_key(|(id, entry)| (!id.applies, &entry.time, &id.name, &entry.version, &id.subresource));
        let list: Vec<Value> = entries.into_iter().map(|(id, entry)| encode(id, entry)).collect();
        (!list.is_empty()).then_some(Value::Array(list))
    }

    /// Takes fields from everyone but one; who has none left is dropped.
    pub(super) fn take(&mut self, but: Option<&Id>, fields: &Fields) {
        for (_, entry) in self.0.iter_mut().filter(|(id, _)| Some(*id) != but) {
            entry.fields.subtract(fields);
        }
        self.0.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Joins the oldest updates of a version while there are too many.
    pub(super) fn cap(&mut self) {
        if self.0.len() <= UPDATERS_MAX {
            return;
        }
        let mut updaters: Vec<(Option<String>, Id)> =
            self.0.iter().filter(|(id, _)| !id.applies).map(|(id, e)| (e.time.clone(), id.clone())).collect();
        updaters.sort();
        let mut surplus = updaters.len().saturating_sub(UPDATERS_MAX);
        let mut first: BTreeMap<String, Id> = BTreeMap::new();
        for (time, id) in updaters {
            if surplus == 0 {
                return;
            }
            let Some(older) = first.get(&id.version).cloned() else {
                first.insert(id.version.clone(), id);
                continue;
            };
            let bucket = Id { name: ANCIENT.to_owned(), subresource: String::new(), ..older.clone() };
            let Some(mut joined) = self.0.remove(&bucket).or_else(|| self.0.remove(&older)) else { continue };
            if let Some(entry) = self.0.remove(&id) {
                joined.fields.add(&entry.fields);
                joined.time = time;
                surplus -= 1;
            }
            self.0.insert(bucket, joined);
        }
    }
}

fn encode(id: &Id, entry: &Entry) -> Value {
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

    fn all(managers: &Managers) -> Fields {
        let mut all = Fields::default();
        managers.0.values().for_each(|entry| all.add(&entry.fields));
        all
    }

    fn update(name: &str, second: usize) -> Value {
        json!({
            "manager": name, "operation": "Update", "apiVersion": "v1", "time": format!("2026-01-01T00:00:{second:02}Z"),
            "fieldsType": "FieldsV1", "fieldsV1": {format!("f:{name}"): {}},
        })
    }

    #[test]
    fn entries_are_kept_in_upstreams_order() {
        let apply = json!({
            "manager": "z", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:09Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:z": {}}, "subresource": "status",
        });
        let list = json!([update("b", 2), update("a", 1), apply]);
        let encoded = Managers::decode(&list).unwrap().encode().unwrap();
        assert_eq!(encoded, json!([list[2], list[1], list[0]]));
    }

    #[test]
    fn the_oldest_of_too_many_updates_become_one() {
        let list: Vec<Value> = (0..13).map(|n| update(&format!("m{n:02}"), n)).collect();
        let mut managers = Managers::decode(&list.into()).unwrap();
        let before = all(&managers);
        managers.cap();
        assert_eq!(managers.0.len(), UPDATERS_MAX);
        assert_eq!(all(&managers), before);
        let ancient = managers.0.iter().find(|(id, _)| id.name == ANCIENT).unwrap();
        assert_eq!(ancient.1.fields.paths(), [".m00", ".m01", ".m02", ".m03"]);
        assert_eq!(ancient.1.time.as_deref(), Some("2026-01-01T00:00:03Z"));
    }

    #[test]
    fn entries_that_are_not_upstreams_are_refused() {
        for (field, value) in
            [("operation", "Guess"), ("apiVersion", ""), ("fieldsType", ""), ("fieldsType", "V2")]
        {
            let mut entry = update("a", 1);
            entry[field] = value.into();
            assert!(Managers::decode(&json!([entry])).is_err(), "{field}");
        }
    }
}
