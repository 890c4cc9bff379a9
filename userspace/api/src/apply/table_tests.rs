//! A table of writes whose results were computed with structured-merge-diff v6: the merged objects, the conflicts, the
//! errors and the fields of each manager.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::managers::{ManagerId, Managers};
use super::merge_type::MergeType;
use super::merger::Merger;
use super::ownable::Ownable;
use super::path_element::equal;
use super::validate::validate;
use crate::custom::Structural;

/// The first line has the types, each other one a case.
const TABLE: &str = include_str!("testdata/merge.jsonl");

/// `name/apply` or `name/update`, as the table names a manager.
fn display(id: &ManagerId) -> String {
    format!("{}/{}", id.name, if id.applies { "apply" } else { "update" })
}

struct Run<'a> {
    root: MergeType<'a>,
    live: Value,
    managers: Managers,
}

impl Run<'_> {
    /// What the table wants of a step: the object, `unchanged`, the conflicts or the error.
    fn step(&mut self, step: &Value, now: &str) -> Value {
        let ownable = Ownable::default();
        let merger = Merger { root: self.root, ownable, version: "v1".to_owned(), now };
        let (operation, object) = (step["op"].as_str().unwrap_or_default(), &step["object"]);
        let applies = operation != "update";
        let id = ManagerId {
            name: step["by"].as_str().unwrap_or_default().to_owned(),
            applies,
            version: if applies { "" } else { "v1" }.to_owned(),
            subresource: String::new(),
        };
        let managers = std::mem::take(&mut self.managers);
        if !applies {
            self.managers = merger.record(managers, &self.live, object, &id);
            self.live = object.clone();
            return json!({"object": object});
        }
        if let Err(errors) = validate(self.root, object) {
            self.managers = managers;
            return json!({"error": errors.to_string()});
        }
        let force = operation == "force";
        match merger.merge(managers.clone(), &self.live, object, id.clone(), force) {
            Err(conflicts) => {
                self.managers = managers;
                let all = conflicts.iter().flat_map(|(id, fields)| {
                    fields.paths().into_iter().map(move |path| format!("{} {path}", display(id)))
                });
                json!({"conflicts": all.collect::<Vec<_>>()})
            }
            Ok((new, managers)) => {
                let time = managers.0.get(&id).and_then(|entry| entry.time.clone());
                self.managers = managers;
                let unchanged = equal(&self.live, &new);
                assert!(!unchanged || time.as_deref() != Some(now), "{} has a new time", display(&id));
                self.live = new;
                if unchanged { json!({"unchanged": true}) } else { json!({"object": self.live}) }
            }
        }
    }

    fn owners(&self) -> Value {
        let all: BTreeMap<String, Value> =
            self.managers.0.iter().map(|(id, entry)| (display(id), entry.fields.encode())).collect();
        json!(all)
    }
}

#[test]
fn writes_have_the_results_of_structured_merge_diff() {
    let mut lines = TABLE.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let types: BTreeMap<String, Structural> = lines.next().unwrap()["types"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, schema)| (name.clone(), Structural::parse(schema)))
        .collect();
    let (mut count, mut wrong) = (0, Vec::new());
    for case in lines {
        count += 1;
        let schema = &types[case["type"].as_str().unwrap()];
        let root = MergeType::Custom { schema, resource: false, preserve: schema.preserve };
        let mut run = Run { root, live: json!({}), managers: Managers::default() };
        for (number, step) in case["steps"].as_array().into_iter().flatten().enumerate() {
            let found = run.step(step, &number.to_string());
            let owners = run.owners();
            if !equal(&step["want"], &found) {
                wrong
                    .push(format!("{}, step {number}: {} wanted, {found} found", case["name"], step["want"]));
            } else if step["owners"].is_object() && step["owners"] != owners {
                wrong.push(format!(
                    "{}, step {number}: owners {} wanted, {owners} found",
                    case["name"], step["owners"]
                ));
            }
        }
    }
    assert!(count >= 250, "{count} cases");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
