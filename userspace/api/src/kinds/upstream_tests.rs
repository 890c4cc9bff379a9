//! What a kube-apiserver v1.36 answers to objects of each kind: a valid one, and changes of it that it defaults, warns of or
//! refuses.
//!
//! The rows are in `testdata/*.txt`. `K kind object` begins a kind's valid object, `B` its own outcome, `= pointer value` and
//! `- pointer` a change of it. The outcome follows: `E reason field: message` for each cause in order, `D pointer value` for
//! a field of the stored object, `W` for a warning.

use serde_json::{Value, json};

use super::{Kind, find};

const TEXTS: [(&str, &str); 19] = [
    ("admissionregistration", include_str!("testdata/admissionregistration.txt")),
    ("apiextensions", include_str!("testdata/apiextensions.txt")),
    ("apiregistration", include_str!("testdata/apiregistration.txt")),
    ("apps", include_str!("testdata/apps.txt")),
    ("autoscaling", include_str!("testdata/autoscaling.txt")),
    ("batch", include_str!("testdata/batch.txt")),
    ("certificates", include_str!("testdata/certificates.txt")),
    ("coordination", include_str!("testdata/coordination.txt")),
    ("core", include_str!("testdata/core.txt")),
    ("discovery", include_str!("testdata/discovery.txt")),
    ("events", include_str!("testdata/events.txt")),
    ("flowcontrol", include_str!("testdata/flowcontrol.txt")),
    ("networking", include_str!("testdata/networking.txt")),
    ("node", include_str!("testdata/node.txt")),
    ("policy", include_str!("testdata/policy.txt")),
    ("rbac", include_str!("testdata/rbac.txt")),
    ("resource", include_str!("testdata/resource.txt")),
    ("scheduling", include_str!("testdata/scheduling.txt")),
    ("storage", include_str!("testdata/storage.txt")),
];

/// An object and what is expected of it.
struct Row {
    line: usize,
    kind: &'static Kind,
    object: Value,
    errors: Vec<String>,
    fields: Vec<(String, Value)>,
    warnings: Vec<String>,
}

fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut base: Option<(&'static Kind, Value)> = None;
    for (number, line) in text.lines().enumerate() {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        match head {
            "K" => {
                let (name, object) = rest.split_once(' ').unwrap();
                let parts: Vec<&str> = name.split('/').collect();
                let kind = match parts.as_slice() {
                    [version, plural] => find("", version, plural),
                    [group, version, plural] => find(group, version, plural),
                    _ => None,
                };
                base = Some((kind.unwrap(), serde_json::from_str(object).unwrap()));
            }
            "B" | "=" | "-" => {
                let (kind, mut object) = base.clone().unwrap();
                match head {
                    "=" => {
                        let (pointer, value) = rest.split_once(' ').unwrap();
                        set(&mut object, pointer, serde_json::from_str(value).unwrap());
                    }
                    "-" => remove(&mut object, rest),
                    _ => {}
                }
                let (errors, fields, warnings) = (Vec::new(), Vec::new(), Vec::new());
                rows.push(Row { line: number + 1, kind, object, errors, fields, warnings });
            }
            "E" => rows.last_mut().unwrap().errors.push(rest.to_owned()),
            "W" => rows.last_mut().unwrap().warnings.push(rest.to_owned()),
            "D" => {
                let (pointer, value) = rest.split_once(' ').unwrap();
                let field = (pointer.to_owned(), serde_json::from_str(value).unwrap());
                rows.last_mut().unwrap().fields.push(field);
            }
            _ => panic!("line {}: {line}", number + 1),
        }
    }
    rows
}

/// Sets a field of an object, or an item of a list.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let (above, name) = pointer.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(above).unwrap() {
        Value::Object(fields) => drop(fields.insert(name, value)),
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer}"),
    }
}

fn remove(object: &mut Value, pointer: &str) {
    let (above, name) = pointer.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(above).unwrap() {
        Value::Object(fields) => drop(fields.remove(&name)),
        Value::Array(items) => drop(items.remove(name.parse().unwrap())),
        _ => panic!("{pointer}"),
    }
}

/// `None` if the row's object has the outcome that is expected.
fn difference(row: &Row) -> Option<String> {
    let (kind, mut object) = (row.kind, row.object.clone());
    kind.check_schema(&mut object);
    if kind.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    kind.default_new(&mut object);
    object["metadata"]["uid"] = json!("u");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    kind.prepare_create(&mut object);
    let found: Vec<String> = kind
        .validate_create(&object)
        .0
        .iter()
        .map(|error| format!("{} {}: {}", error.reason, error.field, error.message))
        .collect();
    if found != row.errors {
        return Some(format!("errors: wanted {:#?}, found {found:#?}", row.errors));
    }
    if !found.is_empty() {
        return None;
    }
    let missing: Vec<String> = row
        .fields
        .iter()
        .filter(|(pointer, value)| object.pointer(pointer) != Some(value))
        .map(|(pointer, value)| format!("{pointer}: wanted {value}, found {:?}", object.pointer(pointer)))
        .collect();
    if !missing.is_empty() {
        return Some(missing.join("\n"));
    }
    let found = kind.warnings(&object, None);
    (found != row.warnings).then(|| format!("warnings: wanted {:#?}, found {found:#?}", row.warnings))
}

#[test]
fn objects_are_defaulted_and_validated_as_upstream() {
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, text) in TEXTS {
        for row in parse(text) {
            count += 1;
            failed.extend(difference(&row).map(|why| format!("{name}.txt:{}: {why}", row.line)));
        }
    }
    assert!(failed.is_empty(), "{} of {count} rows:\n{}", failed.len(), failed.join("\n"));
    assert!(count >= 400, "{count}");
}
