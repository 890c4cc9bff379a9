//! PersistentVolumes: storage of the cluster. Claims share some columns.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::access_modes::{short_modes, validate_access_modes};
use crate::kinds::affinity::validate_node_selector;
use crate::kinds::kind::Strategy;
use crate::kinds::node_labels::warn_of_term;
use crate::kinds::row::Row;
use crate::kinds::storage_columns::{ATTRIBUTES_CLASS, CLASS_ANNOTATION, STATUS, STORAGE_CLASS, VOLUME_MODE};
use crate::kinds::volume_holder::Holder;
use crate::kinds::volume_source::{SOURCES, default_source};
use crate::names::{NameForm, validate_name, validate_optional_name};
use crate::resources::quantity;
use crate::table::cell::{quantity_cell, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, one_of, set_default, set_zero_default};

/// Fields of a volume's specification besides its source.
const OTHER_FIELDS: [&str; 9] = [
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

pub(super) const ROW: Row = Row {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    subresources: &["status"],
    schema: "api.core.v1.PersistentVolume",
    columns: COLUMNS,
    strategy: Strategy {
        default,
        prepare_create,
        validate,
        own_required: true,
        validate_update,
        warnings,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Capacity", |object, _| quantity_cell(&object["spec"]["capacity"]["storage"])),
    Column::text("Access Modes", |object, _| short_modes(&object["spec"]).into()),
    Column::text("Reclaim Policy", |object, _| text_cell(&object["spec"]["persistentVolumeReclaimPolicy"])),
    STATUS,
    Column::text("Claim", claim),
    STORAGE_CLASS,
    ATTRIBUTES_CLASS,
    Column::text("Reason", |object, _| text_cell(&object["status"]["reason"])),
    AGE,
    VOLUME_MODE,
];

const MOUNT_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
/// Volumes that no longer work, in the order of upstream's warnings, and as they show the field.
const DEPRECATED: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn default(object: &mut Value) {
    set_default(object, "status", json!({}));
    set_zero_default(&mut object["status"], "phase", "Pending");
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_zero_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_default(spec, "volumeMode", "Filesystem");
    default_source(spec);
}

fn prepare_create(object: &mut Value) {
    let now = object["metadata"]["creationTimestamp"].clone();
    if now.is_string() {
        set_default(&mut object["status"], "lastPhaseTransitionTime", now);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "");
    }
    validate_access_modes(spec, &path, errors);
    validate_capacity(&spec["capacity"], &path.child("capacity"), errors);
    one_of(spec, "persistentVolumeReclaimPolicy", &path, &["Delete", "Recycle", "Retain"], errors);
    if spec["nodeAffinity"].is_object() {
        let (required, at) =
            (&spec["nodeAffinity"]["required"], path.child("nodeAffinity").child("required"));
        if required.is_null() {
            errors.required(&at, "must specify required node constraints");
        } else {
            validate_node_selector(required, &at, errors);
        }
    }
    let mut found = SOURCES.iter().filter(|source| spec[source.field].is_object());
    match found.next() {
        None => errors.required(&path, "must specify a volume type"),
        Some(first) => first.check(&spec[first.field], Holder::PersistentVolume, &path, errors),
    }
    for more in found {
        errors.forbidden(&path.child(more.forbidden_field()), "may not specify more than 1 volume type");
    }
    if spec["local"].is_object() && spec["nodeAffinity"].is_null() {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
    validate_optional_name(spec, "storageClassName", NameForm::Subdomain, &path, errors);
    one_of(spec, "volumeMode", &path, &["Block", "Filesystem"], errors);
    if let Some(class) = spec["volumeAttributesClassName"].as_str() {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&at, "an empty string is disallowed");
        } else {
            validate_name(class, NameForm::Subdomain, &at, errors);
        }
        if spec["csi"].is_null() {
            errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn validate_capacity(capacity: &Value, path: &Path, errors: &mut Errors) {
    let count = capacity.as_object().map_or(0, serde_json::Map::len);
    if count == 0 {
        errors.required(path, "");
    }
    if capacity["storage"].is_null() || count > 1 {
        let shown: BTreeMap<&String, &Value> = capacity.as_object().into_iter().flatten().collect();
        let shown = if capacity.is_object() { json!(shown) } else { Value::Null };
        errors.not_supported(path, &shown, &["storage"]);
    }
    for (name, value) in capacity.as_object().into_iter().flatten() {
        let (Some(amount), at) = (quantity(value), path.key(name)) else { continue };
        if amount.value() < 0 {
            let whole = i64::try_from(amount.value()).unwrap_or(i64::MIN);
            errors.invalid(&at, &whole.into(), "must be a valid resource quantity");
        }
        if amount.millis() <= 0 {
            errors.invalid(&at, &amount.to_string().into(), "must be greater than zero");
        }
    }
}

fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut warnings = Vec::new();
    let annotations = Path::new("metadata").child("annotations");
    for (key, why) in [
        (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (MOUNT_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if object["metadata"]["annotations"][key].is_string() {
            warnings.push(format!("{}: {why}", annotations.key(key)));
        }
    }
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let at = path.child("persistentVolumeReclaimPolicy");
        warnings.push(format!(
            "{at}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
        ));
    }
    let terms = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (i, term) in items(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").enumerate() {
        warn_of_term(term, false, &terms.index(i), &mut warnings);
    }
    for (field, shown, why) in DEPRECATED {
        if spec[field].is_object() {
            warnings.push(format!("{}: {why}", path.child(shown)));
        }
    }
    warnings
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
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

fn source_of(spec: &Value) -> Vec<(&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !OTHER_FIELDS.contains(&name.as_str())).collect()
}

fn claim(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["claimRef"] {
        Value::Null => "".into(),
        claim => format!("{}/{}", text_or(&claim["namespace"], ""), text_or(&claim["name"], "")).into(),
    }
}
