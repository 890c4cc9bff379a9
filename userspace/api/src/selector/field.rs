//! `metadata.name=x,status.phase!=Running`: by the fields that a kind lets be selected.

use serde_json::Value;

use super::{BadSelector, Picked};
use crate::kinds::Kind;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Reads the text of a query and checks that the kind knows the fields.
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
            if !selectable_fields(kind).contains(&field) {
                return Err(BadSelector(format!("field label not supported: {field}")));
            }
            requirements.push((field.to_owned(), equal, unescape(value)));
        }
        Ok(FieldSelector { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The name, if only one object can match.
    pub fn name(&self) -> Option<&str> {
        let mut names =
            self.requirements.iter().filter(|(field, equal, _)| *equal && field == "metadata.name");
        names.next().map(|(_, _, value)| value.as_str())
    }

    pub fn matches(&self, object: &Picked) -> bool {
        self.requirements.iter().all(|(field, equal, wanted)| (object.field(field) == wanted) == *equal)
    }
}

fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// The field's value as text; absent is empty.
pub(super) fn shown(object: &Value, field: &str) -> String {
    let mut at = object;
    for part in field.split('.') {
        at = &at[part];
    }
    match (at, field) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        (Value::Null, "status.successful") => "0".to_owned(),
        (Value::Null, _) => String::new(),
        (other, _) => other.to_string(),
    }
}

/// The fields that upstream lets be selected, and those that definitions name.
pub fn selectable_fields(kind: &Kind) -> &'static [&'static str] {
    if let Some(custom) = &kind.custom {
        return custom.version.selectable;
    }
    match (kind.group, kind.kind) {
        ("", "Pod") => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "Event") | ("events.k8s.io", "Event") => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "Namespace") => &["metadata.name", "status.phase"],
        ("", "Secret") => &["metadata.name", "metadata.namespace", "type"],
        ("", "Service") => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        ("batch", "Job") => &["metadata.name", "metadata.namespace", "status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest") => &["metadata.name", "spec.signerName"],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => {
            &["metadata.name", "metadata.namespace", "status.replicas"]
        }
        _ => &["metadata.name", "metadata.namespace"],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_known_fields_select() {
        let pods = crate::find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        let pod = Picked::of(selectable_fields(pods), &pod);
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
}
