//! The volumes of a Pod: defaults and validation.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::mount::{validate_file_path, validate_no_backsteps};
use crate::names;
use crate::value::{items, items_mut, one_of, set_default, text};

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn default_volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|fields| fields.keys().any(|key| key != "name"));
    if !has_source {
        set_default(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            set_default(source, "defaultMode", 420);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        set_default(path, "type", "");
    }
    for field in volume.get_mut("downwardAPI").into_iter().flat_map(|api| items_mut(api, "items")) {
        default_field_ref(field);
    }
    for source in
        volume.get_mut("projected").into_iter().flat_map(|projected| items_mut(projected, "sources"))
    {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        for field in source.get_mut("downwardAPI").into_iter().flat_map(|api| items_mut(api, "items")) {
            default_field_ref(field);
        }
    }
}

fn default_field_ref(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
        set_default(field, "apiVersion", "v1");
    }
}

pub(super) fn validate_volumes(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let path = path.child("volumes").index(i);
        let at = path.child("name");
        match volume["name"].as_str() {
            None | Some("") => errors.required(&at, ""),
            Some(name) if seen.contains(name) => errors.duplicate(&at, &volume["name"]),
            Some(name) => {
                if let Some(problem) = names::name_problem(name, names::NameForm::Label) {
                    errors.invalid(&at, &volume["name"], problem);
                }
                seen.insert(name);
            }
        }
        let mut sources = volume.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
        sources.next();
        if let Some((more, _)) = sources.next() {
            errors.forbidden(&path.child(more), "may not specify more than 1 volume type");
        }
        validate_paths(volume, &path, errors);
    }
}

/// Paths on the node and in the volume.
fn validate_paths(volume: &Value, path: &Path, errors: &mut Errors) {
    if volume["hostPath"].is_object() {
        let (host, at) = (&volume["hostPath"], path.child("hostPath"));
        if text(&host["path"]).is_empty() {
            errors.required(&at.child("path"), "");
        }
        validate_no_backsteps(&host["path"], &at.child("path"), errors);
        one_of(host, "type", &at, &HOST_PATH_TYPES, errors);
    }
    for source in ["secret", "configMap", "downwardAPI"] {
        validate_files(&volume[source], &path.child(source), errors);
    }
    for (i, source) in items(&volume["projected"], "sources").enumerate() {
        let at = path.child("projected").child("sources").index(i);
        for name in ["secret", "configMap", "downwardAPI"] {
            validate_files(&source[name], &at.child(name), errors);
        }
        for name in ["serviceAccountToken", "clusterTrustBundle"] {
            if source[name].is_object() {
                validate_file_path(&source[name]["path"], &at.child(name).child("path"), errors);
            }
        }
    }
}

fn validate_files(source: &Value, path: &Path, errors: &mut Errors) {
    for (i, item) in items(source, "items").enumerate() {
        validate_file_path(&item["path"], &path.child("items").index(i).child("path"), errors);
    }
}
