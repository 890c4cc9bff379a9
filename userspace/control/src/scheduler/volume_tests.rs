//! Pods with claims: the nodes that their volumes allow, and what is written before they are bound.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::core::{Decision, Scheduler};
use crate::cache::{Change, Key, Object};

struct World {
    scheduler: Scheduler,
    now: Timestamp,
    revision: u64,
}

impl World {
    /// Two nodes, the built-in class and one of volumes that an administrator makes.
    fn new() -> World {
        let mut world = World { scheduler: Scheduler::default(), now: Timestamp::UNIX_EPOCH, revision: 0 };
        for name in ["n1", "n2"] {
            world.put::<Node>(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name},
                    "annotations": {"skep.io/local-path-folder": "/volumes"}},
                "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
            }));
        }
        for (name, provisioner, mode) in [
            ("local-path", "skep.io/local-path", "WaitForFirstConsumer"),
            ("manual", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
            ("now", "csi.example.com", "Immediate"),
        ] {
            world.put::<StorageClass>(
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}),
            );
        }
        world
    }

    fn put<K: serde::de::DeserializeOwned + Into<Object>>(&mut self, mut value: Value) {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if value["metadata"]["uid"].is_null() {
            value["metadata"]["uid"] = value["metadata"]["name"].clone();
        }
        let new: Object = serde_json::from_value::<K>(value).unwrap().into();
        self.scheduler.apply(&Change { old: None, new: Some(new) }, self.now);
    }

    fn claim(&mut self, name: &str, class: &str, more: Value) {
        let mut claim = json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        merge(&mut claim, more);
        self.put::<PersistentVolumeClaim>(claim);
    }

    fn bound_claim(&mut self, name: &str, class: &str, volume: &str) {
        let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let more = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}});
        self.claim(name, class, more);
    }

    fn volume(&mut self, name: &str, class: &str, node: &str, more: Value) {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": class,
                "local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}},
            "status": {"phase": "Available"},
        });
        merge(&mut volume, more);
        self.put::<PersistentVolume>(volume);
    }

    fn pod(&mut self, name: &str, claims: &[&str]) {
        self.put::<Pod>(pod(name, claims));
    }

    fn next(&mut self) -> Option<Decision> {
        self.scheduler.next(self.now, 1)
    }

    fn refusal(&mut self) -> String {
        match self.next() {
            Some(Decision::Refuse { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    }

    fn bound(&mut self) -> String {
        match self.next() {
            Some(Decision::Bind { node, .. }) => node.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The volumes that a decision reserves, and the claims with the node that it selects.
    fn prepares(&mut self) -> (String, Vec<Object>) {
        match self.next() {
            Some(Decision::PrepareVolumes { node, plan, .. }) => {
                let volumes = plan.volumes.into_iter().map(Object::from);
                (node.to_string(), volumes.chain(plan.claims.into_iter().map(Object::from)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn written(&mut self, pod: &str, objects: Vec<Object>) {
        let (key, now) = (Key::new("ns", pod), self.now);
        let objects = objects.into_iter().map(|object| {
            self.revision += 1;
            with_revision(object, self.revision)
        });
        let objects = objects.collect();
        self.scheduler.volumes_written(&key, pod, objects, now);
    }

    fn later(&mut self, seconds: i64) {
        self.now = Timestamp::from_second(self.now.as_second() + seconds).unwrap();
    }
}

fn with_revision(object: Object, revision: u64) -> Object {
    match object {
        Object::PersistentVolume(mut volume) => {
            Arc::make_mut(&mut volume).metadata.resource_version = Some(revision.to_string());
            Object::PersistentVolume(volume)
        }
        Object::PersistentVolumeClaim(mut claim) => {
            Arc::make_mut(&mut claim).metadata.resource_version = Some(revision.to_string());
            Object::PersistentVolumeClaim(claim)
        }
        other => other,
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, more) => *into = more,
    }
}

fn pod(name: &str, claims: &[&str]) -> Value {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"containers": [], "volumes": volumes}})
}

const NO_HELP: &str = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_pod_waits_for_claims_that_are_missing_lost_going_or_not_bound() {
    let mut world = World::new();
    world.pod("a", &["data"]);
    let why = "persistentvolumeclaim \"data\" not found";
    assert_eq!(world.refusal(), format!("0/2 nodes are available: {why}. {NO_HELP}"));
    world.claim("data", "now", json!({}));
    world.later(20);
    let why = "pod has unbound immediate PersistentVolumeClaims";
    assert_eq!(world.refusal(), format!("0/2 nodes are available: {why}. {NO_HELP}"));
    world.claim("data", "now", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}));
    world.later(20);
    assert!(world.refusal().contains("bound to non-existent persistentvolume \"v\""));
    world.claim("data", "now", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.later(20);
    assert!(world.refusal().contains("persistentvolumeclaim \"data\" is being deleted"));
    world.bound_claim("data", "now", "v");
    world.later(20);
    let why = "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
    assert_eq!(world.refusal(), format!("0/2 nodes are available: {why}. {NO_HELP}"));
    world.volume("v", "now", "n2", json!({}));
    world.later(20);
    assert_eq!(world.bound(), "n2");
}

#[test]
fn a_bound_volume_decides_about_the_node() {
    let mut world = World::new();
    world.volume("v", "manual", "n3", json!({}));
    world.bound_claim("data", "manual", "v");
    world.pod("a", &["data"]);
    let why = "2 node(s) didn't match PersistentVolume's node affinity";
    assert_eq!(world.refusal(), format!("0/2 nodes are available: {why}. {NO_HELP}"));
    world.put::<Node>(json!({"metadata": {"name": "n3", "labels": {"kubernetes.io/hostname": "n3"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}}));
    world.later(20);
    assert_eq!(world.bound(), "n3");
}

#[test]
fn a_volume_is_reserved_and_the_pod_bound_when_its_claim_is() {
    let mut world = World::new();
    world.volume("v", "manual", "n2", json!({}));
    world.claim("data", "manual", json!({}));
    world.claim("other", "manual", json!({}));
    world.pod("a", &["data"]);
    let (node, objects) = world.prepares();
    assert_eq!((node.as_str(), objects.len()), ("n2", 1));
    let Object::PersistentVolume(volume) = &objects[0] else { panic!("{objects:?}") };
    assert_eq!(volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.as_deref(), Some("data"));
    world.pod("b", &["other"]);
    let why = "2 node(s) didn't find available persistent volumes to bind";
    assert_eq!(world.refusal(), format!("0/2 nodes are available: {why}. {NO_HELP}"), "the volume is taken");
    world.written("a", objects);
    assert!(world.next().is_none(), "the binder has not bound the claim");
    world.bound_claim("data", "manual", "v");
    assert_eq!(world.bound(), "n2");
}

#[test]
fn a_node_is_selected_for_a_volume_that_is_to_be_made() {
    let mut world = World::new();
    world.claim("data", "local-path", json!({}));
    world.pod("a", &["data"]);
    let (node, objects) = world.prepares();
    let Object::PersistentVolumeClaim(claim) = &objects[0] else { panic!("{objects:?}") };
    let annotations = claim.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["volume.kubernetes.io/selected-node"], node);
    world.pod("b", &["data"]);
    assert!(world.next().is_none(), "another pod of the claim waits on the same node");
    world.written("a", objects);
    assert!(world.next().is_none());
    world.bound_claim("data", "local-path", "pvc-data");
    assert!(world.next().is_none(), "the event of the volume may come later than that of the claim");
    let of = json!({"spec": {"claimRef": {"namespace": "ns", "name": "data", "uid": "data"}}});
    world.volume("pvc-data", "local-path", &node, of);
    assert_eq!((world.bound(), world.bound()), (node.clone(), node));
}

#[test]
fn a_pod_is_tried_again_when_its_volume_cannot_be_made() {
    let mut world = World::new();
    world.claim("data", "local-path", json!({}));
    world.pod("a", &["data"]);
    let (_, objects) = world.prepares();
    world.written("a", objects);
    world.claim("data", "local-path", json!({}));
    let message = world.refusal();
    assert_eq!(message, "running PreBind plugin \"VolumeBinding\": provisioning failed for PVC \"data\"");
    world.later(20);
    let (_, objects) = world.prepares();
    world.written("a", objects);
    world.later(601);
    assert!(world.refusal().contains("context deadline exceeded"));
}

#[test]
fn a_failed_write_frees_what_was_taken() {
    let mut world = World::new();
    world.volume("v", "manual", "n2", json!({}));
    world.claim("data", "manual", json!({}));
    world.claim("other", "manual", json!({}));
    world.pod("a", &["data"]);
    world.prepares();
    world.scheduler.volumes_failed(&Key::new("ns", "a"), "a", Vec::new(), world.now);
    world.pod("b", &["other"]);
    assert_eq!(world.prepares().0, "n2");
}

#[test]
fn a_deleted_pod_leaves_its_room_and_its_volume() {
    let mut world = World::new();
    world.volume("v", "manual", "n2", json!({}));
    world.claim("data", "manual", json!({}));
    world.claim("other", "manual", json!({}));
    world.pod("a", &["data"]);
    world.prepares();
    let gone: Pod = serde_json::from_value(pod("a", &["data"])).unwrap();
    world.scheduler.apply(&Change { old: Some(gone.into()), new: None }, world.now);
    world.pod("b", &["other"]);
    assert_eq!(world.prepares().0, "n2");
    assert_eq!(world.scheduler.snapshot.nodes.values().map(|info| info.pods.len()).sum::<usize>(), 1);
}

#[test]
fn a_claim_of_one_pod_is_in_use_until_that_pod_is_gone() {
    let mut world = World::new();
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v", "accessModes": ["ReadWriteOncePod"]}});
    world.claim("data", "manual", bound);
    world.volume("v", "manual", "n1", json!({}));
    world.pod("a", &["data"]);
    assert_eq!(world.bound(), "n1");
    let mut placed = pod("a", &["data"]);
    placed["spec"]["nodeName"] = json!("n1");
    world.put::<Pod>(placed.clone());
    world.pod("b", &["data"]);
    let message = world.refusal();
    assert!(
        message.contains("1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod"),
        "{message}"
    );
    placed["metadata"]["uid"] = json!("a");
    let gone: Pod = serde_json::from_value(placed).unwrap();
    world.scheduler.apply(&Change { old: Some(gone.into()), new: None }, world.now);
    world.later(20);
    assert_eq!(world.bound(), "n1");
}

#[test]
fn a_pod_of_higher_priority_takes_a_claim_of_one_pod() {
    let mut world = World::new();
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v", "accessModes": ["ReadWriteOncePod"]}});
    world.claim("data", "manual", bound);
    world.volume("v", "manual", "n1", json!({}));
    let mut placed = pod("a", &["data"]);
    placed["spec"]["nodeName"] = json!("n1");
    world.put::<Pod>(placed);
    let mut great = pod("b", &["data"]);
    great["spec"]["priority"] = json!(10);
    world.put::<Pod>(great);
    match world.next() {
        Some(Decision::Refuse { plan: Some(plan), .. }) => {
            assert_eq!(plan.victims[0].metadata.name.as_deref(), Some("a"));
        }
        other => panic!("{other:?}"),
    }
}
