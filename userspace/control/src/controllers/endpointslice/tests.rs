//! Slices of Services: packing, ports, families, readiness and hints.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::*;

fn context() -> Context<'static> {
    Context { now: Timestamp::UNIX_EPOCH, steady: Timestamp::UNIX_EPOCH, seed: 1, failure: None }
}

fn view(spec: serde_json::Value) -> View {
    let mut view = View::default();
    let service = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec});
    view.watched(serde_json::from_value::<Service>(service).unwrap().into(), Timestamp::UNIX_EPOCH);
    let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    view.watched(serde_json::from_value::<Node>(node).unwrap().into(), Timestamp::UNIX_EPOCH);
    view
}

fn pod(view: &mut View, number: u32, port: i32, ready: bool) {
    let status = if ready { "True" } else { "False" };
    let pod = json!({
        "metadata": {
            "name": format!("p{number}"), "namespace": "ns", "uid": format!("p{number}"), "labels": {"app": "web"},
            "resourceVersion": (number + 1).to_string(),
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": status}],
            "podIPs": [
                {"ip": format!("10.0.{}.{}", number / 250, number % 250 + 1)},
                {"ip": format!("fd00::{:x}", number + 1)},
            ],
        },
    });
    view.watched(serde_json::from_value::<Pod>(pod).unwrap().into(), Timestamp::UNIX_EPOCH);
}

/// Reconciles until nothing is left to do; returns the slices.
fn settle(view: &mut View) -> Vec<Arc<EndpointSlice>> {
    for _ in 0..5 {
        for action in EndpointSlices.reconcile(view, &Key::new("ns", "web"), context()) {
            match action {
                Action::Create(object) | Action::Update { object, .. } => {
                    view.watched(object, Timestamp::UNIX_EPOCH);
                }
                Action::Delete(delete) => drop(view.missing(delete.kind, &delete.key)),
                other => panic!("{other:?}"),
            }
        }
    }
    let rest = EndpointSlices.reconcile(view, &Key::new("ns", "web"), context());
    assert!(rest.is_empty(), "{rest:?}");
    view.slices.iter().map(|(_, s)| s.clone()).collect()
}

fn selecting(extra: serde_json::Value) -> serde_json::Value {
    let mut spec =
        json!({"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn no_slice_holds_more_than_a_hundred_and_gaps_are_filled_first() {
    let mut view = view(selecting(json!({})));
    (0..230).for_each(|n| pod(&mut view, n, 8080, true));
    assert_eq!(sizes(&settle(&mut view)), [30, 100, 100]);
    let gone: Vec<Key> = view.pods.iter().take(20).map(|(k, _)| k.clone()).collect();
    gone.iter().for_each(|key| drop(view.missing(Kind::Pod, key)));
    settle(&mut view);
    (300..310).for_each(|n| pod(&mut view, n, 8080, true));
    let slices = settle(&mut view);
    assert_eq!((slices.len(), sizes(&slices).iter().sum::<usize>()), (3, 220));
}

#[test]
fn a_named_port_may_differ_from_pod_to_pod() {
    let mut view = view(selecting(json!({})));
    pod(&mut view, 1, 8080, true);
    pod(&mut view, 2, 9090, true);
    let ports: Vec<_> =
        settle(&mut view).iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    assert_eq!((ports.len(), ports.iter().sum::<i32>()), (2, 8080 + 9090));
}

#[test]
fn each_family_has_slices_of_its_own() {
    let mut view = view(selecting(json!({"ipFamilies": ["IPv4", "IPv6"]})));
    pod(&mut view, 1, 8080, true);
    let mut types: Vec<_> = settle(&mut view).iter().map(|s| s.address_type.clone()).collect();
    types.sort();
    assert_eq!(types, ["IPv4", "IPv6"]);
}

#[test]
fn unready_pods_are_listed_and_ready_only_where_the_service_wants_it() {
    let ready = |extra| {
        let mut view = view(selecting(extra));
        pod(&mut view, 1, 8080, false);
        let slice = settle(&mut view).pop().unwrap();
        let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        (conditions.ready, conditions.serving, conditions.terminating)
    };
    assert_eq!(ready(json!({})), (Some(false), Some(false), Some(false)));
    assert_eq!(ready(json!({"publishNotReadyAddresses": true})), (Some(true), Some(false), Some(false)));
}

#[test]
fn a_service_without_pods_has_one_empty_slice_that_is_filled_or_replaced() {
    let mut view = view(selecting(json!({})));
    assert_eq!(sizes(&settle(&mut view)), [0]);
    pod(&mut view, 1, 8080, true);
    assert_eq!(sizes(&settle(&mut view)), [1]);
    view.missing(Kind::Pod, &Key::new("ns", "p1"));
    assert_eq!(sizes(&settle(&mut view)), [0]);
}

#[test]
fn added_endpoints_change_as_few_slices_as_possible() {
    let mut view = view(selecting(json!({})));
    (0..250).for_each(|n| pod(&mut view, n, 8080, true));
    settle(&mut view);
    let revisions = |view: &View| -> Vec<usize> {
        view.slices.iter().map(|(_, s)| s.endpoints.iter().flatten().count()).collect()
    };
    let before = revisions(&view);
    // One leaves a full slice and two come: that slice is full again, the other goes where it fits.
    let gone =
        view.slices.iter().find(|(_, s)| s.endpoints.iter().flatten().count() == 100).unwrap().1.clone();
    let target = gone.endpoints.as_ref().unwrap()[0].target_ref.clone().unwrap();
    view.missing(Kind::Pod, &Key::new("ns", &target.name.unwrap()));
    (300..302).for_each(|n| pod(&mut view, n, 8080, true));
    settle(&mut view);
    let mut after = revisions(&view);
    assert_eq!(after.iter().sum::<usize>(), 251);
    after.sort_unstable();
    assert_eq!((before.len(), after), (3, vec![51, 100, 100]));
}

#[test]
fn hints_name_the_zone_and_on_request_the_node() {
    let hints = |spec| {
        let mut view = view(selecting(spec));
        pod(&mut view, 1, 8080, true);
        let slice = settle(&mut view).pop().unwrap();
        let hints = slice.endpoints.as_ref().unwrap()[0].hints.clone();
        let zones =
            |h: &EndpointHints| h.for_zones.iter().flatten().map(|z| z.name.clone()).collect::<Vec<_>>();
        let nodes =
            |h: &EndpointHints| h.for_nodes.iter().flatten().map(|n| n.name.clone()).collect::<Vec<_>>();
        hints.map(|h| (zones(&h), nodes(&h)))
    };
    let zone = vec!["z1".to_owned()];
    assert_eq!(hints(json!({})), None);
    for close in ["PreferClose", "PreferSameZone"] {
        assert_eq!(hints(json!({"trafficDistribution": close})), Some((zone.clone(), vec![])));
    }
    assert_eq!(hints(json!({"trafficDistribution": "PreferSameNode"})), Some((zone, vec!["n1".to_owned()])));
}

#[test]
fn in_topology_mode_auto_zones_have_hints_while_all_nodes_have_zone_and_cpu() {
    let mut view = view(selecting(json!({})));
    let mut service = view.services.get(&Key::new("ns", "web")).unwrap().as_ref().clone();
    let annotation = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
    service.metadata.annotations.get_or_insert_default().extend([annotation]);
    view.watched(service.into(), Timestamp::UNIX_EPOCH);
    for number in 1..=4 {
        pod(&mut view, number, 8080, true);
    }
    let mut node = |name: &str, zone: &str, cpu: &str| {
        let node = json!({
            "metadata": {"name": name, "labels": {ZONE: zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let node = serde_json::from_value::<Node>(node).unwrap().into();
        let change = view.watched(node, Timestamp::UNIX_EPOCH);
        let mut keys = Vec::new();
        change.iter().for_each(|change| EndpointSlices.route(change, &view, &mut keys));
        let slices = settle(&mut view);
        let hint = |e: &Endpoint| Some(e.hints.as_ref()?.for_zones.as_ref()?[0].name.clone());
        let hints: Vec<_> = slices[0].endpoints.iter().flatten().filter_map(hint).collect();
        (!keys.is_empty(), hints.concat())
    };
    assert_eq!(node("n1", "a", "2"), (true, String::new()), "one zone");
    assert_eq!(node("n2", "b", "2"), (true, "aabb".into()));
    assert_eq!(node("n2", "b", "2"), (false, "aabb".into()), "nothing changed");
    assert_eq!(node("n3", "b", "0"), (true, String::new()), "a node without CPU");
}

#[test]
fn a_pod_on_a_missing_node_is_listed_only_with_publish_not_ready_addresses() {
    let listed = |spec| {
        let mut view = view(selecting(spec));
        pod(&mut view, 1, 8080, true);
        view.missing(Kind::Node, &Key::cluster("n1"));
        sizes(&settle(&mut view))
    };
    assert_eq!(listed(json!({})), [0]);
    assert_eq!(listed(json!({"publishNotReadyAddresses": true})), [1]);
}

#[test]
fn slices_of_an_earlier_service_of_the_same_name_are_replaced() {
    let mut view = view(selecting(json!({})));
    pod(&mut view, 1, 8080, true);
    settle(&mut view);
    let mut recreated = view.services.get(&Key::new("ns", "web")).unwrap().as_ref().clone();
    recreated.metadata.uid = Some("other".into());
    view.watched(recreated.into(), Timestamp::UNIX_EPOCH);
    let slices = settle(&mut view);
    let owner = meta::controller_of(&slices[0].metadata).map(|owner| owner.uid.as_str());
    assert_eq!((sizes(&slices), owner), (vec![1], Some("other")));
}

#[test]
fn services_without_selector_have_no_slices() {
    let mut view = view(json!({"ports": [{"port": 80}]}));
    pod(&mut view, 1, 8080, true);
    assert!(settle(&mut view).is_empty());
}
