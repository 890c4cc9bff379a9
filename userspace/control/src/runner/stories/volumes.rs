//! Claims, volumes and classes in use outlive their deletion.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::{Value, json};

use crate::cache::{Key, Kind};
use crate::controllers::volume_protection::VolumeProtection;
use crate::runner::sim::Sim;

const DELETED: &str = "2026-01-01T00:00:00Z";

fn sim(kind: Kind) -> Sim {
    Sim::new(vec![Box::new(VolumeProtection { kind })])
}

fn claim(metadata: Value) -> PersistentVolumeClaim {
    let mut claim =
        json!({"metadata": {"name": "data", "namespace": "ns"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    claim["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    serde_json::from_value(claim).unwrap()
}

fn pod(name: &str, node: Option<&str>, volumes: Value) -> Pod {
    let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
    let pod =
        json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-of-{name}")}, "spec": spec});
    serde_json::from_value(pod).unwrap()
}

fn finalizers(sim: &Sim, kind: Kind, key: &Key) -> Option<Vec<String>> {
    sim.get(kind, key).map(|object| object.meta().finalizers.clone().unwrap_or_default())
}

#[test]
fn a_claim_is_protected_and_goes_when_the_last_pod_that_uses_it_has_gone() {
    let (mut sim, key) = (sim(Kind::PersistentVolumeClaim), Key::new("ns", "data"));
    sim.create(claim(json!({})));
    sim.settle();
    let protected = Some(vec!["kubernetes.io/pvc-protection".to_owned()]);
    assert_eq!(finalizers(&sim, Kind::PersistentVolumeClaim, &key), protected);
    sim.create(pod("a", Some("n"), json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])));
    sim.patch(Kind::PersistentVolumeClaim, &key, json!({"metadata": {"deletionTimestamp": DELETED}}));
    sim.settle();
    assert_eq!(finalizers(&sim, Kind::PersistentVolumeClaim, &key), protected, "a pod uses it");
    sim.remove(Kind::Pod, &Key::new("ns", "a"));
    sim.settle();
    assert!(finalizers(&sim, Kind::PersistentVolumeClaim, &key).unwrap_or_default().is_empty());
}

#[test]
fn pods_that_cannot_use_a_claim_do_not_hold_it() {
    let ephemeral = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
    let named = |name: &str| json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
    // A pod without a node, one of another claim, one whose ephemeral claim is another object of the name.
    for pod in [
        pod("a", None, named("data")),
        pod("a", Some("n"), named("other")),
        pod("data", Some("n"), ephemeral),
    ] {
        let (mut sim, key) = (sim(Kind::PersistentVolumeClaim), Key::new("ns", "data"));
        sim.create(pod);
        sim.create(claim(
            json!({"finalizers": ["kubernetes.io/pvc-protection"], "deletionTimestamp": DELETED}),
        ));
        sim.settle();
        assert!(finalizers(&sim, Kind::PersistentVolumeClaim, &key).unwrap_or_default().is_empty());
    }
}

#[test]
fn other_finalizers_stay() {
    let (mut sim, key) = (sim(Kind::PersistentVolumeClaim), Key::new("ns", "data"));
    let all = ["x.io/y", "kubernetes.io/pvc-protection"];
    sim.create(claim(json!({"finalizers": all, "deletionTimestamp": DELETED})));
    sim.settle();
    assert_eq!(finalizers(&sim, Kind::PersistentVolumeClaim, &key), Some(vec!["x.io/y".to_owned()]));
}

#[test]
fn a_bound_volume_waits_until_it_is_released() {
    let (mut sim, key) = (sim(Kind::PersistentVolume), Key::cluster("v"));
    let volume = json!({
        "metadata": {"name": "v", "finalizers": ["kubernetes.io/pv-protection"], "deletionTimestamp": DELETED},
        "spec": {}, "status": {"phase": "Bound"},
    });
    sim.create(serde_json::from_value::<PersistentVolume>(volume).unwrap());
    sim.settle();
    assert_eq!(finalizers(&sim, Kind::PersistentVolume, &key).unwrap().len(), 1);
    sim.patch(Kind::PersistentVolume, &key, json!({"status": {"phase": "Released"}}));
    sim.settle();
    assert!(finalizers(&sim, Kind::PersistentVolume, &key).unwrap_or_default().is_empty());
}

#[test]
fn a_class_waits_until_no_claim_names_it() {
    let (mut sim, key) = (sim(Kind::VolumeAttributesClass), Key::cluster("fast"));
    let class = json!({
        "metadata": {"name": "fast", "finalizers": ["kubernetes.io/vac-protection"], "deletionTimestamp": DELETED},
        "driverName": "d.example.com",
    });
    let user = json!({
        "metadata": {"name": "data", "namespace": "ns"},
        "spec": {}, "status": {"currentVolumeAttributesClassName": "fast"},
    });
    sim.create(serde_json::from_value::<PersistentVolumeClaim>(user).unwrap());
    sim.create(serde_json::from_value::<VolumeAttributesClass>(class).unwrap());
    sim.settle();
    assert_eq!(finalizers(&sim, Kind::VolumeAttributesClass, &key).unwrap().len(), 1);
    sim.remove(Kind::PersistentVolumeClaim, &Key::new("ns", "data"));
    sim.settle();
    assert!(finalizers(&sim, Kind::VolumeAttributesClass, &key).unwrap_or_default().is_empty());
}
