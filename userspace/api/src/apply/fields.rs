//! Sets of fields: the places of an object that somebody owns. Read from and written as `FieldsV1` (KEP-555).
//!
//! A place is a chain of elements in FieldsV1's own spelling: `f:spec`, `k:{"name":"web"}`, `v:"x"`, `i:0`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A tree of places; `member` says that the place itself is in the set, not only places below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, Fields>,
}

impl Fields {
    pub(super) fn leaf() -> Fields {
        Fields { member: true, children: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Fields::is_empty)
    }

    /// Puts a part in its place; an empty one leaves no trace.
    pub(super) fn put(&mut self, element: String, part: Fields) {
        if !part.is_empty() {
            self.children.insert(element, part);
        }
    }

    /// Takes over all that the other has.
    pub(super) fn add(&mut self, other: &Fields) {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            match self.children.get_mut(element) {
                Some(ours) => ours.add(theirs),
                None => drop(self.children.insert(element.clone(), theirs.clone())),
            }
        }
    }

    /// Drops all that the other has, place by place: what lies below a dropped place stays.
    pub(super) fn subtract(&mut self, other: &Fields) {
        self.member &= !other.member;
        for (element, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(element) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// What both have.
    pub(super) fn common(&self, other: &Fields) -> Fields {
        let mut out = Fields { member: self.member && other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.put(element.clone(), ours.common(theirs));
            }
        }
        out
    }

    /// The members as upstream writes paths: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        for (element, part) in &self.children {
            let length = path.len();
            path.push_str(&shown(element));
            part.collect(path, out);
            path.truncate(length);
        }
    }

    /// Reads `FieldsV1`; the error says what is wrong with it.
    pub(super) fn decode(value: &Value) -> Result<Fields, String> {
        let Value::Object(fields) = value else {
            return Err("fieldsV1 must be an object".to_owned());
        };
        let mut out = Fields::default();
        for (element, part) in fields {
            if element == "." {
                out.member = true;
                continue;
            }
            let mut child = Fields::decode(part)?;
            // An element with nothing below it is a member itself.
            child.member |= child.children.is_empty();
            out.children.insert(canonical(element)?, child);
        }
        Ok(out)
    }

    pub(super) fn encode(&self) -> Value {
        let mut out = Map::with_capacity(self.children.len() + 1);
        if self.member && !self.children.is_empty() {
            out.insert(".".to_owned(), json!({}));
        }
        for (element, part) in &self.children {
            out.insert(element.clone(), part.encode());
        }
        Value::Object(out)
    }
}

/// Checks an element and gives keys the one order in which they can be compared.
fn canonical(element: &str) -> Result<String, String> {
    let bad = || format!("{element:?} is no element of a path");
    let (form, rest) = element.split_once(':').ok_or_else(bad)?;
    match form {
        "f" => Ok(element.to_owned()),
        "k" => match serde_json::from_str(rest).map_err(|_| bad())? {
            Value::Object(keys) if !keys.is_empty() => Ok(key(keys)),
            _ => Err(bad()),
        },
        "v" => Ok(value(&serde_json::from_str(rest).map_err(|_| bad())?)),
        "i" => rest.parse::<i64>().map(|_| element.to_owned()).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

pub(super) fn field(name: &str) -> String {
    ["f:", name].concat()
}

/// The element of a list item that is known by some of its fields.
pub(super) fn key(fields: Map<String, Value>) -> String {
    let sorted: BTreeMap<String, Value> = fields.into_iter().collect();
    let mut out = String::from("k:{");
    for (i, (name, value)) in sorted.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { "," });
        out.push_str(&Value::from(name.as_str()).to_string());
        out.push(':');
        out.push_str(&value.to_string());
    }
    out.push('}');
    out
}

/// The element of a list item that is known by itself.
pub(super) fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// An element as messages write it.
fn shown(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let parts: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", parts.join(","))
        }
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Value {
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}},
                "f:finalizers": {"v:\"a\"": {}},
            },
        })
    }

    #[test]
    fn what_is_read_is_written() {
        assert_eq!(Fields::decode(&example()).unwrap().encode(), example());
    }

    #[test]
    fn paths_are_shown_as_upstream_shows_them() {
        assert_eq!(
            Fields::decode(&example()).unwrap().paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.finalizers[=\"a\"]",
            ]
        );
    }

    #[test]
    fn keys_are_equal_in_any_order() {
        let one = Fields::decode(&json!({"k:{\"protocol\":\"TCP\",\"port\":80}": {}})).unwrap();
        let two = Fields::decode(&json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}})).unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [json!({"x": {}}), json!({"k:1": {}}), json!({"i:a": {}}), json!({"f:a": 1}), json!([])] {
            assert!(Fields::decode(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_without_a_part_and_with_it_again_is_the_same() {
        let whole = Fields::decode(&example()).unwrap();
        let part = Fields::decode(&json!({"f:spec": {"f:finalizers": {"v:\"a\"": {}}}})).unwrap();
        let mut rest = whole.clone();
        rest.subtract(&part);
        assert!(rest.common(&part).is_empty());
        assert_eq!(whole.common(&part), part);
        rest.add(&part);
        assert_eq!(rest, whole);
    }
}
