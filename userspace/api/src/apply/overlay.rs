//! The ApplyConfiguration of a mutating admission policy: merged like server-side apply, but without ownership.
//!
//! In: an object and a configuration. Out: the merged object, or an error if the configuration names atomic values.

use serde_json::Value;

use super::merge_type::{Atom, Declared, MergeType};
use super::{merge, validate};
use crate::kinds::Kind;
use crate::schema;

/// Merges `change` into the object. `body` is the group, version and kind of a subresource's body, such as Scale or
/// Eviction. Err: upstream's message.
pub fn overlay(
    kind: &Kind,
    body: Option<(&str, &str, &str)>,
    object: &Value,
    change: &Value,
) -> Result<Value, String> {
    let root = match body {
        Some((group, version, name)) => schema::of_kind(&format!("{group}/{version}/{name}"))
            .map_or(MergeType::Deduced, |schema| MergeType::Struct { schema, atomic: schema.atomic }),
        None => MergeType::root(kind),
    };
    validate::validate(root, change)
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut atomics = Vec::new();
    find_atomics(root, change, &mut String::new(), &mut atomics);
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    Ok(merge::merge(root, object.clone(), change))
}

/// Collects the paths of atomic lists and objects: merging one would drop the fields that the change does not name.
fn find_atomics(ty: MergeType<'_>, change: &Value, path: &mut String, found: &mut Vec<String>) {
    match change {
        Value::Object(fields) => {
            if ty.atom(Some(change)) != (Atom::Map { atomic: false }) {
                found.push(path.clone());
            }
            let length = path.len();
            for (name, value) in fields {
                if let (inner, Declared::Field) = ty.child(name) {
                    path.push('.');
                    path.push_str(name);
                    find_atomics(inner, value, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            if ty.atom(Some(change)) != (Atom::List { atomic: false }) {
                found.push(path.clone());
            }
            let length = path.len();
            for (i, item) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find_atomics(ty.item(), item, path, found);
                path.truncate(length);
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

    fn overlaid(group: &str, plural: &str, object: &Value, change: &Value) -> Result<Value, String> {
        overlay(find(group, "v1", plural).unwrap(), None, object, change)
    }

    #[test]
    fn named_fields_are_merged_and_the_others_stay() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
        let change = json!({
            "metadata": {"labels": {"b": "2"}},
            "spec": {"initContainers": [{"name": "i", "image": "i:1"}], "containers": [{"name": "c", "env": [{"name": "E", "value": "x"}]}]},
        });
        assert_eq!(
            overlaid("", "pods", &pod, &change).unwrap(),
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
    fn atomic_and_unknown_fields_are_refused() {
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
            assert_eq!(
                overlaid("apps", "deployments", &deployment, &change).unwrap_err(),
                wanted,
                "{change}"
            );
        }
    }

    #[test]
    fn the_body_of_a_subresource_has_its_own_schema() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let body = Some(("autoscaling", "v1", "Scale"));
        let scale = json!({"spec": {"replicas": 3}});
        let change = json!({"spec": {"replicas": 2}});
        assert_eq!(overlay(kind, body, &scale, &change).unwrap(), change);
        assert!(overlay(kind, body, &scale, &json!({"spec": {"paused": true}})).is_err());
    }
}
