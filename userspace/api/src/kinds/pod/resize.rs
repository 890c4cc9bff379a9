//! `resize`: a pod's containers change their processor and memory while they run.

use serde_json::{Map, Value};

use super::qos_class;
use crate::field::{Errors, Path};
use crate::value::{items, items_mut, text};

/// Takes the resources and resize policies of the containers of `from` into the pod.
pub fn resize(pod: &mut Value, from: &Value) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("spec");
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        errors.forbidden(&Path::new(""), "static pods cannot be resized");
    }
    let old = pod["spec"].clone();
    for list in ["containers", "initContainers"] {
        let wanted: std::collections::HashMap<&str, &Value> =
            items(&from["spec"], list).map(|container| (text(&container["name"]), container)).collect();
        for (i, container) in items_mut(&mut pod["spec"], list).enumerate() {
            let Some(wanted) = wanted.get(text(&container["name"])) else { continue };
            let at = path.child(list).index(i);
            let is_sidecar = container["restartPolicy"] == "Always";
            if list == "initContainers" && !is_sidecar {
                if wanted["resources"] != container["resources"] {
                    let detail = "resources for non-sidecar init containers are immutable";
                    errors.forbidden(&at.child("resources"), detail);
                }
                continue;
            }
            validate_change(
                &container["resources"],
                &wanted["resources"],
                &at.child("resources"),
                &mut errors,
            );
            take(container, wanted);
        }
    }
    if qos_class(&pod["spec"]) != qos_class(&old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, &qos_class(&pod["spec"]).into(), detail);
    }
    errors
}

fn take(container: &mut Value, wanted: &Value) {
    let Some(fields) = container.as_object_mut() else { return };
    for field in ["resources", "resizePolicy"] {
        match wanted.get(field) {
            Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
            None => drop(fields.remove(field)),
        }
    }
}

/// Only amounts of processor and memory may change.
fn validate_change(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    let fixed = |resources: &Value, list: &str| -> Map<String, Value> {
        let all = resources[list].as_object().into_iter().flatten();
        let fixed = all.filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"));
        fixed.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let others_differ = ["limits", "requests"].into_iter().any(|list| fixed(old, list) != fixed(new, list));
    if others_differ || old["claims"] != new["claims"] {
        errors.forbidden(path, "only cpu and memory resources are mutable");
    }
    for (list, detail) in
        [("limits", "resource limits cannot be removed"), ("requests", "resource requests cannot be removed")]
    {
        let removed = |name: &&str| !old[list][*name].is_null() && new[list][*name].is_null();
        if ["cpu", "memory"].iter().any(removed) {
            errors.forbidden(&path.child(list), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_processor_and_memory_change() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "image": "c", "resources": resources}]}});
        let old = pod(json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
        for (resources, why) in [
            (json!({"requests": {"cpu": "1"}}), "resource requests cannot be removed"),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi", "x/y": "1"}}),
                "only cpu and memory resources are mutable",
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
                "Pod QOS Class may not change",
            ),
        ] {
            let errors = resize(&mut old.clone(), &pod(resources));
            assert!(errors.0.iter().any(|error| error.message.contains(why)), "{why}: {errors:?}");
        }
        let (mut new, mut wanted) = (old, pod(json!({"requests": {"cpu": "2", "memory": "1Gi"}})));
        wanted["spec"]["containers"][0]["image"] = "other".into();
        assert!(resize(&mut new, &wanted).is_empty());
        assert_eq!(new, pod(json!({"requests": {"cpu": "2", "memory": "1Gi"}})));
    }
}
