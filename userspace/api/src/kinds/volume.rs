//! The volumes of a Pod: defaults and validation.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::names;
use crate::value::{items, items_mut, set_default};

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
    let mut seen = Vec::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(i).child("name");
        match volume["name"].as_str() {
            None | Some("") => errors.required(&at, ""),
            Some(name) if seen.contains(&name) => errors.duplicate(&at, &volume["name"]),
            Some(name) => {
                if let Some(problem) = names::name_problem(name, names::NameForm::Label) {
                    errors.invalid(&at, &volume["name"], problem);
                }
                seen.push(name);
            }
        }
    }
}
