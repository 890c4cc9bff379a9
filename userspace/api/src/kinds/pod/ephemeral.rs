//! Ephemeral containers: what they may be, and how their list may change.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::field::{Errors, FieldError, Path};
use crate::kinds::container::validate_container;
use crate::value::{items, text};

/// Fields that an ephemeral container may not have; each may be present and empty.
const FORBIDDEN_FIELDS: [&str; 7] =
    ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"];
/// The mirror of a pod that a node runs from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes the ephemeral containers of `from` into the pod: it may add containers, and change or remove none.
pub fn add_ephemeral_containers(pod: &mut Value, from: &Value) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("spec").child("ephemeralContainers");
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        errors.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
    }
    let wanted = &from["spec"]["ephemeralContainers"];
    // Of two with one name the last is compared, and validation refuses both.
    let by_name: HashMap<&str, &Value> = items(&from["spec"], "ephemeralContainers")
        .map(|container| (text(&container["name"]), container))
        .collect();
    for old in items(&pod["spec"], "ephemeralContainers") {
        let name = text(&old["name"]);
        match by_name.get(name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, &detail);
            }
            Some(new) if *new != old => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden(&path, &detail);
            }
            Some(_) => {}
        }
    }
    if errors.is_empty() && !wanted.is_null() {
        pod["spec"]["ephemeralContainers"] = wanted.clone();
    }
    errors
}

/// Checks the ephemeral containers of a pod against its other containers and volumes.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let targets: HashSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(spec, list))
        .map(|container| text(&container["name"]))
        .collect();
    let volumes = items(spec, "volumes").map(|volume| text(&volume["name"])).collect();
    let mut names = targets.clone();
    for (i, container) in items(spec, "ephemeralContainers").enumerate() {
        let at = path.child("ephemeralContainers").index(i);
        validate_container(container, &at, &volumes, errors);
        if !names.insert(text(&container["name"])) {
            errors.duplicate(&at.child("name"), &container["name"]);
        }
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !targets.contains(target) {
            errors.0.push(FieldError {
                field: at.child("targetContainerName").to_string(),
                reason: "FieldValueNotFound",
                message: format!("Not found: {target:?}"),
            });
        }
        for field in FORBIDDEN_FIELDS {
            if !is_empty(&container[field]) {
                errors.forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        if !container["restartPolicy"].is_null() {
            errors.forbidden(&at.child("restartPolicy"), "cannot be set for an Ephemeral Container");
        }
        for (mount, value) in items(container, "volumeMounts").enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(&value[field]).is_empty() {
                    let at = at.child("volumeMounts").index(mount).child(field);
                    errors.forbidden(&at, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ephemeral: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "c"}], "ephemeralContainers": ephemeral}})
    }

    #[test]
    fn the_list_only_grows() {
        let old = pod(json!([{"name": "e", "image": "e"}]));
        for (wanted, why) in [
            (json!([]), "existing ephemeral containers \"e\" may not be removed"),
            (
                json!([{"name": "e", "image": "other"}]),
                "existing ephemeral containers \"e\" may not be changed",
            ),
            (
                json!([{"name": "e", "image": "e", "securityContext": {"privileged": true}}, {"name": "f", "image": "e"}]),
                "may not be changed",
            ),
        ] {
            let errors = add_ephemeral_containers(&mut old.clone(), &pod(wanted));
            assert!(errors.0.iter().any(|error| error.message.contains(why)), "{why}: {errors:?}");
        }
        let more = pod(json!([{"name": "e", "image": "e"}, {"name": "f", "image": "f"}]));
        let mut new = old;
        assert!(add_ephemeral_containers(&mut new, &more).is_empty());
        assert_eq!(new, more);
    }

    #[test]
    fn an_ephemeral_container_is_checked_as_upstream() {
        for (container, wanted) in [
            (json!({"name": "c", "image": "x"}), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
            (json!({"name": "../../tmp/x", "image": "x"}), "spec.ephemeralContainers[0].name: Invalid value"),
            (
                json!({"name": "e", "image": "x", "ports": [{"containerPort": 1}]}),
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"name": "e", "image": "x", "targetContainerName": "z"}),
                "targetContainerName: Not found: \"z\"",
            ),
            (
                json!({"name": "e", "image": "x", "resources": {"limits": {"cpu": "1"}}}),
                "resources: Forbidden",
            ),
        ] {
            let mut errors = Errors::default();
            validate(&pod(json!([container]))["spec"], &Path::new("spec"), &mut errors);
            let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted}: {texts:?}");
        }
        let mut errors = Errors::default();
        let twice = json!([{"name": "e", "image": "x", "securityContext": {"privileged": true}}, {"name": "e", "image": "x"}]);
        validate(&pod(twice)["spec"], &Path::new("spec"), &mut errors);
        assert_eq!(errors.0[0].to_string(), "spec.ephemeralContainers[1].name: Duplicate value: \"e\"");
    }
}
