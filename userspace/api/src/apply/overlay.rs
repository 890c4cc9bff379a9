//! What a mutating policy lays over an object: merged as server-side apply merges, but nobody comes to own it, and
//! nothing of what is merged may replace more than it names.

use serde_json::Value;

use super::Place;
use super::walk;
use crate::kinds::Kind;
use crate::schema;

/// The object with the change over it. `shape` is the kind of an object that is not of its resource's (group, version,
/// kind): a Scale, an Eviction. Err: why not, in upstream's words.
pub fn overlay(
    kind: &Kind,
    shape: Option<(&str, &str, &str)>,
    object: &Value,
    change: &Value,
) -> Result<Value, String> {
    let root = match shape {
        Some((group, version, name)) => {
            schema::of_kind(&format!("{group}/{version}/{name}")).map_or(Place::Untyped, Place::Struct)
        }
        None => Place::root(kind),
    };
    walk::check(root, change, "")
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut atomics = Vec::new();
    find_atomics(root, change, "", &mut atomics);
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    Ok(walk::merge(root, object.clone(), change))
}

/// Lists and objects that would be replaced whole: who names some fields of one does not mean to lose the others.
fn find_atomics(place: Place<'_>, change: &Value, path: &str, found: &mut Vec<String>) {
    match change {
        Value::Object(fields) => {
            if !place.is_object() {
                found.push(path.to_owned());
            }
            for (name, value) in fields {
                if let (inner, Some(_)) = place.child(name) {
                    find_atomics(inner, value, &format!("{path}.{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            if !place.is_list() {
                found.push(path.to_owned());
            }
            for (i, item) in items.iter().enumerate() {
                find_atomics(place.item(), item, &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::find;

    fn laid(group: &str, plural: &str, object: &Value, change: &Value) -> Result<Value, String> {
        overlay(find(group, "v1", plural).unwrap(), None, object, change)
    }

    #[test]
    fn what_is_named_is_merged_and_all_else_stays() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
        let change = json!({
            "metadata": {"labels": {"b": "2"}},
            "spec": {"initContainers": [{"name": "i", "image": "i:1"}], "containers": [{"name": "c", "env": [{"name": "E", "value": "x"}]}]},
        });
        assert_eq!(
            laid("", "pods", &pod, &change).unwrap(),
            json!({
                "metadata": {"labels": {"a": "1", "b": "2"}},
                "spec": {
                    "containers": [{"name": "c", "image": "c:1", "env": [{"name": "E", "value": "x"}]}],
                    "initContainers": [{"name": "i", "image": "i:1"}],
                },
            })
        );
    }

    #[test]
    fn what_would_be_replaced_whole_or_is_unknown_is_refused() {
        let deployment = json!({"spec": {"selector": {"matchLabels": {"app": "a"}}}});
        for (change, wanted) in [
            (
                json!({"spec": {"selector": {"matchLabels": {"b": "c"}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "args": ["x"]}]}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
            ),
            (
                json!({"spec": {"nonsense": 1}}),
                "failed to convert patch object to typed object: .spec.nonsense: field not declared in schema",
            ),
        ] {
            assert_eq!(laid("apps", "deployments", &deployment, &change).unwrap_err(), wanted, "{change}");
        }
    }

    #[test]
    fn a_part_of_another_kind_has_that_kinds_schema() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let shape = Some(("autoscaling", "v1", "Scale"));
        let scale = json!({"spec": {"replicas": 3}});
        let change = json!({"spec": {"replicas": 2}});
        assert_eq!(overlay(kind, shape, &scale, &change).unwrap(), change);
        assert!(overlay(kind, shape, &scale, &json!({"spec": {"paused": true}})).is_err());
    }
}
