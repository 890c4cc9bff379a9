//! The ephemeral containers of a pod: how their list may change.

use std::collections::HashMap;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::pod_annotations::MIRROR;
use crate::value::{items, text};

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
}
