//! Stories of pods in simulated time.

mod change;
mod extremes;
mod world;

use serde_json::{Value, json};

use super::ProbeKind;
use world::{Life, World};

fn main_only(extra: Value) -> Value {
    let mut container = json!({"name": "main", "image": "img"});
    if let (Some(into), Some(from)) = (container.as_object_mut(), extra.as_object()) {
        into.extend(from.clone());
    }
    json!({"restartPolicy": "Always", "containers": [container]})
}

const SERVES: Life = Life::Serves { stops_after: 1 };

#[test]
fn a_pod_comes_up_and_is_ready() {
    let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
    world.pass(5);
    assert_eq!(world.order(), ["sandbox 0", "start main"]);
    assert_eq!((world.phase().as_str(), world.condition("Ready").as_str()), ("Running", "True"));
    assert_eq!(world.pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()), Some("10.1.0.2"));
}

#[test]
fn crashes_restart_after_0_10_20_40_seconds() {
    let mut world = World::new(main_only(json!({}))).live("main", [Life::Ends { after: 1, code: 1 }]);
    world.pass(80);
    // The sandbox takes a second; each run takes one.
    assert_eq!(world.times("start main"), [1, 2, 13, 34, 75]);
    assert_eq!(world.times("note BackOff").len(), 4);
    assert_eq!((world.waiting("main").as_str(), world.status("main").restart_count), ("CrashLoopBackOff", 4));
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_long_run_forgets_the_back_off() {
    let crash = Life::Ends { after: 1, code: 1 };
    let lives = [crash.clone(), crash.clone(), Life::Ends { after: 700, code: 1 }, crash];
    let mut world = World::new(main_only(json!({}))).live("main", lives);
    world.pass(730);
    // The third begins at 13 and ends at 713: restarted at once, and the wait is 10 s again.
    assert_eq!(world.times("start main"), [1, 2, 13, 713, 724]);
}

#[test]
fn on_failure_runs_until_success_and_never_runs_once() {
    let lives = [Life::Ends { after: 1, code: 1 }, Life::Ends { after: 1, code: 0 }];
    let mut spec = main_only(json!({}));
    spec["restartPolicy"] = json!("OnFailure");
    let mut world = World::new(spec.clone()).live("main", lives.clone());
    world.pass(10);
    assert_eq!((world.phase().as_str(), world.status("main").restart_count), ("Succeeded", 1));
    spec["restartPolicy"] = json!("Never");
    let mut world = World::new(spec).live("main", lives);
    world.pass(10);
    assert_eq!((world.phase().as_str(), world.status("main").restart_count), ("Failed", 0));
    assert_eq!(world.order(), ["sandbox 0", "start main", "stop sandbox"]);
    assert_eq!(world.condition("Ready"), "False");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "main"}],
        "initContainers": [{"name": "a"}, {"name": "b"}]});
    let lives = [Life::Ends { after: 1, code: 1 }, Life::Ends { after: 3, code: 0 }];
    let mut world = World::new(spec)
        .live("a", lives)
        .live("b", [Life::Ends { after: 2, code: 0 }])
        .live("main", [SERVES]);
    world.pass(4);
    assert_eq!((world.phase().as_str(), world.waiting("main").as_str()), ("Pending", "PodInitializing"));
    assert_eq!(world.condition("Initialized"), "False");
    world.pass(10);
    assert_eq!(world.order(), ["sandbox 0", "start a", "start a", "start b", "start main"]);
    assert_eq!((world.phase().as_str(), world.condition("Initialized").as_str()), ("Running", "True"));
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "main"}], "initContainers": [{"name": "a"}]});
    let mut world = World::new(spec).live("a", [Life::Ends { after: 1, code: 3 }]);
    world.pass(60);
    assert_eq!(world.order(), ["sandbox 0", "start a", "stop sandbox"]);
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn sidecars_start_before_and_stop_after_the_main_container() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "main"}], "initContainers": [
        {"name": "one", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}},
        {"name": "two", "restartPolicy": "Always"}]});
    let mut world = World::new(spec)
        .live("one", [SERVES])
        .live("two", [SERVES])
        .live("main", [Life::Ends { after: 5, code: 0 }]);
    world.probes.insert(("one".into(), ProbeKind::Startup), false);
    world.pass(2);
    assert_eq!(world.order(), ["sandbox 0", "start one"]);
    world.probes.clear();
    world.pass(20);
    assert_eq!(
        world.order(),
        ["sandbox 0", "start one", "start two", "start main", "kill two 30", "kill one 30", "stop sandbox"]
    );
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn deletion_kills_reports_removes_and_only_then_deletes() {
    let mut spec = main_only(json!({}));
    spec["terminationGracePeriodSeconds"] = json!(30);
    let mut world = World::new(spec).live("main", [Life::Serves { stops_after: 7 }]);
    world.pass(5);
    world.delete(30);
    world.api_up = false;
    world.pass(10);
    assert_eq!(world.times("kill main 30"), [5]);
    assert_eq!(world.times("stop sandbox"), [12]);
    assert!(world.times("clean up").is_empty(), "how it ended must reach the API server first");
    world.api_up = true;
    world.pass(5);
    assert_eq!(world.order()[2..], ["kill main 30", "stop sandbox", "clean up", "delete"]);
    assert!(world.finished);
    let ended = world.status("main").state.and_then(|s| s.terminated).map(|t| t.exit_code);
    assert_eq!((ended, world.phase().as_str()), (Some(143), "Failed"));
}

#[test]
fn a_pod_that_stops_is_asked_whether_it_is_ready_and_for_nothing_else() {
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 2, "failureThreshold": 1});
    let spec = main_only(json!({"readinessProbe": probe, "livenessProbe": probe}));
    let mut world = World::new(spec).live("main", [Life::Serves { stops_after: 100 }]);
    world.pass(5);
    world.delete(60);
    world.pass(5);
    assert_eq!(world.condition("Ready"), "True", "it serves until it says otherwise");
    for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
        world.probes.insert(("main".into(), kind), false);
    }
    world.pass(5);
    assert_eq!(world.condition("Ready"), "False");
    assert_eq!(world.times("kill main 60"), [5], "no probe kills it once more");
    world.pass(60);
    assert!(world.finished);
}

#[test]
fn a_container_that_ignores_sigterm_dies_with_the_grace() {
    let mut world = World::new(main_only(json!({}))).live("main", [Life::Serves { stops_after: 1000 }]);
    world.pass(5);
    world.delete(20);
    world.pass(30);
    assert_eq!(world.times("stop sandbox"), [25]);
    assert!(world.finished);
}

#[test]
fn a_shorter_grace_kills_again() {
    let mut world = World::new(main_only(json!({}))).live("main", [Life::Serves { stops_after: 1000 }]);
    world.pass(5);
    world.delete(300);
    world.pass(10);
    world.delete(12);
    world.pass(10);
    assert_eq!(world.order()[2..5], ["kill main 300", "kill main 2", "stop sandbox"]);
    assert_eq!(world.times("stop sandbox"), [17]);
}

#[test]
fn a_removed_api_object_ends_the_pod_without_reports() {
    let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
    world.pass(5);
    world.observed.memory.gone = true;
    world.pass(5);
    assert_eq!(world.order()[2..], ["kill main 30", "stop sandbox", "clean up"]);
    assert!(world.finished);
}

#[test]
fn liveness_restarts_and_readiness_only_shows() {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 5, "failureThreshold": 2});
    let extra = json!({"livenessProbe": probe, "readinessProbe": probe});
    let mut world = World::new(main_only(extra)).live("main", [SERVES]);
    world.pass(6);
    assert_eq!(world.condition("Ready"), "True");
    world.probes.insert(("main".into(), ProbeKind::Readiness), false);
    world.pass(12);
    assert_eq!((world.condition("Ready").as_str(), world.status("main").restart_count), ("False", 0));
    world.probes.insert(("main".into(), ProbeKind::Liveness), false);
    world.pass(11);
    assert_eq!(world.times("kill main 30").len(), 1);
    assert_eq!(world.status("main").restart_count, 1);
    world.probes.clear();
    world.pass(60);
    assert_eq!((world.condition("Ready").as_str(), world.times("start main").len()), ("True", 2));
}

#[test]
fn liveness_waits_for_startup() {
    let extra = json!({
        "startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}});
    let mut world = World::new(main_only(extra)).live("main", [SERVES]);
    world.probes.insert(("main".into(), ProbeKind::Startup), false);
    world.probes.insert(("main".into(), ProbeKind::Liveness), false);
    world.pass(30);
    assert_eq!((world.times("start main").len(), world.status("main").started), (1, Some(false)));
    world.probes.clear();
    world.pass(5);
    assert_eq!((world.status("main").started, world.status("main").restart_count), (Some(true), 0));
}

#[test]
fn a_lost_sandbox_is_replaced_and_counts_as_restart() {
    let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
    world.pass(5);
    world.crash();
    world.pass(20);
    assert_eq!(world.order(), ["sandbox 0", "start main", "sandbox 1", "start main"]);
    assert_eq!((world.phase().as_str(), world.status("main").restart_count), ("Running", 1));
}

/// The agent before this one published the container, and ended before or after the container's start.
#[test]
fn a_lost_container_counts_as_restart_if_it_was_started() {
    let exited = json!({"terminated": {"exitCode": 1, "containerID": "containerd://lost"}});
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    let crashed = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    for (state, last, restarts) in [
        (waiting, json!({}), 2),
        (crashed, exited.clone(), 3),
        (json!({"running": {}}), json!({}), 3),
        (exited, json!({}), 3),
    ] {
        let status = json!({"containerStatuses": [{
            "name": "main", "restartCount": 2, "ready": false, "image": "", "imageID": "",
            "containerID": "containerd://lost", "state": state, "lastState": last,
        }]});
        let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
        world.pod.status = serde_json::from_value(status.clone()).ok();
        world.pass(20);
        assert_eq!(world.status("main").restart_count, restarts, "{status}");
    }
}

#[test]
fn an_unpullable_image_backs_off_and_shows_both_reasons() {
    let fails = Life::Fails { reason: "ErrImagePull", image: true };
    let mut world = World::new(main_only(json!({}))).live("main", [fails]);
    world.pass(1);
    assert_eq!(world.waiting("main"), "ErrImagePull");
    world.pass(2);
    assert_eq!((world.waiting("main").as_str(), world.phase().as_str()), ("ImagePullBackOff", "Pending"));
    world.pass(80);
    assert_eq!(world.times("start main"), [1, 11, 31, 71]);
}

#[test]
fn a_missing_config_is_tried_again_when_something_changes() {
    let fails = Life::Fails { reason: "CreateContainerConfigError", image: false };
    let mut world = World::new(main_only(json!({}))).live("main", [fails, SERVES]);
    world.pass(3);
    assert_eq!(world.waiting("main"), "CreateContainerConfigError");
    let now = world.now;
    world.observed.memory.retry_now(now);
    world.pass(1);
    assert_eq!((world.phase().as_str(), world.times("start main")), ("Running", vec![1, 3]));
}

#[test]
fn the_active_deadline_fails_the_pod_once_nothing_of_it_runs() {
    let mut spec = main_only(json!({}));
    spec["activeDeadlineSeconds"] = json!(20);
    let mut world = World::new(spec).live("main", [Life::Serves { stops_after: 10 }]);
    world.pass(25);
    assert_eq!(world.times("kill main 30"), [20]);
    assert_eq!(world.phase(), "Running");
    world.pass(35);
    let status = world.pod.status.clone().unwrap_or_default();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn restart_rules_of_a_container_beat_the_pods_policy() {
    let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut spec = main_only(json!({"restartPolicy": "Never", "restartPolicyRules": rule}));
    spec["restartPolicy"] = json!("Never");
    let lives = [Life::Ends { after: 1, code: 42 }, Life::Ends { after: 1, code: 1 }];
    let mut world = World::new(spec).live("main", lives);
    world.pass(60);
    assert_eq!((world.times("start main").len(), world.phase().as_str()), (2, "Failed"));
}

#[test]
fn old_containers_are_removed_and_the_last_two_stay() {
    let mut world = World::new(main_only(json!({}))).live("main", [Life::Ends { after: 1, code: 1 }]);
    world.pass(400);
    assert!(world.times("start main").len() > 4);
    assert_eq!(world.observed.containers.len(), 2);
}

#[test]
fn a_pod_deleted_before_it_ran_is_removed() {
    let mut world =
        World::new(main_only(json!({}))).live("main", [Life::Fails { reason: "ErrImagePull", image: true }]);
    world.pass(3);
    world.delete(30);
    world.pass(3);
    assert!(world.finished, "{:?}", world.story);
    assert_eq!(world.times("delete").len(), 1);
}

#[test]
fn failed_actions_are_repeated_with_growing_delays() {
    let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
    world.stop_failures = 4;
    world.pass(5);
    world.delete(1);
    world.pass(60);
    assert_eq!(world.times("stop sandbox"), [6, 7, 9, 13, 21]);
    assert!(world.finished);
}

#[test]
fn an_object_held_back_by_finalizers_is_not_deleted_again_and_again() {
    let mut world = World::new(main_only(json!({}))).live("main", [SERVES]);
    world.held_back = true;
    world.pass(5);
    world.delete(1);
    world.pass(100);
    assert_eq!(world.times("delete"), [6, 66]);
    world.observed.memory.gone = true;
    world.pass(1);
    assert!(world.finished);
}
