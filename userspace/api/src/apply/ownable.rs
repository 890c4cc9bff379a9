//! Which fields a write through an endpoint can own: the endpoint resets the others (upstream's `resetFields`).

use super::field_set::FieldSet;
use super::path_element::PathElement;
use crate::kinds::Kind;

/// The fields that a write through one endpoint can own: all but these and what is below them.
#[derive(Debug, Default)]
pub(super) struct Ownable {
    reset: FieldSet,
}

/// Metadata that only the server sets; it has no owner.
const SYSTEM_FIELDS: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Kinds whose status endpoint resets all metadata.
const RESET_METADATA: [&str; 9] = [
    "APIService",
    "CustomResourceDefinition",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "ResourceClaim",
    "ServiceCIDR",
    "ValidatingAdmissionPolicy",
    "VolumeAttachment",
    "PodGroup",
];

impl Ownable {
    /// The fields that a write to the subresource can own; an empty one is the object itself.
    pub(super) fn of(kind: &Kind, subresource: &str) -> Ownable {
        let reset: &[&[&str]] = match (&*kind.kind, subresource) {
            ("CertificateSigningRequest", "") if kind.custom.is_none() => &[&["spec"], &["status"]],
            ("CertificateSigningRequest", "status") => &[&["spec"], &["status", "conditions"]],
            ("CertificateSigningRequest", "approval") => &[&["spec"], &["status", "certificate"]],
            ("Deployment", "status") => &[&["spec"], &["metadata", "labels"]],
            ("Pod", "status") => {
                &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
            }
            (_, "status") if kind.custom.is_some() || RESET_METADATA.contains(&&*kind.kind) => {
                &[&["spec"], &["metadata"]]
            }
            (_, "status") => &[&["spec"]],
            (_, "finalize") => &[&["status"]],
            (_, "") if kind.has_status() => &[&["status"]],
            _ => &[],
        };
        let mut out = Ownable::default();
        reset.iter().for_each(|path| out.reset.insert_path(path.iter().copied()));
        out
    }

    /// Removes the fields that the endpoint resets.
    pub(super) fn retain(&self, fields: &mut FieldSet) {
        fields.subtract_recursively(&self.reset);
    }
}

/// Removes the fields that never have an owner.
pub(super) fn strip_system_fields(fields: &mut FieldSet) {
    fields.member = false;
    for name in ["apiVersion", "kind"] {
        if let Some(part) = fields.children.get_mut(&PathElement::field(name)) {
            part.member = false;
        }
    }
    if let Some(metadata) = fields.children.get_mut(&PathElement::field("metadata")) {
        metadata.member = false;
        for name in SYSTEM_FIELDS {
            let element = PathElement::field(name);
            if let Some(part) = metadata.children.get_mut(&element) {
                part.member = false;
                if part.is_empty() {
                    metadata.children.remove(&element);
                }
            }
        }
    }
    fields.children.retain(|_, part| !part.is_empty());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::find;

    #[test]
    fn every_endpoint_owns_what_it_does_not_reset() {
        let all = json!({
            "f:apiVersion": {},
            "f:metadata": {".": {}, "f:name": {}, "f:labels": {".": {}, "f:a": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}},
            "f:status": {"f:phase": {}},
        });
        let labels = [".metadata.labels", ".metadata.labels.a"];
        for (plural, subresource, wanted) in [
            (
                "pods",
                "",
                &[
                    ".metadata.labels",
                    ".metadata.labels.a",
                    ".metadata.ownerReferences[uid=\"u\"]",
                    ".spec.containers[name=\"c\"]",
                    ".spec.containers[name=\"c\"].image",
                ][..],
            ),
            ("pods", "status", &[labels[0], labels[1], ".status.phase"]),
            (
                "nodes",
                "status",
                &[labels[0], labels[1], ".metadata.ownerReferences[uid=\"u\"]", ".status.phase"],
            ),
        ] {
            let mut fields = FieldSet::decode(&all).unwrap();
            Ownable::of(find("", "v1", plural).unwrap(), subresource).retain(&mut fields);
            strip_system_fields(&mut fields);
            assert_eq!(fields.paths(), wanted, "{plural} {subresource}");
        }
    }
}
