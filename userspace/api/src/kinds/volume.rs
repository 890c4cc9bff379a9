//! The volumes of a Pod: each has a name and one source.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::volume_holder::Holder;
use crate::kinds::volume_source::{SOURCES, default_source, has_source};
use crate::names::{NameForm, name_problems, validate_optional_name};
use crate::value::{items, require_text, text};

/// Bytes of `name:targetPortal` of an iSCSI volume with an initiator.
const MAX_ISCSI_NAME_LENGTH: usize = 64;

/// The valid volumes of a pod by their names.
pub(super) type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// A volume without a source is an empty directory.
pub(super) fn default_volume(volume: &mut Value) {
    if volume.is_object() && !has_source(volume) {
        volume["emptyDir"] = json!({});
    }
    default_source(volume);
}

/// Checks the volumes of a pod specification. `pod` is the pod's metadata; null in a template.
pub(super) fn validate_volumes<'a>(
    spec: &'a Value,
    pod: &Value,
    path: &Path,
    errors: &mut Errors,
) -> Volumes<'a> {
    let path = path.child("volumes");
    let holder = if pod.is_object() { Holder::Pod } else { Holder::Template };
    let pod = text(&pod["name"]);
    let claims: Vec<String> = items(spec, "volumes")
        .filter(|volume| !pod.is_empty() && volume["ephemeral"].is_object())
        .map(|volume| format!("{pod}-{}", text(&volume["name"])))
        .collect();
    let mut volumes = Volumes::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let (at, before) = (path.index(i), errors.0.len());
        validate_volume(volume, pod, holder, &at, errors);
        let name = text(&volume["name"]);
        if require_text(volume, "name", &at, errors) {
            validate_optional_name(volume, "name", NameForm::Label, &at, errors);
        }
        if volumes.contains_key(name) {
            errors.duplicate(&at.child("name"), &volume["name"]);
        }
        if errors.0.len() == before {
            volumes.insert(name, volume);
        }
        let claim = text(&volume["persistentVolumeClaim"]["claimName"]);
        if claims.iter().any(|created| created == claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&at.child("persistentVolumeClaim").child("claimName"), &claim.into(), detail);
        }
    }
    volumes
}

fn validate_volume(volume: &Value, pod: &str, holder: Holder, path: &Path, errors: &mut Errors) {
    let name = text(&volume["name"]);
    let mut found = SOURCES.iter().filter(|source| volume[source.field].is_object());
    let Some(first) = found.next() else {
        return errors.required(path, "must specify a volume type");
    };
    first.check(&volume[first.field], holder, path, errors);
    for more in found {
        errors.forbidden(&path.child(more.forbidden_field()), "may not specify more than 1 volume type");
    }
    let iscsi = &volume["iscsi"];
    if iscsi["initiatorName"].is_string()
        && name.len() + 1 + text(&iscsi["targetPortal"]).len() > MAX_ISCSI_NAME_LENGTH
    {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(&path.child("name"), &name.into(), detail);
    }
    if first.field == "ephemeral" && !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        for problem in name_problems(&claim, NameForm::Subdomain) {
            let detail = format!("PVC name {claim:?}: {problem}");
            errors.invalid(&path.child("name"), &name.into(), &detail);
        }
    }
}
