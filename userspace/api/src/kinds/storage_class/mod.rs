//! StorageClasses.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names;
use crate::table::cell::{text_cell, text_or};
use crate::table::column::{AGE, Column};
use crate::value::{immutable, one_of, set_default, text};

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 << 10;
const DEFAULT_CLASS_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    schema: "api.storage.v1.StorageClass",
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    Column::text("Name", class_name),
    Column::text("Provisioner", |object, _| text_cell(&object["provisioner"])),
    Column::text("ReclaimPolicy", |object, _| text_or(&object["reclaimPolicy"], "Delete").into()),
    Column::text("VolumeBindingMode", |object, _| text_or(&object["volumeBindingMode"], "Immediate").into()),
    Column::text("AllowVolumeExpansion", |object, _| (object["allowVolumeExpansion"] == true).into()),
    AGE,
];

fn default(object: &mut Value) {
    set_default(object, "reclaimPolicy", "Delete");
    set_default(object, "volumeBindingMode", "Immediate");
}

fn validate(object: &Value, errors: &mut Errors) {
    let root = Path::new("");
    match object["provisioner"].as_str() {
        None | Some("") => errors.required(&Path::new("provisioner"), ""),
        Some(name) => {
            for problem in names::name_problems(&name.to_lowercase(), names::NameForm::LabelKey) {
                errors.invalid(&Path::new("provisioner"), &object["provisioner"], problem);
            }
        }
    }
    validate_parameters(&object["parameters"], errors);
    if !text(&object["reclaimPolicy"]).is_empty() {
        one_of(object, "reclaimPolicy", &root, &["Delete", "Retain"], errors);
    }
    one_of(object, "volumeBindingMode", &root, &["Immediate", "WaitForFirstConsumer"], errors);
}

fn validate_parameters(parameters: &Value, errors: &mut Errors) {
    let path = Path::new("parameters");
    let all = parameters.as_object().into_iter().flatten();
    let size: usize = all.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if parameters.as_object().is_some_and(|all| all.len() > MAX_PARAMETERS) {
        errors.too_long(&path, MAX_PARAMETERS);
    }
    if parameters.as_object().is_some_and(|all| all.contains_key("")) {
        errors.invalid(&path, &json!(""), "field can not be empty.");
    }
    if size > MAX_PARAMETER_BYTES {
        errors.too_long(&path, MAX_PARAMETER_BYTES);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(&new[field], &old[field], &Path::new(field), errors);
    }
}

fn class_name(object: &Value, _: Timestamp) -> Value {
    let annotations = &object["metadata"]["annotations"];
    let default = DEFAULT_CLASS_ANNOTATIONS.iter().any(|name| annotations[*name] == "true");
    format!("{}{}", meta::name(object), if default { " (default)" } else { "" }).into()
}
