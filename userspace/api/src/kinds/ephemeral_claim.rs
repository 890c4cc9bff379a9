//! The claim that a pod makes for a volume of its own, and the claims of a StatefulSet: templates of PersistentVolumeClaims.

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::persistent_volume_claim::{default_spec, validate_spec};
use crate::kinds::volume_holder::Holder;
use crate::meta::validate_annotations;
use crate::names::validate_labels;

/// Fields of the metadata that a template may not have.
const FORBIDDEN_METADATA: [&str; 6] =
    ["name", "generateName", "namespace", "ownerReferences", "finalizers", "deletionTimestamp"];

pub(super) fn default(source: &mut Value) {
    if let Some(template) = source.get_mut("volumeClaimTemplate").and_then(Value::as_object_mut) {
        let spec = template.entry("spec").or_insert_with(|| Value::Object(Map::new()));
        default_spec(spec);
    }
}

pub(super) fn validate(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    let (template, at) = (&source["volumeClaimTemplate"], path.child("volumeClaimTemplate"));
    if !template.is_object() {
        return errors.required(&at, "");
    }
    let (metadata, inner) = (&template["metadata"], at.child("metadata"));
    validate_annotations(&metadata["annotations"], &inner.child("annotations"), errors);
    validate_labels(&metadata["labels"], &inner.child("labels"), errors);
    for field in FORBIDDEN_METADATA {
        if metadata.get(field).is_some_and(|value| !crate::value::is_zero(value)) {
            errors.forbidden(&inner.child(field), "cannot be set");
        }
    }
    validate_spec(&template["spec"], &at.child("spec"), errors);
}
