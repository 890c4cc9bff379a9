//! Tables of quotas and objects.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn meter(plural: &str) -> Meter {
    Meter::of("", plural).unwrap()
}

fn pod(requests: Value, limits: Value) -> Value {
    let container = json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
    json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})
}

fn quota(spec: Value, hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
}

#[test]
fn objects_use_their_count_and_their_requests() {
    let asks = json!({"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi"});
    let ended = json!({"status": {"phase": "Failed"}});
    let late =
        json!({"metadata": {"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30}});
    let claim =
        json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
    let service = |kind: &str, more: Value| {
        let mut service = json!({"spec": {"type": kind, "ports": [{"nodePort": 30000}, {}]}});
        service["spec"]["allocateLoadBalancerNodePorts"] = more;
        service
    };
    for (plural, object, wanted) in [
        (
            "pods",
            pod(asks, json!({"cpu": "1"})),
            "count/pods=1,cpu=500m,hugepages-2Mi=4Mi,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,requests.hugepages-2Mi=4Mi,requests.memory=1Gi,requests.nvidia.com/gpu=2",
        ),
        ("pods", ended, "count/pods=1"),
        ("pods", late, "count/pods=1"),
        (
            "services",
            service("NodePort", json!(null)),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
        ),
        (
            "services",
            service("LoadBalancer", json!(null)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
        ),
        (
            "services",
            service("LoadBalancer", json!(false)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
        ),
        (
            "services",
            service("ClusterIP", json!(null)),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0",
        ),
        (
            "persistentvolumeclaims",
            claim,
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2",
        ),
        ("secrets", json!({}), "count/secrets=1,secrets=1"),
        ("serviceaccounts", json!({}), "count/serviceaccounts=1"),
    ] {
        assert_eq!(meter(plural).usage(&object, now()).to_string(), wanted, "{plural} {object}");
    }
    assert_eq!(Meter::of("", "events"), None);
    assert_eq!(
        Meter::of("apps", "deployments").unwrap().usage(&json!({}), now()).to_string(),
        "count/deployments.apps=1"
    );
}

#[test]
fn each_quota_name_has_the_meter_that_counts_towards_it() {
    for (name, wanted) in [
        ("count/deployments.apps", Some(("apps", "deployments"))),
        ("count/pods", Some(("", "pods"))),
        ("count/events", None),
        ("requests.cpu", Some(("", "pods"))),
        ("requests.nvidia.com/gpu", Some(("", "pods"))),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("services.nodeports", Some(("", "services"))),
        ("configmaps", Some(("", "configmaps"))),
        ("nonsense", None),
    ] {
        let found = Meter::for_quota_name(name);
        assert_eq!(found.as_ref().map(|m| (m.group.as_str(), m.plural.as_str())), wanted, "{name}");
        assert!(found.is_none_or(|meter| meter.counts(name)), "{name}");
    }
}

#[test]
fn scopes_limit_a_quota() {
    let plain = pod(json!({}), json!({}));
    let mut deadline = plain.clone();
    deadline["spec"]["activeDeadlineSeconds"] = 5.into();
    let mut high = pod(json!({"cpu": "1"}), json!({}));
    high["spec"]["priorityClassName"] = "high".into();
    let mut crossing = plain.clone();
    crossing["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}});
    let class = |operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
    for (spec, wanted) in [
        (json!({}), [true, true, true, true]),
        (json!({"scopes": ["Terminating"]}), [false, true, false, false]),
        (json!({"scopes": ["NotTerminating"]}), [true, false, true, true]),
        (json!({"scopes": ["BestEffort"]}), [true, true, false, true]),
        (json!({"scopes": ["NotBestEffort"]}), [false, false, true, false]),
        (json!({"scopes": ["PriorityClass"]}), [false, false, true, false]),
        (json!({"scopes": ["CrossNamespacePodAffinity"]}), [false, false, false, true]),
        (class("In", json!(["high"])), [false, false, true, false]),
        (class("NotIn", json!(["high"])), [true, true, false, true]),
        (class("DoesNotExist", json!(null)), [true, true, false, true]),
    ] {
        let quota = quota(spec.clone(), json!({"pods": "5"}), json!({"pods": "0"}));
        let found =
            [&plain, &deadline, &high, &crossing].map(|pod| meter("pods").applies(&quota, pod).unwrap());
        assert_eq!(found, wanted, "{spec}");
    }
    let scoped = quota(json!({"scopes": ["BestEffort"]}), json!({"secrets": "5"}), json!({"secrets": "0"}));
    assert_eq!(meter("secrets").applies(&scoped, &json!({})), Ok(false));
}

#[test]
fn exceeded_and_unspecified_resources_are_refused_in_upstreams_words() {
    let hard = json!({"pods": "2", "requests.memory": "1Gi"});
    let used = json!({"pods": "1", "requests.memory": "768Mi"});
    let tight = quota(json!({}), hard.clone(), used);
    let large = pod(json!({"memory": "512Mi"}), json!({}));
    assert_eq!(meter("pods").applies(&tight, &large), Ok(true));
    let added = meter("pods").added(&tight, &large, None, now());
    assert_eq!(added.to_string(), "pods=1,requests.memory=512Mi");
    assert_eq!(
        charge(&tight, &added),
        Err("exceeded quota: q, requested: requests.memory=512Mi, used: requests.memory=768Mi, limited: requests.memory=1Gi".to_owned())
    );
    let fits = meter("pods").added(&tight, &pod(json!({"memory": "256Mi"}), json!({})), None, now());
    assert_eq!(charge(&tight, &fits).unwrap().to_string(), "pods=2,requests.memory=1Gi");
    assert_eq!(
        meter("pods").applies(&tight, &pod(json!({}), json!({}))),
        Err("failed quota: q: must specify requests.memory for: c".to_owned())
    );
    let unknown = quota(json!({}), hard, json!({"pods": "0"}));
    assert_eq!(
        meter("pods").applies(&unknown, &large),
        Err("status unknown for quota: q, resources: pods,requests.memory".to_owned())
    );
}

#[test]
fn an_update_adds_the_difference_but_never_a_negative_one() {
    let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let hard = json!({"requests.storage": "10Gi", "persistentvolumeclaims": "3"});
    let quota = quota(json!({}), hard.clone(), hard);
    let meter = meter("persistentvolumeclaims");
    assert_eq!(
        meter.added(&quota, &claim("3Gi"), Some(&claim("2Gi")), now()).to_string(),
        "requests.storage=1Gi"
    );
    assert!(meter.added(&quota, &claim("1Gi"), Some(&claim("2Gi")), now()).is_empty());
}
