//! Pods with numbers and times at the ends of their types: the plan never panics, and does a bounded number of things.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::plan::model::{ContainerState, Exit};
use crate::plan::*;

fn long() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(-1), Just(0), Just(1), Just(i64::MAX / 2), any::<i64>()]
}

fn int() -> impl Strategy<Value = i32> {
    prop_oneof![Just(i32::MAX), Just(i32::MIN), Just(-1), Just(0), Just(1), any::<i32>()]
}

fn time() -> impl Strategy<Value = Timestamp> {
    let (min, max) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    prop_oneof![
        Just(Timestamp::MIN),
        Just(Timestamp::MAX),
        Just(Timestamp::UNIX_EPOCH),
        (min..=max).prop_map(|s| Timestamp::from_second(s).expect("in range")),
    ]
}

fn probe() -> BoxedStrategy<Value> {
    (prop::array::uniform5(int()), prop::option::of(long()))
        .prop_map(|(numbers, grace)| {
            let [period, delay, timeout, successes, failures] = numbers;
            json!({"exec": {"command": ["x"]}, "periodSeconds": period, "initialDelaySeconds": delay,
            "timeoutSeconds": timeout, "successThreshold": successes, "failureThreshold": failures,
            "terminationGracePeriodSeconds": grace})
        })
        .boxed()
}

fn container(name: String) -> BoxedStrategy<Value> {
    let policy = prop::option::of(prop::sample::select(vec!["Always", "Never", "OnFailure"]));
    (prop::option::of(probe()), prop::option::of(probe()), prop::option::of(probe()), policy)
        .prop_map(move |(startup, liveness, readiness, policy)| {
            json!({"name": name, "image": "x", "startupProbe": startup, "livenessProbe": liveness,
                "readinessProbe": readiness, "restartPolicy": policy})
        })
        .boxed()
}

fn containers(prefix: &'static str, at_least: usize) -> BoxedStrategy<Vec<Value>> {
    (at_least..=3)
        .prop_flat_map(move |count| {
            (0..count).map(|number| container(format!("{prefix}{number}"))).collect::<Vec<_>>()
        })
        .boxed()
}

prop_compose! {
    fn pod()(
        init in containers("init", 0),
        main in containers("main", 1),
        grace in prop::option::of(long()),
        limit in prop::option::of(long()),
        policy in prop::sample::select(vec!["Always", "Never", "OnFailure"]),
        started in prop::option::of(time()),
        deleted in prop::option::of((time(), prop::option::of(long()))),
        phase in prop::option::of(prop::sample::select(vec!["Pending", "Running", "Failed", "Succeeded"])),
        restarts in int(),
    ) -> Value {
        let statuses: Vec<Value> = main.iter().map(|container| {
            json!({"name": container["name"], "restartCount": restarts, "ready": true, "image": "", "imageID": "",
                "containerID": "containerd://lost"})
        }).collect();
        let (deleted, asked) = deleted.unzip();
        json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "deletionTimestamp": deleted,
                "deletionGracePeriodSeconds": asked.flatten()},
            "spec": {"initContainers": init, "containers": main, "restartPolicy": policy,
                "terminationGracePeriodSeconds": grace, "activeDeadlineSeconds": limit},
            "status": {"phase": phase, "startTime": started, "containerStatuses": statuses},
        })
    }
}

fn state() -> BoxedStrategy<ContainerState> {
    let exit = (time(), time(), int()).prop_map(|(started, finished, code)| {
        let (reason, message) = (String::new(), String::new());
        ContainerState::Exited(Exit { started, finished, code, reason, message })
    });
    let running = time().prop_map(|started| ContainerState::Running { started });
    prop_oneof![Just(ContainerState::Created), Just(ContainerState::Unknown), running, exit].boxed()
}

prop_compose! {
    fn found()(
        states in prop::collection::vec((0..5_usize, state(), any::<u32>(), time()), 0..6),
        ready in any::<bool>(),
        created in time(),
        attempt in any::<u32>(),
        gone in any::<bool>(),
    ) -> Observed {
        let names = ["main0", "main1", "init0", "init1", "gone"];
        let containers = states.into_iter().enumerate().map(|(number, (name, state, attempt, created))| Container {
            id: format!("c{number}"),
            name: names[name].to_owned(),
            attempt,
            sandbox: "s".to_owned(),
            image: String::new(),
            image_id: String::new(),
            spec_image: None,
            cgroup: None,
            created,
            state,
        });
        let sandbox = Sandbox { id: "s".to_owned(), attempt, ready, created, ips: vec![[10, 0, 0, 2].into()], host_network: false };
        let memory = Memory { gone, volumes: model::Volumes::Ready, ..Default::default() };
        Observed { sandboxes: vec![sandbox], containers: containers.collect(), memory }
    }
}

fn failed(action: &Action) -> Outcome {
    let image = matches!(action, Action::Start { .. }).then(|| "x".to_owned());
    Outcome::Failed { reason: "ErrImagePull".to_owned(), message: String::new(), image }
}

proptest! {
    #[test]
    fn a_plan_never_panics_and_is_bounded(
        pod in pod().boxed(),
        observed in found().boxed(),
        times in prop::collection::vec(time(), 1..6),
        outcomes in prop::collection::vec(0..3_u8, 8),
    ) {
        let mut pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).expect("a pod");
        let mut observed = observed;
        let node = NodeView { ips: vec!["10.0.0.1".into()] };
        let bound = 4 * (specs(&pod).len() + observed.containers.len() + observed.sandboxes.len() + 2);
        for now in times {
            observed.observe_pod(&pod, now);
            let Plan { actions, status, .. } = plan(&pod, &observed, &node, now);
            prop_assert!(actions.len() <= bound, "{} actions", actions.len());
            for (action, outcome) in actions.iter().zip(outcomes.iter().cycle()) {
                observed.begin(action, now);
                let outcome = match (outcome, action) {
                    (0, _) => continue,
                    (1, _) => failed(action),
                    (_, Action::Probe { .. }) => Outcome::Probed { success: false, output: String::new() },
                    _ => Outcome::Done,
                };
                observed.finish(&pod, action, &outcome, now);
            }
            observed.memory.retry_now(now);
            observed.memory.reported = Some(status.clone());
            pod.status = Some(status);
        }
    }
}

#[test]
fn a_pod_that_is_gone_is_killed_soon_however_long_its_grace() {
    for grace in [i64::MAX, 1 << 40, 31] {
        let mut world = super::world::World::new(json!({
            "terminationGracePeriodSeconds": grace, "containers": [{"name": "main", "image": "x"}],
        }))
        .live("main", [super::world::Life::Serves { stops_after: 1 << 30 }]);
        world.pass(5);
        world.delete(grace);
        world.pass(5);
        assert!(!world.finished, "it has the time that its owner gave it");
        world.observed.memory.gone = true;
        world.pass(60);
        assert!(world.finished, "{grace}: {:?}", world.story);
    }
}

#[test]
fn the_end_of_time_is_the_latest_deadline() {
    assert_eq!(later(Timestamp::MAX, SignedDuration::MAX), Timestamp::MAX);
    assert_eq!(later(Timestamp::UNIX_EPOCH, SignedDuration::MIN), Timestamp::UNIX_EPOCH);
}
