//! Field selectors: `metadata.name=x,status.phase!=Running`, over the fields that a kind makes selectable.

use super::{BadSelector, Selectable};
use crate::kinds::Kind;

/// All requirements must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Field, whether it must be equal, value.
    requirements: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the text of a query. Err: it is malformed or names a field that the kind does not make selectable.
    pub fn parse(kind: &Kind, text: &str) -> Result<FieldSelector, BadSelector> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let invalid = || BadSelector(format!("invalid selector: '{part}'; can't understand '{part}'"));
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                return Err(invalid());
            };
            let field = field.trim();
            let stored = stored_name(kind, field);
            let stored = stored.ok_or_else(|| BadSelector(format!("field label not supported: {field}")))?;
            requirements.push((stored.to_owned(), equal, unescape(value)));
        }
        Ok(FieldSelector { requirements })
    }

    /// Adds the requirement that a field has a value.
    pub fn require(&mut self, field: &str, value: &str) {
        self.requirements.push((field.to_owned(), true, value.to_owned()));
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that it requires of a field, if any.
    pub fn required(&self, field: &str) -> Option<&str> {
        let mut values = self.requirements.iter().filter(|(name, equal, _)| *equal && name == field);
        values.next().map(|(_, _, value)| value.as_str())
    }

    /// Whether an object with these fields is selected.
    pub fn matches(&self, object: &Selectable) -> bool {
        self.requirements.iter().all(|(field, equal, wanted)| (object.field(field) == wanted) == *equal)
    }
}

/// The name in the stored form of a field that selects; `None` if the kind does not make it selectable.
fn stored_name<'a>(kind: &Kind, field: &'a str) -> Option<&'a str> {
    if kind.field_names.is_empty() {
        return Some(field).filter(|field| kind.selectable_fields.contains(field));
    }
    kind.field_names.iter().find(|(name, _)| *name == field).map(|(_, stored)| *stored)
}

fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_selectable_fields_select() {
        let pods = crate::find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        let pod = Selectable::of(pods.selectable_fields.iter(), &pod);
        let selector = FieldSelector::parse(pods, "spec.nodeName=n1,status.phase!=Running").unwrap();
        assert!(selector.matches(&pod));
        assert!(FieldSelector::parse(pods, "spec.hostNetwork=false").unwrap().matches(&pod));
        assert!(!FieldSelector::parse(pods, "metadata.name=b").unwrap().matches(&pod));
        assert_eq!(
            FieldSelector::parse(pods, "spec.x=1").unwrap_err().0,
            "field label not supported: spec.x"
        );
        assert!(FieldSelector::parse(pods, "nonsense").is_err());
    }

    #[test]
    fn events_of_both_groups_are_selected_by_the_names_of_the_group() {
        let (core, events) =
            (crate::find("", "v1", "events").unwrap(), crate::find("events.k8s.io", "v1", "events").unwrap());
        let new = json!({"metadata": {"name": "n"}, "involvedObject": {"kind": "Pod"}, "source": {}, "reportingComponent": "c"});
        let old = json!({"metadata": {"name": "o"}, "source": {"component": "kubelet", "host": "h"}});
        let [new, old] = [new, old].map(|event| Selectable::of(events.selectable_fields.iter(), &event));
        let rows = [
            (core, "source=c", true, false),
            (core, "source=kubelet", false, true),
            (core, "reportingComponent=c,involvedObject.kind=Pod", true, false),
            (events, "reportingController=c", true, false),
            (events, "regarding.kind=Pod", true, false),
            (events, "regarding.kind!=Pod", false, true),
        ];
        for (kind, text, selects_new, selects_old) in rows {
            let selector = FieldSelector::parse(kind, text).unwrap();
            assert_eq!(
                (selector.matches(&new), selector.matches(&old)),
                (selects_new, selects_old),
                "{text}"
            );
        }
        for (kind, text) in
            [(core, "regarding.kind=Pod"), (events, "involvedObject.kind=Pod"), (events, "source=c")]
        {
            assert!(FieldSelector::parse(kind, text).is_err(), "{text}");
        }
    }
}
