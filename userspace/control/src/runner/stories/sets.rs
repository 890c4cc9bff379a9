//! Stories of DaemonSets, StatefulSets and disruption budgets.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::work_once;
use crate::cache::{Key, Kind, Object};
use crate::controllers::{self, pods};
use crate::meta;
use crate::runner::sim::Sim;

fn sim() -> Sim {
    Sim::new(vec![
        Box::new(controllers::daemonset::DaemonSets),
        Box::new(controllers::statefulset::StatefulSets),
        Box::new(controllers::disruption::Disruption),
    ])
}

fn node(sim: &mut Sim, name: &str, taint: Option<&str>) {
    let taints: Vec<_> = taint.into_iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
    let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
    sim.create(serde_json::from_value::<Node>(node).unwrap());
}

fn template(version: u32) -> Value {
    json!({
        "metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": format!("x:{version}")}]},
    })
}

fn decide(sim: &mut Sim) {
    for _ in 0..10 {
        work_once(sim);
    }
}

fn names(sim: &Sim) -> Vec<String> {
    sim.pods().iter().map(|p| meta::name(&p.metadata).to_owned()).collect()
}

fn versions(sim: &Sim) -> Vec<String> {
    let image = |p: &Pod| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    sim.pods().iter().map(image).collect()
}

/// The node that a daemon pod's affinity names.
fn pinned(pod: &Pod) -> String {
    let value = serde_json::to_value(&pod.spec.as_ref().unwrap().affinity).unwrap();
    let terms = &value["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    terms[0]["matchFields"][0]["values"][0].as_str().unwrap().to_owned()
}

fn run_daemons(sim: &mut Sim) {
    for pod in sim.pods() {
        sim.kubelet(&Key::of(&pod.metadata), &pinned(&pod), true);
    }
}

#[test]
fn a_daemon_runs_once_on_every_node_that_it_tolerates() {
    let mut sim = sim();
    for name in ["n1", "n2"] {
        node(&mut sim, name, None);
    }
    node(&mut sim, "n3", Some("dedicated"));
    node(&mut sim, "n4", Some("node.kubernetes.io/unschedulable"));
    let set = json!({
        "metadata": {"name": "d", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(1)},
    });
    sim.create(serde_json::from_value::<DaemonSet>(set).unwrap());
    decide(&mut sim);
    let mut nodes: Vec<String> = sim.pods().iter().map(pinned).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n4"]);
    node(&mut sim, "n5", None);
    decide(&mut sim);
    assert_eq!(sim.pods().len(), 4);
    run_daemons(&mut sim);
    decide(&mut sim);
    let Some(Object::DaemonSet(set)) = sim.get(Kind::DaemonSet, &Key::new("ns", "d")) else { panic!() };
    let status = set.status.as_ref().unwrap();
    assert_eq!((status.desired_number_scheduled, status.number_ready), (4, 4));
    assert_eq!(status.updated_number_scheduled, Some(4));
}

#[test]
fn daemons_are_updated_one_node_at_a_time() {
    let mut sim = sim();
    for name in ["n1", "n2", "n3"] {
        node(&mut sim, name, None);
    }
    let set = json!({
        "metadata": {"name": "d", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(1)},
    });
    sim.create(serde_json::from_value::<DaemonSet>(set).unwrap());
    decide(&mut sim);
    run_daemons(&mut sim);
    decide(&mut sim);
    sim.patch(Kind::DaemonSet, &Key::new("ns", "d"), json!({"spec": {"template": template(2)}}));
    for _ in 0..8 {
        decide(&mut sim);
        let serving = sim.pods().iter().filter(|p| pods::active(p) && pods::ready(p)).count();
        assert!(serving >= 2, "{serving} serve");
        run_daemons(&mut sim);
    }
    assert_eq!(versions(&sim), ["x:2"; 3]);
    assert_eq!(sim.all(Kind::ControllerRevision).len(), 2);
}

#[test]
fn daemons_outlive_the_deletion_of_their_node_object() {
    let mut sim = sim();
    for name in ["bound", "unbound", "terminating"] {
        node(&mut sim, name, None);
    }
    let set = json!({
        "metadata": {"name": "d", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(1)},
    });
    sim.create(serde_json::from_value::<DaemonSet>(set).unwrap());
    decide(&mut sim);
    for pod in sim.pods().iter().filter(|p| pinned(p) != "unbound") {
        sim.kubelet(&Key::of(&pod.metadata), &pinned(pod), true);
    }
    let mark =
        json!({"metadata": {"deletionTimestamp": meta::time(sim.now), "finalizers": ["example.com/hold"]}});
    sim.patch(Kind::Node, &Key::cluster("terminating"), mark);
    sim.remove(Kind::Node, &Key::cluster("bound"));
    sim.remove(Kind::Node, &Key::cluster("unbound"));
    decide(&mut sim);
    let mut living: Vec<String> = sim.pods().iter().filter(|p| pods::active(p)).map(pinned).collect();
    living.sort();
    assert_eq!(living, ["bound", "terminating"]);
    node(&mut sim, "bound", None);
    decide(&mut sim);
    assert_eq!(sim.pods().iter().filter(|p| pods::active(p)).count(), 2, "no second one");
}

fn stateful(replicas: i32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "db", "namespace": "ns"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "x"}},
            "template": template(1),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        },
    }))
    .unwrap()
}

/// Starts pods and takes terminating ones away, one step each.
fn run_pods(sim: &mut Sim) {
    let due: Vec<Key> = sim
        .pods()
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_some() || pods::phase(p) == "Pending")
        .map(|p| Key::of(&p.metadata))
        .collect();
    due.iter().for_each(|key| sim.kubelet(key, "n1", true));
}

#[test]
fn stateful_pods_come_in_order_and_go_in_reverse_and_leave_their_claims() {
    let mut sim = sim();
    sim.create(stateful(3));
    for count in 1..=3 {
        decide(&mut sim);
        assert_eq!(sim.pods().len(), count, "each waits for the one before");
        run_pods(&mut sim);
    }
    decide(&mut sim);
    assert_eq!(names(&sim), ["db-0", "db-1", "db-2"]);
    sim.patch(Kind::StatefulSet, &Key::new("ns", "db"), json!({"spec": {"replicas": 1}}));
    decide(&mut sim);
    let going = |sim: &Sim| -> Vec<String> {
        let pods = sim.pods();
        let going = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some());
        going.map(|p| meta::name(&p.metadata).to_owned()).collect()
    };
    assert_eq!(going(&sim), ["db-2"]);
    run_pods(&mut sim);
    decide(&mut sim);
    assert_eq!(going(&sim), ["db-1"]);
    run_pods(&mut sim);
    decide(&mut sim);
    assert_eq!(names(&sim), ["db-0"]);
    assert_eq!(sim.all(Kind::PersistentVolumeClaim).len(), 3);
}

/// The kind of the owner of each claim, by its name.
fn claim_owners(sim: &Sim) -> Vec<(String, String)> {
    let owner = |object: &Object| {
        let owners = object.meta().owner_references.iter().flatten().map(|owner| owner.kind.clone());
        (meta::name(object.meta()).to_owned(), owners.collect::<Vec<_>>().join(","))
    };
    sim.all(Kind::PersistentVolumeClaim).iter().map(owner).collect()
}

#[test]
fn claims_go_with_the_set_or_with_the_pod_that_is_scaled_away_as_the_policy_says() {
    let (mut sim, set) = (sim(), Key::new("ns", "db"));
    sim.create(stateful(2));
    for _ in 0..3 {
        decide(&mut sim);
        run_pods(&mut sim);
    }
    let owned = |zero: &str, one: &str| {
        vec![("data-db-0".to_owned(), zero.to_owned()), ("data-db-1".to_owned(), one.to_owned())]
    };
    assert_eq!(claim_owners(&sim), owned("", ""));
    let policy = |deleted: &str, scaled: &str| json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}});
    sim.patch(Kind::StatefulSet, &set, policy("Delete", "Retain"));
    decide(&mut sim);
    assert_eq!(claim_owners(&sim), owned("StatefulSet", "StatefulSet"));
    sim.patch(Kind::StatefulSet, &set, policy("Delete", "Delete"));
    sim.patch(Kind::StatefulSet, &set, json!({"spec": {"replicas": 1}}));
    decide(&mut sim);
    assert_eq!(claim_owners(&sim), owned("StatefulSet", "Pod"));
    run_pods(&mut sim);
    sim.patch(Kind::StatefulSet, &set, json!({"spec": {"replicas": 2}}));
    decide(&mut sim);
    assert_eq!(names(&sim), ["db-0"], "the claim goes with the earlier pod");
    sim.remove(Kind::PersistentVolumeClaim, &Key::new("ns", "data-db-1"));
    decide(&mut sim);
    assert_eq!(names(&sim), ["db-0", "db-1"]);
    assert_eq!(claim_owners(&sim), owned("StatefulSet", "StatefulSet"));
    sim.patch(Kind::StatefulSet, &set, policy("Retain", "Retain"));
    decide(&mut sim);
    assert_eq!(claim_owners(&sim), owned("", ""));
}

#[test]
fn an_ordered_set_does_not_shrink_while_pods_are_unhealthy() {
    let mut sim = sim();
    sim.create(stateful(3));
    for _ in 0..4 {
        decide(&mut sim);
        run_pods(&mut sim);
    }
    let set = Key::new("ns", "db");
    let pod = |ordinal: i32| Key::new("ns", &format!("db-{ordinal}"));
    (0..3).for_each(|ordinal| sim.kubelet(&pod(ordinal), "n1", false));
    sim.patch(Kind::StatefulSet, &set, json!({"spec": {"replicas": 0}}));
    let going = |sim: &mut Sim| {
        decide(sim);
        sim.pods().iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count()
    };
    assert_eq!(going(&mut sim), 0, "the last one is not the lowest unhealthy one");
    sim.kubelet(&pod(2), "n1", true);
    assert_eq!(going(&mut sim), 1);
    // It goes; the next one waits again, until only the lowest is unhealthy.
    sim.kubelet(&pod(2), "n1", true);
    assert_eq!(going(&mut sim), 0);
    sim.kubelet(&pod(1), "n1", true);
    assert_eq!(going(&mut sim), 1);
    sim.kubelet(&pod(1), "n1", true);
    assert_eq!(going(&mut sim), 1, "the lowest unhealthy pod does not wait for itself");
}

#[test]
fn stateful_pods_are_updated_from_the_last_to_the_partition() {
    let mut sim = sim();
    sim.create(stateful(3));
    let set = Key::new("ns", "db");
    let rest = |sim: &mut Sim| {
        for _ in 0..12 {
            decide(sim);
            run_pods(sim);
        }
        decide(sim);
    };
    rest(&mut sim);
    let partition = json!({"spec": {
        "template": template(2),
        "updateStrategy": {"rollingUpdate": {"partition": 2}},
    }});
    sim.patch(Kind::StatefulSet, &set, partition);
    rest(&mut sim);
    assert_eq!(versions(&sim), ["x:1", "x:1", "x:2"]);
    // A lost pod below the partition comes back as it was.
    sim.remove(Kind::Pod, &Key::new("ns", "db-0"));
    rest(&mut sim);
    assert_eq!(versions(&sim), ["x:1", "x:1", "x:2"]);
    sim.patch(
        Kind::StatefulSet,
        &set,
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}),
    );
    rest(&mut sim);
    assert_eq!(versions(&sim), ["x:2"; 3]);
    let Some(Object::StatefulSet(set)) = sim.get(Kind::StatefulSet, &set) else { panic!() };
    let status = set.status.as_ref().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!((status.ready_replicas, status.updated_replicas), (Some(3), Some(3)));
}

#[test]
fn a_parallel_set_is_updated_one_pod_at_a_time() {
    let mut sim = sim();
    let mut set = stateful(3);
    set.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
    sim.create(set);
    decide(&mut sim);
    run_pods(&mut sim);
    decide(&mut sim);
    sim.patch(Kind::StatefulSet, &Key::new("ns", "db"), json!({"spec": {"template": template(2)}}));
    for _ in 0..12 {
        // One reconcile and one step of one pod at a time: no state between may have two pods down.
        work_once(&mut sim);
        let serving = sim.pods().iter().filter(|p| pods::active(p) && pods::ready(p)).count();
        assert!(serving >= 2, "{serving} of 3 serve");
        decide(&mut sim);
        let serving = sim.pods().iter().filter(|p| pods::active(p) && pods::ready(p)).count();
        assert!(serving >= 2, "{serving} of 3 serve");
        run_pods(&mut sim);
    }
    assert_eq!(versions(&sim), ["x:2"; 3]);
}

#[test]
fn a_budget_allows_what_exceeds_the_healthy_minimum() {
    let mut sim = sim();
    sim.create(stateful(3));
    let budget = json!({
        "metadata": {"name": "b", "namespace": "ns"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "x"}}},
    });
    sim.create(serde_json::from_value::<PodDisruptionBudget>(budget).unwrap());
    for _ in 0..6 {
        decide(&mut sim);
        run_pods(&mut sim);
    }
    decide(&mut sim);
    let allowed = |sim: &Sim| match sim.get(Kind::PodDisruptionBudget, &Key::new("ns", "b")) {
        Some(Object::PodDisruptionBudget(b)) => b.status.as_ref().unwrap().disruptions_allowed,
        other => panic!("{other:?}"),
    };
    assert_eq!(allowed(&sim), Some(1), "two of three must stay");
    sim.kubelet(&Key::new("ns", "db-1"), "n1", false);
    sim.advance(Duration::from_secs(1));
    decide(&mut sim);
    assert_eq!(allowed(&sim), Some(0));
}

#[test]
fn sets_of_one_name_and_template_have_revisions_of_their_own() {
    let mut sim = sim();
    node(&mut sim, "n1", None);
    let set = json!({
        "metadata": {"name": "x", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "serviceName": "x", "template": template(1)},
    });
    sim.create(serde_json::from_value::<StatefulSet>(set.clone()).unwrap());
    sim.create(serde_json::from_value::<DaemonSet>(set).unwrap());
    decide(&mut sim);
    sim.advance(Duration::from_secs(1));
    decide(&mut sim);
    assert_eq!(sim.all(Kind::ControllerRevision).len(), 2);
    assert_eq!(sim.pods().len(), 2, "{:?}", names(&sim));
}

#[test]
fn refused_and_created_pods_are_events_of_their_set() {
    let mut sim = sim();
    node(&mut sim, "n1", None);
    sim.refused = Some(Kind::Pod);
    sim.create(stateful(1));
    let daemons = json!({
        "metadata": {"name": "agent", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(1)},
    });
    sim.create(serde_json::from_value::<DaemonSet>(daemons).unwrap());
    for _ in 0..20 {
        work_once(&mut sim);
        sim.advance(Duration::from_millis(400));
    }
    let of = |sim: &Sim, kind: Kind, warning: bool| -> Vec<(&'static str, String)> {
        let records = sim.records.iter().filter(|r| r.kind == kind && r.warning == warning);
        records.map(|r| (r.reason, r.message.clone())).collect()
    };
    let refused = of(&sim, Kind::StatefulSet, true);
    assert!(!refused.is_empty(), "no event of the StatefulSet");
    assert!(
        refused.iter().all(|(reason, message)| {
            *reason == "FailedCreate"
                && message.starts_with("create Pod db-0 in StatefulSet db failed error: ")
        }),
        "{refused:?}"
    );
    let refused = of(&sim, Kind::DaemonSet, true);
    assert!(!refused.is_empty(), "no event of the DaemonSet");
    assert!(
        refused.iter().all(|(reason, message)| {
            *reason == "FailedCreate" && message.starts_with("Error creating: ")
        }),
        "{refused:?}"
    );

    sim.refused = None;
    sim.advance(Duration::from_secs(2000));
    decide(&mut sim);
    let created = of(&sim, Kind::StatefulSet, false);
    assert!(
        created.contains(&("SuccessfulCreate", "create Pod db-0 in StatefulSet db successful".into())),
        "{created:?}"
    );
    let created = of(&sim, Kind::DaemonSet, false);
    let pod = names(&sim).into_iter().find(|name| name.starts_with("agent-")).unwrap();
    assert!(created.contains(&("SuccessfulCreate", format!("Created pod: {pod}"))), "{created:?}");
}
