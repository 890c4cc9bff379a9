//! The mounts and devices of a container.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::file_path::{goes_up, validate_descending};
use crate::kinds::volume::Volumes;
use crate::value::{items, one_of, require_text, text};

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIONS: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// Names and paths of one of a container's two lists.
fn names_and_paths<'a>(container: &'a Value, list: &str, field: &str) -> HashMap<&'a str, &'a str> {
    items(container, list).map(|item| (text(&item["name"]), text(&item[field]))).collect()
}

/// Checks `volumeMounts`. As upstream, some problems are reported at the path of the list.
pub(super) fn validate_mounts(container: &Value, path: &Path, volumes: &Volumes<'_>, errors: &mut Errors) {
    let path = path.child("volumeMounts");
    let devices = names_and_paths(container, "volumeDevices", "devicePath");
    let mut mounted = HashSet::new();
    for (i, mount) in items(container, "volumeMounts").enumerate() {
        let at = path.index(i);
        let (name, target) = (text(&mount["name"]), text(&mount["mountPath"]));
        require_text(mount, "name", &at, errors);
        if !volumes.contains_key(name) {
            errors.not_found(&at.child("name"), &name.into(), "");
        }
        require_text(mount, "mountPath", &at, errors);
        if !mounted.insert(target) {
            errors.invalid(&at.child("mountPath"), &target.into(), "must be unique");
        }
        if devices.contains_key(name) {
            errors.invalid(&at.child("name"), &name.into(), "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&at.child("mountPath"), &target.into(), detail);
        }
        validate_descending(&mount["subPath"], &path.child("subPath"), errors);
        if !text(&mount["subPath"]).is_empty() && !text(&mount["subPathExpr"]).is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.child("subPathExpr"), &mount["subPathExpr"], detail);
        }
        validate_descending(&mount["subPathExpr"], &path.child("subPathExpr"), errors);
        one_of(mount, "mountPropagation", &path, &PROPAGATIONS, errors);
        if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true
        {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&path.child("mountPropagation"), detail);
        }
        validate_recursion(mount, &path, errors);
    }
}

fn validate_recursion(mount: &Value, path: &Path, errors: &mut Errors) {
    if !matches!(mount["recursiveReadOnly"].as_str(), Some("Enabled" | "IfPossible")) {
        return one_of(mount, "recursiveReadOnly", path, &RECURSIONS, errors);
    }
    let at = path.child("recursiveReadOnly");
    if mount["readOnly"] != true {
        errors.forbidden(&at, "may only be specified when readOnly is true");
    }
    if mount["mountPropagation"].as_str().is_some_and(|propagation| propagation != "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.forbidden(&at, detail);
    }
}

/// Checks `volumeDevices`.
pub(super) fn validate_devices(container: &Value, path: &Path, volumes: &Volumes<'_>, errors: &mut Errors) {
    let path = path.child("volumeDevices");
    let mounts = names_and_paths(container, "volumeMounts", "mountPath");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (i, device) in items(container, "volumeDevices").enumerate() {
        let at = path.index(i);
        let (name, target) = (text(&device["name"]), text(&device["devicePath"]));
        let (name_at, target_at) = (at.child("name"), at.child("devicePath"));
        require_text(device, "name", &at, errors);
        if names.contains(name) {
            errors.invalid(&name_at, &name.into(), "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&name_at, &name.into(), ""),
            Some(volume)
                if !volume["persistentVolumeClaim"].is_object() && !volume["ephemeral"].is_object() =>
            {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name_at, &name.into(), detail);
            }
            Some(_) => {}
        }
        require_text(device, "devicePath", &at, errors);
        if paths.contains(target) {
            errors.invalid(&target_at, &target.into(), "must be unique");
        }
        if goes_up(target) {
            errors.invalid(&target_at, &target.into(), "can not contain backsteps ('..')");
        } else {
            paths.insert(target);
        }
        if mounts.contains_key(name) {
            errors.invalid(&name_at, &name.into(), "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| *mount == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&target_at, &target.into(), detail);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
