//! Claims and volumes find each other, are provisioned, released and deleted.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cache::{Key, Kind, Object};
use crate::controllers::ephemeral_volume::EphemeralVolumes;
use crate::controllers::persistent_volume::PersistentVolumes;
use crate::runner::sim::{Fate, Sim};

const SELECTED: &str = "volume.kubernetes.io/selected-node";

fn sim() -> Sim {
    Sim::new(vec![Box::new(PersistentVolumes), Box::new(EphemeralVolumes)])
}

fn merged(mut base: Value, more: Value) -> Value {
    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                more.into_iter()
                    .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, more) => *into = more,
        }
    }
    merge(&mut base, more);
    base
}

fn claim(name: &str, more: Value) -> PersistentVolumeClaim {
    let base = json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
        "status": {"phase": "Pending"},
    });
    serde_json::from_value(merged(base, more)).unwrap()
}

fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
    let base = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "hostPath": {"path": "/data"},
            "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Pending"},
    });
    serde_json::from_value(merged(base, more)).unwrap()
}

fn class(name: &str, more: Value) -> StorageClass {
    let base = json!({"metadata": {"name": name}, "provisioner": "skep.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete", "allowVolumeExpansion": true});
    serde_json::from_value(merged(base, more)).unwrap()
}

fn node(name: &str) -> Node {
    let annotations = json!({"skep.io/local-path-folder": "/var/lib/skep/volumes"});
    let labels = json!({"kubernetes.io/hostname": name});
    serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations, "labels": labels}}))
        .unwrap()
}

fn claim_key(name: &str) -> Key {
    Key::new("ns", name)
}

fn json_of(sim: &Sim, kind: Kind, key: &Key) -> Value {
    match sim.get(kind, key) {
        Some(Object::PersistentVolume(volume)) => serde_json::to_value(&*volume).unwrap(),
        Some(Object::PersistentVolumeClaim(claim)) => serde_json::to_value(&*claim).unwrap(),
        other => panic!("{key}: {other:?}"),
    }
}

fn the_claim(sim: &Sim, name: &str) -> Value {
    json_of(sim, Kind::PersistentVolumeClaim, &claim_key(name))
}

fn the_volume(sim: &Sim, name: &str) -> Value {
    json_of(sim, Kind::PersistentVolume, &Key::cluster(name))
}

fn reasons(sim: &Sim) -> Vec<&'static str> {
    let mut reasons: Vec<_> = sim.records.iter().map(|record| record.reason).collect();
    reasons.dedup();
    reasons
}

#[test]
fn a_claim_gets_the_smallest_volume_that_suits_it() {
    let mut sim = sim();
    sim.create(volume("large", "9Gi", json!({})));
    sim.create(volume("small", "2Gi", json!({})));
    sim.create(volume("tiny", "1Mi", json!({})));
    sim.create(volume("block", "1Gi", json!({"spec": {"volumeMode": "Block"}})));
    sim.create(volume("shared", "1Gi", json!({"spec": {"accessModes": ["ReadWriteMany"]}})));
    sim.create(volume("classed", "1Gi", json!({"spec": {"storageClassName": "x"}})));
    sim.create(claim("data", json!({})));
    sim.settle();
    let (claim, volume) = (the_claim(&sim, "data"), the_volume(&sim, "small"));
    assert_eq!(claim["spec"]["volumeName"], "small");
    assert_eq!((&claim["status"]["phase"], &volume["status"]["phase"]), (&json!("Bound"), &json!("Bound")));
    assert_eq!(claim["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(
        claim["metadata"]["annotations"],
        json!({
            "pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
        })
    );
    assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);
    assert_eq!(the_volume(&sim, "large")["status"]["phase"], "Available");
}

#[test]
fn a_selector_and_a_reservation_decide() {
    let mut sim = sim();
    sim.create(volume("plain", "1Gi", json!({})));
    sim.create(volume("fast", "5Gi", json!({"metadata": {"labels": {"disk": "ssd"}}})));
    let reserved = json!({"spec": {"claimRef": {"namespace": "ns", "name": "mine"}}});
    sim.create(volume("reserved", "8Gi", reserved));
    sim.create(claim("ssd", json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}})));
    sim.create(claim("mine", json!({})));
    sim.settle();
    assert_eq!(the_claim(&sim, "ssd")["spec"]["volumeName"], "fast");
    assert_eq!(the_claim(&sim, "mine")["spec"]["volumeName"], "reserved");
    let annotations = &the_volume(&sim, "reserved")["metadata"]["annotations"];
    assert!(annotations["pv.kubernetes.io/bound-by-controller"].is_null(), "an administrator bound it");
}

#[test]
fn a_claim_that_names_a_volume_gets_it_or_says_why_not() {
    let mut sim = sim();
    sim.create(volume("mine", "1Gi", json!({})));
    sim.create(volume("tiny", "1Mi", json!({})));
    sim.create(claim("a", json!({"spec": {"volumeName": "mine"}})));
    sim.create(claim("b", json!({"spec": {"volumeName": "tiny"}})));
    sim.settle();
    sim.create(claim("c", json!({"spec": {"volumeName": "mine"}})));
    sim.create(claim("d", json!({"spec": {"volumeName": "none"}})));
    sim.settle();
    assert_eq!(the_claim(&sim, "a")["status"]["phase"], "Bound");
    for name in ["b", "c", "d"] {
        assert_eq!(the_claim(&sim, name)["status"]["phase"], "Pending", "{name}");
    }
    let messages: Vec<&str> = sim.records.iter().map(|record| record.message.as_str()).collect();
    assert!(
        messages.contains(&"Cannot bind to requested volume \"tiny\": requested PV is too small"),
        "{messages:?}"
    );
    assert!(messages.contains(&"volume \"mine\" already bound to a different claim."), "{messages:?}");
    sim.create(volume("none", "1Gi", json!({})));
    sim.settle();
    assert_eq!(the_claim(&sim, "d")["status"]["phase"], "Bound", "the volume came later");
}

#[test]
fn without_a_class_a_claim_waits_for_a_volume_and_gets_the_default_class_when_there_is_one() {
    let mut sim = sim();
    sim.create(claim("none", json!({})));
    let mut open = claim("open", json!({}));
    open.spec.as_mut().unwrap().storage_class_name = None;
    sim.create(open);
    sim.settle();
    assert_eq!(reasons(&sim), ["FailedBinding"]);
    let default =
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    sim.create(class("local-path", default));
    sim.settle();
    assert_eq!(the_claim(&sim, "open")["spec"]["storageClassName"], "local-path");
    assert_eq!(the_claim(&sim, "none")["spec"]["storageClassName"], "");
    assert_eq!(reasons(&sim).last(), Some(&"WaitForFirstConsumer"));
}

#[test]
fn the_built_in_class_makes_a_volume_on_the_selected_node_and_deletes_it_with_the_claim() {
    let mut sim = sim();
    sim.create(class("local-path", json!({})));
    sim.create(node("n1"));
    sim.create(claim("data", json!({"spec": {"storageClassName": "local-path"}})));
    sim.settle();
    assert_eq!(reasons(&sim), ["WaitForFirstConsumer"]);
    sim.patch(
        Kind::PersistentVolumeClaim,
        &claim_key("data"),
        json!({"metadata": {"annotations": {SELECTED: "n1"}}}),
    );
    sim.settle();
    let claim = the_claim(&sim, "data");
    let name = format!("pvc-{}", claim["metadata"]["uid"].as_str().unwrap());
    let volume = the_volume(&sim, &name);
    assert_eq!(claim["status"]["phase"], "Bound");
    assert_eq!(
        claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"],
        "skep.io/local-path"
    );
    assert_eq!(volume["spec"]["local"]["path"], format!("/var/lib/skep/volumes/{name}"));
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert_eq!(volume["metadata"]["labels"]["skep.io/local-path-node"], "n1");
    assert_eq!(volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], "skep.io/local-path");
    let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(term["values"], json!(["n1"]));
    let last = sim.records.last().unwrap();
    assert_eq!(last.message, format!("Successfully provisioned volume {name} using skep.io/local-path"));

    let larger = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    sim.patch(Kind::PersistentVolumeClaim, &claim_key("data"), larger);
    sim.settle();
    assert_eq!(the_volume(&sim, &name)["spec"]["capacity"]["storage"], "3Gi");
    assert_eq!(the_claim(&sim, "data")["status"]["capacity"]["storage"], "3Gi");

    sim.remove(Kind::PersistentVolumeClaim, &claim_key("data"));
    sim.settle();
    assert!(sim.all(Kind::PersistentVolume).is_empty());
}

#[test]
fn what_a_folder_cannot_be_is_refused() {
    let of = |spec: Value, class_more: Value| {
        let mut sim = sim();
        sim.create(class("local-path", class_more));
        sim.create(node("n1"));
        let selected = json!({"metadata": {"annotations": {SELECTED: "n1"}}, "spec": {"storageClassName": "local-path"}});
        sim.create(claim("data", merged(selected, json!({"spec": spec}))));
        sim.settle();
        assert!(sim.all(Kind::PersistentVolume).is_empty(), "{spec}");
        let last = sim.records.last().unwrap();
        assert_eq!(last.reason, "ProvisioningFailed");
        last.message.clone()
    };
    assert!(
        of(json!({"accessModes": ["ReadWriteMany"]}), json!({})).contains("ReadWriteMany is not supported")
    );
    assert!(of(json!({"volumeMode": "Block"}), json!({})).contains("block volumes"));
    assert!(of(json!({"selector": {}}), json!({})).contains("selector"));
    assert!(of(json!({}), json!({"mountOptions": ["ro"]})).contains("mount options [\"ro\"]"));
    assert!(of(json!({}), json!({"parameters": {"path": "/etc"}})).contains("unknown parameter \"path\""));
    assert!(of(json!({"storageClassName": "other"}), json!({})).contains("\"other\" not found"));
    assert!(
        of(json!({}), json!({"provisioner": "kubernetes.io/no-provisioner"}))
            .contains("no volume plugin matched")
    );
}

#[test]
fn a_claim_for_a_node_that_is_gone_goes_back_to_the_scheduler() {
    let mut sim = sim();
    sim.create(class("local-path", json!({})));
    let selected =
        json!({"metadata": {"annotations": {SELECTED: "n1"}}, "spec": {"storageClassName": "local-path"}});
    sim.create(claim("data", selected));
    sim.settle();
    assert!(the_claim(&sim, "data")["metadata"]["annotations"][SELECTED].is_null());
    assert!(sim.records.iter().any(|r| r.message == "Failed to get target node: node \"n1\" not found"));
}

#[test]
fn another_provisioner_learns_of_the_claim_by_its_annotation() {
    let mut sim = sim();
    sim.create(class("fast", json!({"provisioner": "csi.example.com", "volumeBindingMode": "Immediate"})));
    sim.create(claim("data", json!({"spec": {"storageClassName": "fast"}})));
    sim.settle();
    let annotations = &the_claim(&sim, "data")["metadata"]["annotations"];
    assert_eq!(annotations["volume.beta.kubernetes.io/storage-provisioner"], "csi.example.com");
    assert_eq!(reasons(&sim), ["ExternalProvisioning"]);
}

#[test]
fn the_policy_decides_about_a_released_volume() {
    for (policy, phase, reason) in [
        ("Retain", "Released", None),
        ("Delete", "Failed", Some("VolumeFailedDelete")),
        ("Recycle", "Failed", Some("VolumeFailedRecycle")),
    ] {
        let mut sim = sim();
        sim.create(volume("v", "1Gi", json!({"spec": {"persistentVolumeReclaimPolicy": policy}})));
        sim.settle();
        sim.create(claim("data", json!({})));
        sim.settle();
        assert_eq!(the_volume(&sim, "v")["status"]["phase"], "Bound");
        sim.remove(Kind::PersistentVolumeClaim, &claim_key("data"));
        sim.settle();
        assert_eq!(the_volume(&sim, "v")["status"]["phase"], phase, "{policy}");
        assert_eq!(sim.records.last().map(|record| record.reason), reason, "{policy}");
        sim.create(claim("data", json!({})));
        sim.settle();
        assert_eq!(the_claim(&sim, "data")["status"]["phase"], "Pending", "{policy}: data of another claim");
    }
}

#[test]
fn a_bound_claim_whose_volume_is_gone_is_lost() {
    let mut sim = sim();
    sim.create(volume("v", "1Gi", json!({})));
    sim.settle();
    sim.create(claim("data", json!({})));
    sim.settle();
    sim.remove(Kind::PersistentVolume, &Key::cluster("v"));
    sim.settle();
    assert_eq!(the_claim(&sim, "data")["status"]["phase"], "Lost");
    assert_eq!(reasons(&sim), ["ClaimLost"]);
}

#[test]
fn an_ephemeral_volume_gets_a_claim_that_its_pod_owns() {
    let pod = |name: &str| -> Pod {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]},
        }))
        .unwrap()
    };
    let mut sim = sim();
    sim.create(claim("b-scratch", json!({})));
    let owner = sim.create(pod("a"));
    sim.create(pod("b"));
    sim.settle();
    let made = the_claim(&sim, "a-scratch");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], json!(owner.meta().uid));
    assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
    let message =
        "ephemeral volume scratch: PVC \"ns/b-scratch\" was not created for pod \"ns/b\" (pod is not owner)";
    assert!(sim.records.iter().any(|record| record.message == message), "{:?}", sim.records);
    sim.remove(Kind::PersistentVolumeClaim, &claim_key("b-scratch"));
    sim.settle();
    assert_eq!(the_claim(&sim, "b-scratch")["metadata"]["ownerReferences"][0]["name"], "b");
}

#[derive(Clone, Debug)]
enum Op {
    Claim(u8, u8),
    Volume(u8, u8),
    DropClaim(u8),
    Deliver(u8),
    Decide,
    Perform(Fate),
}

fn op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![
        4 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::NeverSent),
    ];
    prop_oneof![
        (0..5u8, 1..4u8).prop_map(|(k, size)| Op::Claim(k, size)),
        (0..5u8, 1..4u8).prop_map(|(k, size)| Op::Volume(k, size)),
        (0..5u8).prop_map(Op::DropClaim),
        (1..9u8).prop_map(Op::Deliver),
        Just(Op::Decide),
        fate.prop_map(Op::Perform),
    ]
}

/// No volume serves two claims, and no claim two volumes.
fn check(sim: &Sim) {
    for object in sim.all(Kind::PersistentVolumeClaim) {
        let name = object.meta().name.clone().unwrap();
        let claim = the_claim(sim, &name);
        let Some(bound) = claim["spec"]["volumeName"].as_str() else { continue };
        let volume = the_volume(sim, bound);
        assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"], "{name} has {bound}");
    }
}

proptest! {
    #[test]
    fn no_volume_serves_two_claims_whatever_is_lost_on_the_way(ops in prop::collection::vec(op(), 1..60)) {
        let mut sim = sim();
        for op in ops {
            match op {
                Op::Claim(k, size) => {
                    let name = format!("c{k}");
                    if sim.get(Kind::PersistentVolumeClaim, &claim_key(&name)).is_none() {
                        let wanted = json!({"spec": {"resources": {"requests": {"storage": format!("{size}Gi")}}}});
                        sim.create(claim(&name, wanted));
                    }
                }
                Op::Volume(k, size) => {
                    let name = format!("v{k}");
                    if sim.get(Kind::PersistentVolume, &Key::cluster(&name)).is_none() {
                        sim.create(volume(&name, &format!("{size}Gi"), json!({})));
                    }
                }
                Op::DropClaim(k) => sim.remove(Kind::PersistentVolumeClaim, &claim_key(&format!("c{k}"))),
                Op::Deliver(count) => sim.deliver(count.into()),
                Op::Decide => sim.decide(),
                Op::Perform(fate) => sim.perform(fate),
            }
            check(&sim);
        }
        // A conflict on the way waits for its back-off.
        for _ in 0..5 {
            sim.advance(std::time::Duration::from_secs(3600));
            sim.settle();
        }
        check(&sim);
        let phases = |kind| {
            let phase = |object: Object| match object {
                Object::PersistentVolume(volume) => volume.status.clone().and_then(|status| status.phase),
                Object::PersistentVolumeClaim(claim) => claim.status.clone().and_then(|status| status.phase),
                _ => None,
            };
            sim.all(kind).into_iter().filter_map(phase).collect::<Vec<_>>()
        };
        let bound = |phases: &[String]| phases.iter().filter(|phase| *phase == "Bound").count();
        let (claims, volumes) = (phases(Kind::PersistentVolumeClaim), phases(Kind::PersistentVolume));
        prop_assert_eq!(bound(&claims), bound(&volumes), "{:?} {:?}", claims, volumes);
    }
}
