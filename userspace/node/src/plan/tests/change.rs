//! Pods whose spec changes while they run: images and resources.

use serde_json::{Value, json};

use super::world::{Life, World};
use crate::allocation::Deferral;

const SERVES: Life = Life::Serves { stops_after: 1 };

fn resources(cpu: &str, memory: &str) -> Value {
    let list = json!({"cpu": cpu, "memory": memory});
    json!({"requests": list, "limits": list})
}

fn spec(policies: Value) -> Value {
    json!({"restartPolicy": "OnFailure", "containers": [
        {"name": "main", "image": "img", "resources": resources("1", "1Gi"), "resizePolicy": policies}]})
}

impl World {
    /// The spec's only container changes, and with it the generation.
    fn change(&mut self, change: impl Fn(&mut k8s_openapi::api::core::v1::Container)) {
        self.pod.metadata.generation = self.pod.metadata.generation.map(|generation| generation + 1);
        self.pod.spec.as_mut().expect("a spec").containers.iter_mut().for_each(change);
    }

    fn give(&mut self, cpu: &str, memory: &str) {
        let given = serde_json::from_value(resources(cpu, memory)).ok();
        self.change(|container| container.resources = given.clone());
    }

    fn resize_condition(&self, kind: &str) -> Option<(Option<String>, Option<String>, Option<i64>)> {
        let conditions = self.pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == kind)?;
        Some((found.reason, found.message, found.observed_generation))
    }

    fn limits(&self) -> Value {
        json!(self.status("main").resources.and_then(|r| r.limits))
    }
}

#[test]
fn more_resources_are_given_while_the_container_runs() {
    let mut world = World::new(spec(json!([]))).live("main", [SERVES]);
    world.pass(5);
    assert_eq!(world.limits(), json!({"cpu": "1", "memory": "1Gi"}));
    world.give("2", "2Gi");
    world.pass(0);
    let status = world.status("main");
    assert_eq!(json!(status.allocated_resources), json!({"cpu": "2", "memory": "2Gi"}));
    assert_eq!(world.limits(), json!({"cpu": "1", "memory": "1Gi"}), "they are not applied yet");
    assert_eq!(world.resize_condition("PodResizeInProgress"), Some((None, None, Some(2))));
    world.pass(5);
    assert_eq!(world.order(), ["sandbox 0", "start main", "resize main 2048 200000 2147483648"]);
    assert_eq!(
        (world.limits(), world.resize_condition("PodResizeInProgress")),
        (json!({"cpu": "2", "memory": "2Gi"}), None)
    );
    assert_eq!((world.status("main").restart_count, world.condition("Ready").as_str()), (0, "True"));
}

#[test]
fn a_resource_may_need_a_restart() {
    let policies = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
        {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
    let mut world = World::new(spec(policies)).live("main", [SERVES]);
    world.pass(5);
    world.give("2", "1Gi");
    world.pass(5);
    assert_eq!(world.status("main").restart_count, 0);
    world.give("2", "2Gi");
    world.pass(5);
    let expected =
        ["sandbox 0", "start main", "resize main 2048 200000 1073741824", "kill main 30", "start main"];
    assert_eq!(world.order(), expected);
    assert_eq!(world.status("main").restart_count, 1, "although the policy restarts failures only");
    assert_eq!((world.limits(), world.phase().as_str()), (json!({"cpu": "2", "memory": "2Gi"}), "Running"));
}

#[test]
fn a_resize_that_fails_says_so_and_is_tried_again() {
    let mut world = World::new(spec(json!([]))).live("main", [SERVES]);
    world.pass(5);
    world.resize_fails = true;
    world.give("500m", "1Mi");
    world.pass(20);
    let failed = Some((Some("Error".to_owned()), Some("too small".to_owned()), Some(2)));
    assert_eq!(world.resize_condition("PodResizeInProgress"), failed);
    assert_eq!(world.limits(), json!({"cpu": "1", "memory": "1Gi"}));
    let tries = world.times("resize main 512 50000 1048576").len();
    assert!((2..8).contains(&tries), "{tries}");
    world.resize_fails = false;
    world.pass(60);
    assert_eq!(world.resize_condition("PodResizeInProgress"), None);
    assert_eq!(world.limits(), json!({"cpu": "500m", "memory": "1Mi"}));
}

#[test]
fn a_resize_that_waits_is_a_condition() {
    let mut world = World::new(spec(json!([]))).live("main", [SERVES]);
    world.pass(5);
    world.observed.memory.deferral = Some(Deferral { reason: "Deferred", message: "no room".into() });
    world.pass(1);
    let waits = Some((Some("Deferred".to_owned()), Some("no room".to_owned()), Some(1)));
    assert_eq!(world.resize_condition("PodResizePending"), waits);
    world.observed.memory.deferral = None;
    world.pass(1);
    assert_eq!(world.resize_condition("PodResizePending"), None);
}

#[test]
fn another_image_replaces_the_container_whatever_the_restart_policy() {
    let mut spec = spec(json!([]));
    spec["restartPolicy"] = json!("Never");
    let mut world = World::new(spec).live("main", [SERVES]);
    world.pass(5);
    world.change(|container| container.image = Some("img:2".into()));
    world.pass(5);
    assert_eq!(world.order(), ["sandbox 0", "start main", "kill main 30", "start main"]);
    assert_eq!((world.status("main").restart_count, world.phase().as_str()), (1, "Running"));
}
