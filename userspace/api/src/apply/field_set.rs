//! Sets of field paths, read from and written as `FieldsV1` (KEP-555; structured-merge-diff's `fieldpath.Set`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::path_element::{BadElement, PathElement};

/// A tree of path elements. `member`: the path that ends here is in the set. No node below the root is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<PathElement, FieldSet>,
}

impl FieldSet {
    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Adds what `element` holds; an empty set is left out.
    pub(super) fn insert(&mut self, element: PathElement, part: FieldSet) {
        if !part.is_empty() {
            self.children.insert(element, part);
        }
    }

    /// Adds a path of fields.
    pub(super) fn insert_path<'p>(&mut self, path: impl IntoIterator<Item = &'p str>) {
        let mut node = self;
        for name in path {
            node = node.children.entry(PathElement::field(name)).or_default();
        }
        node.member = true;
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

    /// Removes the members of the other set and all that is below them.
    pub(super) fn subtract_recursively(&mut self, other: &FieldSet) {
        for (element, theirs) in &other.children {
            if theirs.member {
                self.children.remove(element);
            } else if let Some(ours) = self.children.get_mut(element) {
                ours.subtract_recursively(theirs);
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

    /// Whether all members are members of the other set.
    pub(super) fn is_subset(&self, other: &FieldSet) -> bool {
        (!self.member || other.member)
            && self.children.iter().all(|(element, ours)| match other.children.get(element) {
                Some(theirs) => ours.is_subset(theirs),
                None => ours.is_empty(),
            })
    }

    /// The paths in upstream's notation and order: `.spec.containers[name="web"].image`, the members of a level before
    /// what is below them.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        let members = self.children.iter().filter(|(_, part)| part.member);
        out.extend(members.map(|(element, _)| format!("{path}{element}")));
        for (element, part) in self.children.iter().filter(|(_, part)| !part.children.is_empty()) {
            let length = path.len();
            path.push_str(&element.to_string());
            part.collect(path, out);
            path.truncate(length);
        }
    }

    /// Reads `FieldsV1`; elements of an unknown form are skipped. Err: what is wrong with it, for the API's message.
    pub(super) fn decode(value: &Value) -> Result<FieldSet, String> {
        let Value::Object(fields) = value else {
            return Err("fieldsV1 must be an object".to_owned());
        };
        let mut out = FieldSet::default();
        for (text, part) in fields {
            if text == "." {
                out.member = true;
                continue;
            }
            let element = match PathElement::parse(text) {
                Ok(element) => element,
                Err(BadElement::Unknown) => continue,
                Err(BadElement::Malformed) => return Err(format!("{text:?} is no element of a path")),
            };
            let mut child = FieldSet::decode(part)?;
            // An element with nothing below it is a member itself.
            child.member |= child.children.is_empty();
            out.children.insert(element, child);
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
            out.insert(element.text(), part.encode());
        }
        Value::Object(out)
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

    fn decoded(value: Value) -> FieldSet {
        FieldSet::decode(&value).unwrap()
    }

    #[test]
    fn encode_is_the_inverse_of_decode() {
        assert_eq!(decoded(example()).encode(), example());
    }

    #[test]
    fn paths_have_upstreams_notation_and_order() {
        assert_eq!(
            decoded(json!({"f:a": {"f:x": {}}, "f:b": {}, "f:c": {"v:\"s\"": {}, "k:{\"n\":1}": {".": {}, "f:v": {}}}})).paths(),
            [".b", ".a.x", ".c[n=1]", ".c[=\"s\"]", ".c[n=1].v"]
        );
    }

    #[test]
    fn malformed_paths_are_refused_and_unknown_ones_are_skipped() {
        for bad in [json!({"x": {}}), json!({"k:1": {}}), json!({"i:a": {}}), json!({"f:a": 1}), json!([])] {
            assert!(FieldSet::decode(&bad).is_err(), "{bad}");
        }
        assert_eq!(decoded(json!({"z:1": {}, "f:a": {}})).paths(), [".a"]);
    }

    #[test]
    fn subtracting_a_part_and_adding_it_again_restores_the_set() {
        let whole = decoded(example());
        let part = decoded(json!({"f:spec": {"f:finalizers": {"v:\"a\"": {}}}}));
        let mut rest = whole.clone();
        rest.subtract(&part);
        assert!(rest.intersection(&part).is_empty());
        assert!(part.is_subset(&whole) && !whole.is_subset(&part));
        assert_eq!(whole.intersection(&part), part);
        rest.union(&part);
        assert_eq!(rest, whole);
    }

    #[test]
    fn a_recursive_difference_removes_what_is_below() {
        let mut set = decoded(example());
        set.subtract_recursively(&decoded(
            json!({"f:spec": {}, "f:metadata": {"f:labels": {"f:other": {}}}}),
        ));
        assert_eq!(set.paths(), [".metadata.labels", ".metadata.labels.app"]);
    }
}
