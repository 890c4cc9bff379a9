//! Sequences of applies and other writes, and properties that hold for all of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::compare::compare;
use super::field_set::FieldSet;
use super::fields::fields_of;
use super::managers::Managers;
use super::merge::merge;
use super::merge_type::MergeType;
use super::path_element::PathElement;
use super::{Writer, apply, track};
use crate::kinds::Kind;
use crate::{Reason, Status, find};

fn deployments() -> &'static Kind {
    find("apps", "v1", "deployments").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn applied(live: &Value, config: &Value, manager: &str) -> Result<Value, Status> {
    apply(deployments(), live, config, &writer(manager), false)
}

fn forced(live: &Value, config: &Value, manager: &str) -> Value {
    apply(deployments(), live, config, &writer(manager), true).unwrap()
}

/// The object with a uid, which marks it as stored.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = "u".into();
    object
}

fn owners(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|entry| {
            format!("{}:{}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap())
        })
        .collect()
}

fn fields(object: &Value, manager: &str) -> Vec<String> {
    let managers = Managers::decode(&object["metadata"]["managedFields"]).unwrap();
    managers
        .0
        .iter()
        .filter(|(id, _)| id.name == manager)
        .flat_map(|(_, entry)| entry.fields.paths())
        .collect()
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "x"}, "spec": spec})
}

fn with_containers(containers: Value) -> Value {
    config(json!({"template": {"spec": {"containers": containers}}}))
}

#[test]
fn an_applied_object_is_owned_field_by_field() {
    let containers = json!([{"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]}]);
    let object = applied(&Value::Null, &with_containers(containers), "kubectl").unwrap();
    assert_eq!(owners(&object), ["kubectl:Apply"]);
    assert_eq!(
        fields(&object, "kubectl"),
        [
            ".spec.template.spec.containers[name=\"a\"]",
            ".spec.template.spec.containers[name=\"a\"].image",
            ".spec.template.spec.containers[name=\"a\"].name",
            ".spec.template.spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"]",
            ".spec.template.spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
        ]
    );
}

#[test]
fn a_field_that_is_no_longer_applied_is_removed_unless_another_manager_owns_it() {
    let two = json!({"replicas": 2, "paused": true, "minReadySeconds": 5});
    let live = stored(applied(&Value::Null, &config(two), "one").unwrap());
    let live = stored(applied(&live, &config(json!({"minReadySeconds": 5})), "two").unwrap());
    let live = applied(&live, &config(json!({"replicas": 2})), "one").unwrap();
    assert_eq!(live["spec"], json!({"replicas": 2, "minReadySeconds": 5}));
    assert_eq!(fields(&live, "one"), [".spec.replicas"]);
}

#[test]
fn a_conflict_names_the_path_and_the_owner() {
    let mut live = stored(applied(&Value::Null, &config(json!({"replicas": 1})), "kubectl").unwrap());
    let old = live.clone();
    live["spec"]["replicas"] = 5.into();
    track(deployments(), &old, &mut live, &Writer { subresource: "scale", ..writer("hpa") });
    assert_eq!(fields(&live, "hpa"), [".spec.replicas"]);
    assert_eq!(owners(&live), ["hpa:Update"]);
    let status = applied(&live, &config(json!({"replicas": 1})), "kubectl").unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let details = &status.to_value()["details"]["causes"][0];
    assert_eq!(details["reason"], "FieldManagerConflict");
    assert_eq!(details["field"], ".spec.replicas");
    assert_eq!((status.code, status.reason), (409, Reason::Conflict));

    let live = forced(&live, &config(json!({"replicas": 1})), "kubectl");
    assert_eq!(live["spec"]["replicas"], 1);
    assert_eq!(owners(&live), ["kubectl:Apply"]);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let live = stored(applied(&Value::Null, &config(json!({"replicas": 1, "paused": true})), "a").unwrap());
    let status = applied(&live, &config(json!({"replicas": 2, "paused": false})), "b").unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn managers_that_apply_the_same_value_share_the_field() {
    let one = config(json!({"replicas": 1}));
    let live = stored(applied(&Value::Null, &one, "a").unwrap());
    let live = stored(applied(&live, &one, "b").unwrap());
    // The second one changed nothing, so it has no time and comes first.
    assert_eq!(owners(&live), ["b:Apply", "a:Apply"]);
    let status = applied(&live, &config(json!({"replicas": 2})), "a").unwrap_err();
    assert!(status.message.contains("conflict with \"b\": .spec.replicas"), "{status}");
}

#[test]
fn an_applier_removes_its_own_list_items_only() {
    let live = stored(
        applied(&Value::Null, &with_containers(json!([{"name": "a"}, {"name": "b"}])), "one").unwrap(),
    );
    let sidecar = with_containers(json!([{"name": "side", "image": "s"}]));
    let live = stored(applied(&live, &sidecar, "injector").unwrap());
    let live = applied(&live, &with_containers(json!([{"name": "b"}])), "one").unwrap();
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"],
        json!([{"name": "b"}, {"name": "side", "image": "s"}])
    );
}

#[test]
fn a_struct_that_is_no_longer_applied_is_removed_with_its_defaults() {
    let mut live = stored(
        applied(&Value::Null, &config(json!({"strategy": {"type": "RollingUpdate"}})), "one").unwrap(),
    );
    live["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": "25%"});
    let live = applied(&live, &config(json!({"replicas": 1})), "one").unwrap();
    assert_eq!(live["spec"], json!({"replicas": 1}));
}

#[test]
fn kubectl_takes_over_the_fields_of_its_annotation() {
    let last = config(json!({"replicas": 1, "paused": true}));
    let mut object = last.clone();
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    let mut live = object.clone();
    track(deployments(), &Value::Null, &mut live, &writer("kubectl-client-side-apply"));
    let live = stored(live);
    let next = config(json!({"replicas": 3, "paused": true}));
    let other = applied(&live, &next, "argo").unwrap_err();
    assert_eq!(other.code, 409);
    let after = applied(&live, &next, "kubectl").unwrap();
    assert_eq!(after["spec"]["replicas"], 3);
    let annotation = &after["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(annotation.as_str().unwrap(), format!("{next}\n"));

    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 9.into();
    track(deployments(), &live, &mut scaled, &writer("kubectl-scale"));
    let status = applied(&scaled, &next, "kubectl").unwrap_err();
    assert!(
        status.message.ends_with("conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"),
        "{status}"
    );
}

#[test]
fn fields_from_before_the_first_apply_have_an_owner() {
    let live = stored(config(json!({"replicas": 4})));
    let status = applied(&live, &config(json!({"replicas": 1})), "a").unwrap_err();
    assert!(status.message.contains("\"before-first-apply\" using apps/v1: .spec.replicas"), "{status}");
}

#[test]
fn status_is_applied_through_its_subresource_only() {
    let with_status = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1}, "status": {"replicas": 7},
    });
    let live = stored(applied(&Value::Null, &with_status, "a").unwrap());
    assert_eq!(fields(&live, "a"), [".spec.replicas"]);
    let by_status = Writer { subresource: "status", ..writer("c") };
    let live = apply(deployments(), &live, &with_status, &by_status, false).unwrap();
    assert_eq!(fields(&live, "c"), [".status.replicas"]);
    assert_eq!(live["status"]["replicas"], 7);
}

#[test]
fn configurations_that_cannot_be_merged_are_refused() {
    for (config, wanted) in [
        (config(json!({"replcas": 1})), ".spec.replcas: field not declared in schema"),
        (
            with_containers(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            with_containers(json!([null])),
            ".spec.template.spec.containers: element 0: associative list with keys may not have a null element",
        ),
        (config(json!(3)), "(x/web; apps/v1, Kind=Deployment): .spec: expected map, got &{3}"),
        (
            config(json!({"replicas": "1", "paused": 5})),
            "errors:\n  .spec.replicas: expected numeric (int or float), got string\n  .spec.paused: expected boolean, got &{5}",
        ),
        (json!({"apiVersion": "v1", "kind": "Pod"}), "invalid object type: /v1, Kind=Pod"),
    ] {
        let status = applied(&Value::Null, &config, "a").unwrap_err();
        assert!(status.message.contains(wanted), "{status}");
    }
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(
        applied(&Value::Null, &managed, "a").unwrap_err().message,
        "metadata.managedFields must be nil"
    );
}

#[test]
fn an_empty_list_of_managers_resets_them() {
    let live = stored(applied(&Value::Null, &config(json!({"replicas": 1})), "a").unwrap());
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track(deployments(), &live, &mut new, &writer("b"));
    assert_eq!(new["metadata"].get("managedFields"), None);
    let mut kept = live.clone();
    kept["metadata"].as_object_mut().unwrap().remove("managedFields");
    track(deployments(), &live, &mut kept, &writer("b"));
    assert_eq!(kept["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn merged_lists_keep_the_order_of_both() {
    let ty = MergeType::root(find("", "v1", "pods").unwrap()).child("spec").0.child("containers").0;
    let names =
        |list: &[&str]| Value::from(list.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
    for (live, config, wanted) in [
        (&["a", "b"][..], &["b", "c"][..], &["a", "b", "c"][..]),
        (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
        (&["x", "a"], &["n", "a"], &["x", "n", "a"]),
        (&["a"], &[], &["a"]),
        (&[], &["a"], &["a"]),
    ] {
        assert_eq!(merge(ty, names(live), &names(config)), names(wanted));
    }
}

/// Configurations of a few values, so that they often overlap.
fn configs() -> impl Strategy<Value = Value> {
    let subset = |all: &'static [&'static str]| proptest::sample::subsequence(all, 0..=all.len());
    let env = (subset(&["E", "F"]), 0..2u8).prop_map(|(names, value)| {
        names.iter().map(|name| json!({"name": name, "value": value.to_string()})).collect::<Vec<_>>()
    });
    let container =
        (env, proptest::option::of(0..2u8), subset(&["x", "y"])).prop_map(|(env, image, args)| {
            let mut out = json!({});
            if let Some(image) = image {
                out["image"] = image.to_string().into();
            }
            if !env.is_empty() {
                out["env"] = env.into();
            }
            if !args.is_empty() {
                out["args"] = json!(args);
            }
            out
        });
    let containers =
        (subset(&["a", "b", "c"]), proptest::collection::vec(container, 3)).prop_map(|(names, made)| {
            let both = names.iter().zip(made);
            both.map(|(name, mut container)| {
                container["name"] = (*name).into();
                container
            })
            .collect::<Vec<_>>()
        });
    let labels = (subset(&["l", "m"]), 0..2u8);
    (labels, subset(&["f", "g"]), proptest::option::of(0..2u8), containers).prop_map(
        |((labels, value), finalizers, replicas, containers)| {
            let mut out = config(json!({}));
            for label in labels {
                out["metadata"]["labels"][label] = value.to_string().into();
            }
            if !finalizers.is_empty() {
                out["metadata"]["finalizers"] = json!(finalizers);
            }
            if let Some(replicas) = replicas {
                out["spec"]["replicas"] = replicas.into();
            }
            if !containers.is_empty() {
                out["spec"]["template"]["spec"]["containers"] = containers.into();
            }
            out
        },
    )
}

/// Whether the object has all fields of the configuration.
fn contains(ty: MergeType, object: &Value, config: &Value) -> bool {
    merge(ty, object.clone(), config) == *object
}

/// Whether the object has every path of a set.
fn has_paths(ty: MergeType, value: &Value, fields: &FieldSet) -> bool {
    fields.children.iter().all(|(element, part)| match element {
        PathElement::Field(name) => {
            value.get(name).is_some_and(|value| has_paths(ty.child(name).0, value, part))
        }
        _ => {
            let mut items = value.as_array().into_iter().flatten();
            let found = items.find(|item| ty.path_element(item).as_ref() == Ok(element));
            found.is_some_and(|item| has_paths(ty.item(), item, part))
        }
    })
}

/// The value without empty lists and objects.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let full = fields.iter().map(|(name, value)| (name.clone(), without_empty(value)));
            let full: serde_json::Map<_, _> = full.filter(|(_, value)| !value.is_null()).collect();
            if full.is_empty() { Value::Null } else { full.into() }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn applying_twice_changes_nothing(first in configs(), second in configs()) {
        let live = stored(forced(&Value::Null, &first, "a"));
        let once = forced(&live, &second, "b");
        let later = Writer { now: "2027-01-01T00:00:00Z", ..writer("b") };
        let twice = apply(deployments(), &once, &second, &later, false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn applied_fields_exist_and_are_owned(first in configs(), second in configs(), third in configs()) {
        let root = MergeType::root(deployments());
        let live = stored(forced(&Value::Null, &first, "a"));
        let live = forced(&live, &second, "b");
        let live = forced(&live, &third, "a");
        prop_assert!(contains(root, &live, &third), "{}", live);
        prop_assert_eq!(&live["metadata"]["name"], "web");
        let managers = Managers::decode(&live["metadata"]["managedFields"]).unwrap();
        for entry in managers.0.values() {
            prop_assert!(has_paths(root, &live, &entry.fields), "{}", live);
        }
    }

    #[test]
    fn only_the_last_configuration_of_a_lone_applier_stays(first in configs(), second in configs()) {
        let live = stored(forced(&Value::Null, &first, "a"));
        let live = forced(&live, &second, "a");
        let fresh = stored(forced(&Value::Null, &second, "a"));
        prop_assert_eq!(fields(&live, "a"), fields(&fresh, "a"));
        // A struct that lost its fields may stay as an empty object.
        prop_assert_eq!(without_empty(&live["spec"]), without_empty(&fresh["spec"]));
        for field in ["labels", "finalizers"] {
            prop_assert_eq!(&live["metadata"][field], &fresh["metadata"][field]);
        }
    }

    #[test]
    fn a_write_owns_what_it_changes_and_nothing_else(first in configs(), second in configs()) {
        let live = stored(forced(&Value::Null, &first, "a"));
        let mut new = second;
        new["metadata"]["uid"] = "u".into();
        new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
        let unchanged = { let mut same = live.clone(); track(deployments(), &live, &mut same, &writer("b")); same };
        prop_assert_eq!(&unchanged, &live);
        track(deployments(), &live, &mut new, &writer("b"));
        let status = applied(&new, &first, "a");
        let root = MergeType::root(deployments());
        // The first applier meets a conflict exactly where the other wrote another value.
        match status {
            Ok(object) => prop_assert!(contains(root, &object, &first)),
            Err(status) => prop_assert!(status.message.contains("conflict with \"b\" using apps/v1")
                || status.message.contains("conflicts with \"b\" using apps/v1"), "{}", status),
        }
    }

    #[test]
    fn the_old_fields_with_the_changes_are_the_new_fields(first in configs(), second in configs()) {
        let root = MergeType::root(deployments());
        let changes = compare(root, Some(&first), Some(&second));
        let mut all = fields_of(root, &first);
        all.subtract(&changes.removed);
        all.union(&changes.changed);
        all.subtract(&fields_of(root, &second));
        prop_assert!(all.paths().iter().all(|path| !path.ends_with(']')), "{:?}", all.paths());
    }
}
