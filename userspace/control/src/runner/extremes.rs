//! Properties of every controller and of the scheduler, on objects with extreme numbers and times: no decision panics, and
//! none makes an unbounded number of actions. Arithmetic is checked in tests, so an overflow is a panic.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::core::{Core, MAX_ACTIONS};
use crate::Config;
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::clock::Now;
use crate::controllers;
use crate::scheduler::Scheduler;

/// Choices, made from random bytes.
struct Dice<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>);

impl Dice<'_> {
    fn roll(&mut self) -> usize {
        self.0.next().copied().map_or(0, usize::from)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll() % of.len()].clone()
    }

    fn chance(&mut self) -> bool {
        self.roll().is_multiple_of(2)
    }

    fn i32(&mut self) -> i32 {
        self.pick(&[i32::MIN, -1, 0, 1, 2, 3, 99, 100_001, i32::MAX - 1, i32::MAX])
    }

    /// A size that validation accepts.
    fn size(&mut self) -> i32 {
        self.i32().max(0)
    }

    fn i64(&mut self) -> i64 {
        self.pick(&[i64::MIN, -1, 0, 1, 30, 300_000_000_000, 9_000_000_000_000, i64::MAX - 1, i64::MAX])
    }

    fn time(&mut self) -> &'static str {
        self.pick(&[
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-28T19:00:00Z",
            "9999-12-30T21:59:59Z",
        ])
    }

    fn now(&mut self) -> Timestamp {
        let ordinary = Timestamp::from_second(1_800_000_000).unwrap();
        self.pick(&[ordinary, ordinary, Timestamp::UNIX_EPOCH, Timestamp::MIN, Timestamp::MAX])
    }

    fn quantity(&mut self) -> &'static str {
        self.pick(&["0", "1n", "100m", "1", "9223372036854775807", "8Ei", "1e30", "-9223372036854775808"])
    }

    fn percent_or_number(&mut self) -> Value {
        let number = self.i32();
        self.pick(&[json!(number), json!("0%"), json!("100%"), json!("9223372036854775807%"), json!("x")])
    }

    fn status(&mut self) -> &'static str {
        self.pick(&["True", "False", "Unknown"])
    }

    fn meta(&mut self, name: &str, owner: Option<(&str, &str)>) -> Value {
        let mut meta = json!({
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": {"app": "web"},
            "generation": self.i64(), "resourceVersion": "7", "creationTimestamp": self.time(),
            "annotations": {
                "deployment.kubernetes.io/revision": self.i64().to_string(),
                "deployment.kubernetes.io/desired-replicas": self.i32().to_string(),
                "deployment.kubernetes.io/max-replicas": self.i32().to_string(),
                "controller.kubernetes.io/pod-deletion-cost": self.i32().to_string(),
                "batch.kubernetes.io/job-completion-index": self.size().to_string(),
            },
        });
        if let Some((kind, owner)) = owner {
            let reference = json!({"apiVersion": "v1", "kind": kind, "name": owner, "uid": format!("uid-{owner}"),
                "controller": true});
            meta["ownerReferences"] = json!([reference]);
        }
        if self.roll().is_multiple_of(5) {
            meta["deletionTimestamp"] = json!(self.time());
            meta["deletionGracePeriodSeconds"] = json!(self.i64());
        }
        if self.chance() {
            meta["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
        }
        meta
    }

    fn pod_spec(&mut self) -> Value {
        let resources =
            json!({"cpu": self.quantity(), "memory": self.quantity(), "ephemeral-storage": self.quantity()});
        json!({
            "containers": [{"name": "c", "image": "i", "resources": {"requests": resources},
                "ports": [{"containerPort": self.i32(), "hostPort": self.i32()}]}],
            "tolerations": [{"operator": "Exists", "tolerationSeconds": self.i64()}],
            "terminationGracePeriodSeconds": self.i64(), "activeDeadlineSeconds": self.i64(), "priority": self.i32(),
            "topologySpreadConstraints": [{"maxSkew": self.i32(), "minDomains": self.i32(), "topologyKey": "zone",
                "whenUnsatisfiable": self.pick(&["DoNotSchedule", "ScheduleAnyway"]),
                "labelSelector": {"matchLabels": {"app": "web"}}}],
            "affinity": {
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": self.i32(),
                    "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}}]},
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": self.i32(),
                    "preference": {"matchExpressions": [{"key": "n", "operator": self.pick(&["Gt", "Lt", "Exists"]),
                        "values": [self.i64().to_string()]}]}}]},
            },
            "overhead": {"cpu": self.quantity()},
            "restartPolicy": self.pick(&["Always", "OnFailure", "Never"]),
        })
    }

    fn pod(&mut self, name: &str, owner: Option<(&str, &str)>) -> Value {
        let mut spec = self.pod_spec();
        if self.chance() {
            spec["nodeName"] = json!(self.pick(&["n1", "n2", "gone"]));
        }
        let conditions = json!([
            {"type": "Ready", "status": self.status(), "lastTransitionTime": self.time()},
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "lastTransitionTime": self.time()},
        ]);
        json!({"metadata": self.meta(name, owner), "spec": spec, "status": {
            "phase": self.pick(&["Pending", "Running", "Succeeded", "Failed"]), "conditions": conditions,
            "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}], "startTime": self.time(),
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                "restartCount": self.i32(),
                "state": {"terminated": {"exitCode": self.i32(), "finishedAt": self.time()}}}],
        }})
    }

    fn node(&mut self, name: &str) -> Value {
        let mut meta = self.meta(name, None);
        meta.as_object_mut().unwrap().remove("namespace");
        meta["labels"] = json!({"zone": self.pick(&["a", "b"]), "n": self.i64().to_string()});
        let sizes = json!({"cpu": self.quantity(), "memory": self.quantity(), "pods": self.quantity(),
            "ephemeral-storage": self.quantity()});
        let taints = json!([{"key": "k", "effect": self.pick(&["NoExecute", "NoSchedule"]), "timeAdded": self.time()}]);
        let mut spec = json!({"taints": taints});
        if self.chance() {
            let cidr = self.pick(&["0.0.0.0/0", "::/0", "255.255.255.255/32", "10.244.255.0/24", "fd00::/1"]);
            spec["podCIDRs"] = json!([cidr]);
        }
        let conditions = json!([{"type": "Ready", "status": self.status(), "lastTransitionTime": self.time(),
            "lastHeartbeatTime": self.time()}]);
        json!({"metadata": meta, "spec": spec, "status": {"allocatable": sizes, "capacity": sizes,
            "conditions": conditions, "images": [{"names": ["i"], "sizeBytes": self.i64()}]}})
    }

    fn template(&mut self) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": self.pod_spec()})
    }

    fn counts(&mut self) -> Value {
        let conditions = json!([{"type": "Progressing", "status": "True", "reason": "x",
            "lastUpdateTime": self.time(), "lastTransitionTime": self.time()}]);
        json!({"replicas": self.i32(), "readyReplicas": self.i32(), "availableReplicas": self.i32(),
            "updatedReplicas": self.i32(), "terminatingReplicas": self.i32(), "collisionCount": self.i32(),
            "observedGeneration": self.i64(), "conditions": conditions, "updateRevision": "r", "currentRevision": "r"})
    }

    fn set(&mut self, name: &str, owner: Option<(&str, &str)>) -> Value {
        json!({"metadata": self.meta(name, owner), "status": self.counts(), "spec": {
            "replicas": self.size(), "minReadySeconds": self.i32(), "template": self.template(),
            "selector": {"matchLabels": {"app": "web"}},
        }})
    }

    fn job(&mut self) -> Value {
        let mut status = json!({"startTime": self.time(), "active": self.i32(), "succeeded": self.i32(),
            "failed": self.i32(), "completedIndexes": self.pick(&["", "0-4294967295", "1,3-2147483646", "x"]),
            "uncountedTerminatedPods": {"succeeded": ["uid-j0", "gone"], "failed": ["gone2"]}});
        if self.chance() {
            let kind = self.pick(&["Complete", "Failed", "FailureTarget", "Suspended"]);
            status["conditions"] =
                json!([{"type": kind, "status": "True", "lastTransitionTime": self.time()}]);
        }
        let owner = self.chance().then_some(("CronJob", "c"));
        json!({"metadata": self.meta("j", owner), "status": status, "spec": {
            "activeDeadlineSeconds": self.i64(), "ttlSecondsAfterFinished": self.i32(), "backoffLimit": self.i32(),
            "parallelism": self.i32(), "completions": self.pick(&[json!(null), json!(i32::MAX), json!(3)]),
            "completionMode": self.pick(&["Indexed", "NonIndexed"]), "suspend": self.roll().is_multiple_of(5),
            "template": self.template(),
        }})
    }
}

impl Dice<'_> {
    fn cron_job(&mut self) -> Value {
        let schedules =
            ["* * * * *", "* * 1 1 *", "0 0 29 2 MON", "@every 1s", "@every 2562047h", "0 0 30 2 *", "x", ""];
        json!({"metadata": self.meta("c", None), "status": {"lastScheduleTime": self.time()}, "spec": {
            "schedule": self.pick(&schedules), "timeZone": self.pick(&["America/Santiago", "Etc/UTC", "Nowhere/At_All"]),
            "startingDeadlineSeconds": self.i64(), "suspend": self.roll().is_multiple_of(5),
            "successfulJobsHistoryLimit": self.i32(), "failedJobsHistoryLimit": self.i32(),
            "concurrencyPolicy": self.pick(&["Allow", "Forbid", "Replace"]),
            "jobTemplate": {"spec": {"template": self.template()}},
        }})
    }
}

fn typed<K: DeserializeOwned>(value: Value) -> Object
where
    Object: From<K>,
{
    let text = value.to_string();
    Object::from(serde_json::from_value::<K>(value).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Objects of every kind that controllers read.
fn objects(dice: &mut Dice<'_>) -> Vec<Object> {
    use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch};
    use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core};
    let mut all = vec![
        typed::<core::Node>(dice.node("n1")),
        typed::<core::Node>(dice.node("n2")),
        typed::<core::Namespace>(json!({"metadata": {"name": "ns", "uid": "uid-ns"}})),
        typed::<apps::ReplicaSet>(dice.set("rs", Some(("Deployment", "d")))),
        typed::<apps::ReplicaSet>(dice.set("old", Some(("Deployment", "d")))),
        typed::<batch::Job>(dice.job()),
        typed::<batch::CronJob>(dice.cron_job()),
    ];
    let lease = json!({"metadata": {"name": "n1", "namespace": "kube-node-lease", "resourceVersion": "7"},
        "spec": {"leaseDurationSeconds": dice.i32()}});
    all.push(typed::<coordination::Lease>(lease));
    let mut controller = dice.set("rc", None);
    controller["spec"]["selector"] = json!({"app": "web"});
    all.push(typed::<core::ReplicationController>(controller));
    let mut deployment = dice.set("d", None);
    deployment["spec"]["progressDeadlineSeconds"] = json!(dice.i32());
    deployment["spec"]["revisionHistoryLimit"] = json!(dice.i32());
    deployment["spec"]["paused"] = json!(dice.roll().is_multiple_of(5));
    deployment["spec"]["strategy"] = json!({"type": dice.pick(&["RollingUpdate", "Recreate"]), "rollingUpdate": {
        "maxSurge": dice.percent_or_number(), "maxUnavailable": dice.percent_or_number()}});
    all.push(typed::<apps::Deployment>(deployment));
    let mut stateful = dice.set("ss", None);
    stateful["spec"]["serviceName"] = json!("ss");
    stateful["spec"]["podManagementPolicy"] = json!(dice.pick(&["Parallel", "OrderedReady"]));
    stateful["spec"]["ordinals"] = json!({"start": dice.size()});
    stateful["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": dice.size()}});
    all.push(typed::<apps::StatefulSet>(stateful));
    let mut daemon = dice.set("ds", None);
    daemon["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": dice.percent_or_number()}});
    daemon["status"] = json!({"currentNumberScheduled": dice.i32(), "desiredNumberScheduled": dice.i32(),
        "numberMisscheduled": dice.i32(), "numberReady": dice.i32(), "collisionCount": dice.i32()});
    all.push(typed::<apps::DaemonSet>(daemon));
    for (name, owner) in [
        ("rs-1", Some(("ReplicaSet", "rs"))),
        ("rs-2", Some(("ReplicaSet", "rs"))),
        ("rc-1", Some(("ReplicationController", "rc"))),
        ("ss-0", Some(("StatefulSet", "ss"))),
        ("ss-2147483647", Some(("StatefulSet", "ss"))),
        ("ds-1", Some(("DaemonSet", "ds"))),
        ("j0", Some(("Job", "j"))),
        ("j1", Some(("Job", "j"))),
        ("single", None),
    ] {
        all.push(typed::<core::Pod>(dice.pod(name, owner)));
    }
    all.extend(around(dice));
    all
}

/// What refers to workloads: a budget, a Service with its endpoints, a pool of addresses, a certificate request.
fn around(dice: &mut Dice<'_>) -> Vec<Object> {
    use k8s_openapi::api::{certificates::v1 as certificates, core::v1 as core};
    use k8s_openapi::api::{discovery::v1 as discovery, policy::v1 as policy};
    let disrupted = json!({"rs-1": dice.time(), "gone": dice.time()});
    let key = dice.pick(&["minAvailable", "maxUnavailable"]);
    let budget = json!({"metadata": dice.meta("pdb", None),
        "spec": {"selector": {"matchLabels": {"app": "web"}}, key: dice.percent_or_number()},
        "status": {"disruptedPods": disrupted, "disruptionsAllowed": dice.i32(), "currentHealthy": dice.i32(),
            "desiredHealthy": dice.i32(), "expectedPods": dice.i32()}});
    let service = json!({"metadata": dice.meta("s", None), "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
        "type": dice.pick(&["ClusterIP", "LoadBalancer"]), "ports": [{"port": dice.i32(), "targetPort": dice.i32()}]}});
    let slice = json!({"metadata": dice.meta("s-x", Some(("Service", "s"))), "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.9"]}], "ports": [{"port": dice.i32()}]});
    let endpoints = json!({"metadata": dice.meta("s", None),
        "subsets": [{"addresses": [{"ip": "10.244.0.9"}], "ports": [{"port": dice.i32()}]}]});
    let pool = json!({"metadata": {"name": "pool", "uid": "uid-pool", "resourceVersion": "7"},
        "spec": {"cidrs": [dice.pick(&["0.0.0.0/0", "::/0", "255.255.255.255/32", "nonsense", "10.0.0.0/31"])]}});
    let request = json!({"metadata": {"name": "r", "uid": "uid-r", "creationTimestamp": dice.time()}, "spec": {
        "request": "YWJj", "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": [],
        "expirationSeconds": dice.i32()}});
    vec![
        typed::<policy::PodDisruptionBudget>(budget),
        typed::<core::Service>(service),
        typed::<discovery::EndpointSlice>(slice),
        typed::<core::Endpoints>(endpoints),
        typed::<crate::pool::LoadBalancerPool>(pool),
        typed::<certificates::CertificateSigningRequest>(request),
    ]
}

/// Every controller, as the runner has them.
fn all_controllers() -> Vec<Box<dyn Controller>> {
    controllers::all(&Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "ffff:ffff::/48".parse().unwrap()],
        ..Config::default()
    })
}

/// The keys that the controller asks to reconcile after the changes.
fn keys_of(controller: &dyn Controller, changes: &[Change], view: &View) -> Vec<Key> {
    let mut keys = Vec::new();
    changes.iter().for_each(|change| controller.route(change, view, &mut keys));
    keys.sort();
    keys.dedup();
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..Default::default() })]

    #[test]
    fn no_reconcile_panics_or_has_unbounded_actions(bytes in prop::collection::vec(any::<u8>(), 400..600)) {
        let mut dice = Dice(bytes.iter().cycle());
        let (now, steady) = (dice.now(), dice.now());
        let mut view = View::default();
        let objects = objects(&mut dice);
        let changes: Vec<Change> = objects.iter().filter_map(|o| view.watched(o.clone(), dice.now())).collect();
        let refused = Failure::Refused { code: 403, reason: "Forbidden".into(), message: "quota".into() };
        for controller in all_controllers() {
            let mut own = View::default();
            for object in objects.iter().filter(|o| controller.reads().contains(&o.kind())) {
                own.watched(object.clone(), view_time(&view, object));
            }
            for key in keys_of(&*controller, &changes, &view) {
                let failure = Some(&refused).filter(|_| dice.chance());
                let context = Context { now, steady, seed: 7, failure };
                let actions = controller.reconcile(&view, &key, context);
                prop_assert!(actions.len() <= MAX_ACTIONS, "{} {key}: {}", controller.name(), actions.len());
                let requeues = actions.iter().filter(|a| matches!(a, Action::RequeueAt(_))).count();
                prop_assert!(requeues <= objects.len());
                // What it does not declare to read has no influence, so it need not wait for it.
                let without = controller.reconcile(&own, &key, context);
                prop_assert_eq!(format!("{actions:?}"), format!("{without:?}"), "{} {}", controller.name(), key);
            }
        }
    }

    #[test]
    fn no_decision_of_the_scheduler_panics(bytes in prop::collection::vec(any::<u8>(), 400..600)) {
        let mut dice = Dice(bytes.iter().cycle());
        // At the last of all times no back-off lies ahead.
        let now = dice.now().min(Timestamp::from_second(1_800_000_000).unwrap());
        let mut scheduler = Scheduler::default();
        let objects = objects(&mut dice);
        let apply = |scheduler: &mut Scheduler, old: Option<&Object>, new: Option<&Object>| {
            scheduler.apply(&Change { old: old.cloned(), new: new.cloned() }, now);
        };
        objects.iter().for_each(|object| apply(&mut scheduler, None, Some(object)));
        let mut decisions = 0;
        while scheduler.next(now, bytes.len() as u64).is_some() {
            decisions += 1;
            prop_assert!(decisions < 200, "decisions do not end");
        }
        objects.iter().for_each(|object| apply(&mut scheduler, Some(object), None));
    }
}

/// When the view received the object.
fn view_time(view: &View, object: &Object) -> Timestamp {
    let key = Key::of(object.meta());
    let received = match object.kind() {
        Kind::Node => view.nodes.changed_at(&key),
        Kind::Lease => view.leases.changed_at(&key),
        _ => None,
    };
    received.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A controller that fails for one object.
struct Faulty;

impl Controller for Faulty {
    fn account(&self) -> &'static str {
        "faulty"
    }

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ConfigMap]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        keys.extend(change.object().map(|object| Key::of(object.meta())));
    }

    fn reconcile(&self, view: &View, key: &Key, _: Context<'_>) -> Vec<Action> {
        assert!(&*key.name != "bad", "injected");
        match view.config_maps.get(key) {
            Some(map) if map.data.is_none() => {
                let mut done = map.as_ref().clone();
                done.data = Some([("done".to_owned(), "yes".to_owned())].into());
                vec![Action::update(Object::ConfigMap(Arc::new(done)))]
            }
            _ => Vec::new(),
        }
    }
}

#[test]
fn a_panic_in_one_reconcile_is_an_event_and_a_back_off_of_that_object() {
    use std::time::Duration;

    use super::sim::{Fate, Sim};
    let mut sim = Sim::new(vec![Box::new(Faulty)]);
    let map = |name: &str| {
        typed::<k8s_openapi::api::core::v1::ConfigMap>(json!({
        "metadata": {"name": name, "namespace": "ns"}}))
    };
    for name in ["bad", "good"] {
        sim.create(map(name));
    }
    let mut attempts = 0;
    for _ in 0..40 {
        sim.deliver(usize::MAX);
        sim.decide();
        while !sim.tasks.is_empty() {
            attempts += usize::from(&*sim.tasks[0].item.1.name == "bad");
            sim.perform(Fate::Answered);
        }
        sim.advance(Duration::from_millis(10));
    }
    // After 0, 5, 15, 35, 75, 155 and 315 ms.
    assert!((4..=8).contains(&attempts), "{attempts} attempts in 400 ms");
    let Some(Object::ConfigMap(good)) = sim.get(Kind::ConfigMap, &Key::new("ns", "good")) else { panic!() };
    assert!(good.data.is_some(), "the other object is reconciled");
    let events: Vec<_> = sim.records.iter().filter(|r| &*r.key.name == "bad").collect();
    assert!(events.iter().all(|r| r.warning && r.reason == "ReconcilePanicked"), "{events:?}");
    assert!(events[0].message.contains("faulty panicked: injected"), "{}", events[0].message);
}

#[test]
fn a_kind_that_is_not_listed_holds_up_only_the_controllers_that_read_it() {
    let now = Now { wall: Timestamp::UNIX_EPOCH, steady: Timestamp::UNIX_EPOCH };
    let (mut core, mut view) =
        (Core::new(vec![Box::new(Faulty), Box::new(controllers::job::Jobs)], 7), View::default());
    let map = json!({"metadata": {"name": "good", "namespace": "ns"}});
    let map = typed::<k8s_openapi::api::core::v1::ConfigMap>(map);
    let change = view.watched(map, now.steady).unwrap();
    assert!(core.route(&[change], &view).is_empty());
    assert!(core.next_task(&view, now).is_none(), "nothing is listed");
    core.listed(Kind::ConfigMap);
    assert!(core.next_task(&view, now).is_some_and(|task| &*task.item.1.name == "good"));
    assert_eq!(core.waiting(), [("job", vec!["Job", "Pod"])]);
}
