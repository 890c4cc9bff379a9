//! Volumes, claims, their classes and drivers.

use serde_json::{Value, json};

use super::containers::one_of;
use super::numbers::{quantities, quantity};
use crate::field::{Errors, Path};
use crate::names::{self, NameForm};
use crate::value::{immutable, items, set_default};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Fields of a volume's specification that do not say what it is made of.
const BESIDE_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE: usize = 256 << 10;

pub(super) fn default_volume(object: &mut Value) {
    set_default(object, "status", json!({"phase": "Pending"}));
    let spec = &mut object["spec"];
    set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_default(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath") {
        set_default(path, "type", "");
    }
}

pub(super) fn default_claim(object: &mut Value) {
    set_default(object, "status", json!({"phase": "Pending"}));
    set_default(&mut object["spec"], "volumeMode", "Filesystem");
}

pub(super) fn default_class(object: &mut Value) {
    set_default(object, "reclaimPolicy", "Delete");
    set_default(object, "volumeBindingMode", "Immediate");
}

pub(super) fn default_driver(object: &mut Value) {
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
    ] {
        set_default(&mut object["spec"], field, value);
    }
}

fn source_of(spec: &Value) -> Vec<(&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !BESIDE_SOURCE.contains(&name.as_str())).collect()
}

pub(super) fn validate_volume(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "");
    }
    validate_modes(spec, &path, errors);
    let capacity = path.child("capacity");
    let count = spec["capacity"].as_object().map_or(0, serde_json::Map::len);
    if count == 0 {
        errors.required(&capacity, "");
    }
    if spec["capacity"]["storage"].is_null() || count > 1 {
        errors.not_supported(&capacity, &spec["capacity"], &["storage"]);
    }
    quantities(&spec["capacity"], &capacity, errors);
    one_of(spec, "persistentVolumeReclaimPolicy", &path, &["Delete", "Recycle", "Retain"], errors);
    one_of(spec, "volumeMode", &path, &["Block", "Filesystem"], errors);
    match source_of(spec).as_slice() {
        [] => errors.required(&path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for (name, _) in more {
                errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(host) = spec["hostPath"].as_object()
        && host.get("path").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        errors.required(&path.child("hostPath").child("path"), "");
    }
}

pub(super) fn validate_volume_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    if source_of(new) != source_of(old) {
        let at = path.child("persistentvolumesource");
        errors.forbidden(&at, "spec.persistentvolumesource is immutable after creation");
    }
    immutable(&new["volumeMode"], &old["volumeMode"], &path.child("volumeMode"), errors);
    if !old["nodeAffinity"].is_null() {
        immutable(&new["nodeAffinity"], &old["nodeAffinity"], &path.child("nodeAffinity"), errors);
    }
}

fn validate_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("accessModes");
    for mode in items(spec, "accessModes") {
        if !MODES.iter().any(|known| mode == *known) {
            errors.not_supported(&at, mode, &MODES);
        }
    }
    let alone = items(spec, "accessModes").any(|mode| mode == "ReadWriteOncePod");
    if alone && items(spec, "accessModes").any(|mode| mode != "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

pub(super) fn validate_claim(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    validate_modes(spec, &path, errors);
    let (storage, at) = (&spec["resources"]["requests"]["storage"], path.child("resources").key("storage"));
    match quantity(storage) {
        None => errors.required(&at, ""),
        Some(quantity) if quantity.millis() <= 0 => errors.invalid(&at, storage, "must be greater than zero"),
        Some(_) => {}
    }
    if let Some(name) = spec["storageClassName"].as_str().filter(|name| !name.is_empty())
        && let Some(problem) = names::name_problem(name, NameForm::Subdomain)
    {
        errors.invalid(&path.child("storageClassName"), &spec["storageClassName"], problem);
    }
    one_of(spec, "volumeMode", &path, &["Block", "Filesystem"], errors);
}

/// A claim that is bound may grow; one that is not may be bound, and given a class.
pub(super) fn validate_claim_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let bound = old["status"]["phase"] == "Bound";
    let (mut wanted, before) = (new["spec"].clone(), &old["spec"]);
    for field in ["volumeName", "storageClassName"] {
        if before[field].as_str().is_none_or(str::is_empty) {
            put(&mut wanted, field, before.get(field));
        }
    }
    put(&mut wanted, "volumeAttributesClassName", before.get("volumeAttributesClassName"));
    if bound && !before["resources"]["requests"].is_null() {
        put(&mut wanted["resources"], "requests", before["resources"].get("requests"));
    }
    if wanted != *before {
        errors.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |object: &Value| quantity(&object["spec"]["resources"]["requests"]["storage"]);
    if let (Some(new), Some(old)) = (size(new), size(old))
        && new < old
        && bound
    {
        let at = path.child("resources").child("requests").child("storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
}

fn put(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

pub(super) fn validate_class(object: &Value, errors: &mut Errors) {
    let root = Path::new("");
    match object["provisioner"].as_str() {
        None | Some("") => errors.required(&Path::new("provisioner"), ""),
        Some(name) => {
            if let Some(problem) = names::qualified_name_problem(&name.to_lowercase()) {
                errors.invalid(&Path::new("provisioner"), &object["provisioner"], problem);
            }
        }
    }
    validate_parameters(&object["parameters"], errors);
    one_of(object, "reclaimPolicy", &root, &["Delete", "Retain"], errors);
    one_of(object, "volumeBindingMode", &root, &["Immediate", "WaitForFirstConsumer"], errors);
}

fn validate_parameters(parameters: &Value, errors: &mut Errors) {
    let path = Path::new("parameters");
    let all = parameters.as_object().into_iter().flatten();
    let size: usize = all.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if parameters.as_object().is_some_and(|all| all.len() > PARAMETERS_MAX) {
        errors.too_long(&path, PARAMETERS_MAX);
    }
    if parameters.as_object().is_some_and(|all| all.contains_key("")) {
        errors.invalid(&path, &json!(""), "field can not be empty.");
    }
    if size > PARAMETERS_SIZE {
        errors.too_long(&path, PARAMETERS_SIZE);
    }
}

pub(super) fn validate_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(&new[field], &old[field], &Path::new(field), errors);
    }
}

pub(super) fn validate_attributes_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["driverName", "parameters"] {
        immutable(&new[field], &old[field], &Path::new(field), errors);
    }
}

pub(super) fn validate_attachment(object: &Value, errors: &mut Errors) {
    let (source, path) = (&object["spec"]["source"], Path::new("spec").child("source"));
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["persistentVolumeName"].as_str(), source["inlineVolumeSpec"].is_object()) {
        (None, false) => errors.required(&path, detail),
        (Some(_), true) => errors.forbidden(&path, detail),
        (Some(""), false) => {
            errors
                .required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        _ => {}
    }
}

pub(super) fn validate_attachment_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["spec"], &old["spec"], &Path::new("spec"), errors);
}
