//! Volumes of CSI drivers, in pods and PersistentVolumes, and the names of drivers.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::volume_holder::Holder;
use crate::names::{NameForm, name_problems, validate_optional_name};
use crate::value::{require_text, text};

/// References to secrets of a PersistentVolume, in the order of upstream's checks.
const SECRETS: [&str; 4] = [
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];
const MAX_NAME_LENGTH: usize = 63;

pub(super) fn validate_csi(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    validate_driver_name(&source["driver"], &path.child("driver"), errors);
    if holder != Holder::PersistentVolume {
        let secret = &source["nodePublishSecretRef"];
        if secret.is_object() && require_text(secret, "name", &path.child("nodePublishSecretRef"), errors) {
            validate_optional_name(secret, "name", NameForm::Subdomain, path, errors);
        }
        return;
    }
    require_text(source, "volumeHandle", path, errors);
    for field in SECRETS {
        let (secret, at) = (&source[field], path.child(field));
        if !secret.is_object() {
            continue;
        }
        for (field, form) in [("name", NameForm::Subdomain), ("namespace", NameForm::Label)] {
            if require_text(secret, field, &at, errors) {
                validate_optional_name(secret, field, form, &at, errors);
            }
        }
    }
}

/// Checks the name of a driver: a subdomain, in which case does not matter.
pub(super) fn validate_driver_name(name: &Value, path: &Path, errors: &mut Errors) {
    let text = text(name);
    if text.is_empty() {
        return errors.required(path, "");
    }
    if text.len() > MAX_NAME_LENGTH {
        errors.too_long(path, MAX_NAME_LENGTH);
    }
    for problem in name_problems(&text.to_lowercase(), NameForm::Subdomain) {
        errors.invalid(path, name, problem);
    }
}
