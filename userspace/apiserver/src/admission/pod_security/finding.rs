//! A pod as the checks see it, and what a check reports of it.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// A setting of a pod that a standard forbids, in upstream's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: String,
    detail: String,
}

impl Finding {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
        Some(Finding { reason: reason.into(), detail: detail.into() })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// A pod or a template of one.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a Value,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| self.spec[list].as_array()).flatten()
    }

    /// Names of the containers that meet a condition.
    pub(super) fn containers_where(self, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| holds(container));
        bad.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    pub(super) fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

/// `"a", "b"`.
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    all.join(", ")
}

pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// The setters of a field, as text: the pod, some of its containers, or both; `None` if none.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

/// Whether the pod's security context has a bad value in the field, and the containers whose own has.
pub(super) fn security<'a>(
    pod: Pod<'a>,
    field: &str,
    mut bad: impl FnMut(&'a Value) -> bool,
) -> (bool, Vec<&'a str>) {
    let mut is_bad = |owner: &'a Value| {
        let value = &owner["securityContext"][field];
        !value.is_null() && bad(value)
    };
    let of_pod = is_bad(pod.spec);
    (of_pod, pod.containers_where(is_bad))
}

pub(super) type Texts = BTreeSet<String>;

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
