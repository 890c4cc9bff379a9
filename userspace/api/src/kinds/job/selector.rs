//! The generated selector of a Job: its pods are those with the Job's uid.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::meta;
use crate::selector::LabelSelector;
use crate::value::set_default;

/// Labels of the pods of a Job with a generated selector: the Job's uid and name, twice.
const GENERATED_LABELS: [&str; 4] =
    ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];

/// Adds what makes the selector unique, and keeps what the user wrote: validation refuses what conflicts.
pub(super) fn generate(spec: &mut Value, uid: &str, name: &str) {
    set_default(spec, "selector", json!({}));
    set_default(&mut spec["selector"], "matchLabels", json!({}));
    set_default(&mut spec["selector"]["matchLabels"], GENERATED_LABELS[0], uid);
    let template = &mut spec["template"];
    set_default(template, "metadata", json!({}));
    set_default(&mut template["metadata"], "labels", json!({}));
    for (label, value) in GENERATED_LABELS.into_iter().zip([uid, name, uid, name]) {
        set_default(&mut template["metadata"]["labels"], label, value);
    }
}

/// Without `manualSelector` the selector is the server's, so that no two Jobs have the same pods.
pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    let (uid, name) = (meta::uid(object), meta::name(object));
    if uid.is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let mut expected = json!({});
    // As upstream, the older labels first.
    for i in [2, 3, 0, 1] {
        let (label, value) = (GENERATED_LABELS[i], [uid, name][i % 2]);
        let detail = format!("must be '{value}'");
        if labels[label].is_null() {
            errors.required(&at.key(label), &detail);
        } else if labels[label] != value {
            errors.invalid(&at.key(label), labels, &detail);
        }
        expected[label] = value.into();
    }
    if let Ok(Some(selector)) = LabelSelector::from_object(&spec["selector"])
        && !selector.matches(&expected)
    {
        let at = Path::new("spec").child("selector");
        errors.invalid(&at, &spec["selector"], "`selector` not auto-generated");
    }
}
