//! Sets of field paths, read from and written as `FieldsV1` (KEP-555; structured-merge-diff's `fieldpath.Set`).
//!
//! A path is a chain of elements in the notation of FieldsV1: `f:spec`, `k:{"name":"web"}`, `v:"x"`, `i:0`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A tree of path elements. `member`: the path that ends here is in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Adds what `element` holds; an empty set is left out.
    pub(super) fn insert(&mut self, element: String, part: FieldSet) {
        if !part.is_empty() {
            self.children.insert(element, part);
        }
    }

    /// Adds the members of the other set.
    pub(super) fn union(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            match self.children.get_mut(element) {
                Some(ours) => ours.union(theirs),
                None => drop(self.children.insert(element.clone(), theirs.clone())),
            }
        }
    }

    /// Removes the members of the other set; members below a removed path stay.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
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

    /// The members of both sets.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.insert(element.clone(), ours.intersection(theirs));
            }
        }
        out
    }

    /// The paths in upstream's notation: `.spec.containers[name="web"].image`.
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
            path.push_str(&display(element));
            part.collect(path, out);
            path.truncate(length);
        }
    }

    /// Reads `FieldsV1`. Err: what is wrong with it, for the API's message.
    pub(super) fn decode(value: &Value) -> Result<FieldSet, String> {
        let Value::Object(fields) = value else {
            return Err("fieldsV1 must be an object".to_owned());
        };
        let mut out = FieldSet::default();
        for (element, part) in fields {
            if element == "." {
                out.member = true;
                continue;
            }
            let mut child = FieldSet::decode(part)?;
            // An element with nothing below it is a member itself.
            child.member |= child.children.is_empty();
            out.children.insert(canonical(element)?, child);
        }
        Ok(out)
    }

    /// Writes `FieldsV1`.
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

/// Checks an element and sorts the fields of a key, so that equal keys are equal texts.
fn canonical(element: &str) -> Result<String, String> {
    let bad = || format!("{element:?} is no element of a path");
    let (form, rest) = element.split_once(':').ok_or_else(bad)?;
    match form {
        "f" => Ok(element.to_owned()),
        "k" => match serde_json::from_str(rest).map_err(|_| bad())? {
            Value::Object(keys) if !keys.is_empty() => Ok(key_element(keys)),
            _ => Err(bad()),
        },
        "v" => Ok(value_element(&serde_json::from_str(rest).map_err(|_| bad())?)),
        "i" => rest.parse::<i64>().map(|_| element.to_owned()).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

pub(super) fn field_element(name: &str) -> String {
    ["f:", name].concat()
}

/// The element of a list item that is identified by these fields.
pub(super) fn key_element(fields: Map<String, Value>) -> String {
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

/// The element of a set item, which is identified by its value.
pub(super) fn value_element(value: &Value) -> String {
    format!("v:{value}")
}

/// An element in the notation of messages.
fn display(element: &str) -> String {
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
    fn encode_is_the_inverse_of_decode() {
        assert_eq!(FieldSet::decode(&example()).unwrap().encode(), example());
    }

    #[test]
    fn paths_have_upstreams_notation() {
        assert_eq!(
            FieldSet::decode(&example()).unwrap().paths(),
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
        let one = FieldSet::decode(&json!({"k:{\"protocol\":\"TCP\",\"port\":80}": {}})).unwrap();
        let two = FieldSet::decode(&json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}})).unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn malformed_paths_are_refused() {
        for bad in [json!({"x": {}}), json!({"k:1": {}}), json!({"i:a": {}}), json!({"f:a": 1}), json!([])] {
            assert!(FieldSet::decode(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn subtracting_a_part_and_adding_it_again_restores_the_set() {
        let whole = FieldSet::decode(&example()).unwrap();
        let part = FieldSet::decode(&json!({"f:spec": {"f:finalizers": {"v:\"a\"": {}}}})).unwrap();
        let mut rest = whole.clone();
        rest.subtract(&part);
        assert!(rest.intersection(&part).is_empty());
        assert_eq!(whole.intersection(&part), part);
        rest.union(&part);
        assert_eq!(rest, whole);
    }
}
