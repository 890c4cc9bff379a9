use http::Method;

use super::*;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// With the objects of every cluster.
fn fairness() -> Fairness {
    let mut registry = prometheus_client::registry::Registry::default();
    let fairness = Fairness::new(FairnessMetrics::register(&mut registry));
    let all: Vec<Value> = defaults::all().into_iter().map(|one| one.object).collect();
    let of = |kind: &str| all.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
    fairness.configure(&of("FlowSchema"), &of("PriorityLevelConfiguration"));
    fairness
}

fn flow(fairness: &Fairness, identity: &Identity, method: &Method, path: &str) -> Arc<Flow> {
    let info = RequestInfo::parse(method, path, false);
    fairness.flow_of(&info.attributes(identity)).unwrap()
}

#[test]
fn requests_are_classified_as_upstream_classifies_them() {
    let fairness = fairness();
    let account = |namespace: &str, name: &str| {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        Identity::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
    };
    let node = Identity::new("system:node:a", &["system:nodes"]);
    let manager = Identity::new("system:kube-controller-manager", &[]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    let rows = [
        (Identity::new("root", &["system:masters"]), Method::GET, "/api/v1/pods", "exempt exempt"),
        (Identity::anonymous(), Method::GET, "/readyz", "probes exempt"),
        (Identity::anonymous(), Method::GET, "/version", "global-default global-default"),
        (node.clone(), Method::PATCH, "/api/v1/nodes/a/status", "system-node-high node-high"),
        (node.clone(), Method::PUT, lease, "system-node-high node-high"),
        (node, Method::GET, "/api/v1/namespaces/a/pods/b", "system-nodes system"),
        (manager.clone(), Method::PUT, lease, "system-leader-election leader-election"),
        (manager.clone(), Method::DELETE, lease, "kube-controller-manager workload-high"),
        (manager, Method::GET, "/api/v1/pods", "kube-controller-manager workload-high"),
        (
            Identity::new("system:kube-scheduler", &[]),
            Method::GET,
            "/api/v1/pods",
            "kube-scheduler workload-high",
        ),
        (
            account("kube-system", "job-controller"),
            Method::PUT,
            lease,
            "system-leader-election leader-election",
        ),
        (
            account("kube-system", "endpoint-controller"),
            Method::PUT,
            "/api/v1/namespaces/a/endpoints/b",
            "endpoint-controller workload-high",
        ),
        (
            account("kube-system", "job-controller"),
            Method::POST,
            "/api/v1/namespaces/a/pods",
            "kube-system-service-accounts workload-high",
        ),
        (account("a", "b"), Method::GET, "/api/v1/namespaces/a/pods", "service-accounts workload-low"),
        (
            Identity::new("jane", &[]),
            Method::GET,
            "/api/v1/namespaces/a/pods",
            "global-default global-default",
        ),
    ];
    for (identity, method, path, wanted) in rows {
        let flow = flow(&fairness, &identity, &method, path);
        let found = format!("{} {}", flow.schema.name, flow.schema.level());
        assert_eq!(found, wanted, "{} {method} {path}", identity.user);
    }
}

#[test]
fn shares_become_seats() {
    let fairness = fairness();
    let nominal = |identity: &Identity| flow(&fairness, identity, &Method::GET, "/api/v1/pods").nominal;
    // 600 seats, 245 shares.
    assert_eq!(nominal(&Identity::new("jane", &[])), 49);
    assert_eq!(nominal(&Identity::new("system:node:a", &["system:nodes"])), 74);
    let jane = flow(&fairness, &Identity::new("jane", &[]), &Method::GET, "/api/v1/pods");
    let widths = [0, 1, 100, 101, 500, 100_000].map(|objects| jane.list_width(objects));
    assert_eq!(widths, [1, 1, 1, 2, 5, 7], "by a hundred objects, and at most 15 % of the level");
}

#[test]
fn a_schema_without_its_level_does_not_count_and_mandatory_objects_cannot_be_missing() {
    let mut registry = prometheus_client::registry::Registry::default();
    let fairness = Fairness::new(FairnessMetrics::register(&mut registry));
    let dangling = serde_json::json!({"metadata": {"name": "d"}, "spec": {
        "priorityLevelConfiguration": {"name": "gone"}, "matchingPrecedence": 5,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "*"}}], "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
        }]}],
    }});
    fairness.configure(&[dangling, serde_json::json!({"metadata": {"name": "unreadable"}, "spec": []})], &[]);
    let flow = flow(&fairness, &Identity::new("jane", &[]), &Method::GET, "/api/v1/pods");
    assert_eq!((flow.schema.name.as_str(), flow.schema.level()), ("catch-all", "catch-all"));
}

#[tokio::test]
async fn a_flood_of_one_user_waits_and_another_user_and_administrators_do_not() {
    let fairness = fairness();
    let admit = async |user: &str, groups: &[&str]| {
        let identity = Identity::new(user, groups);
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", false);
        let attributes = info.attributes(&identity);
        let flow = fairness.flow_of(&attributes).unwrap();
        fairness.admit(&flow, &attributes, 1).await
    };
    let mut running = std::collections::VecDeque::new();
    let waiting = futures::stream::FuturesUnordered::new();
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut request = Box::pin(admit("mallory", &[]));
        match futures::poll!(&mut request) {
            std::task::Poll::Ready(Ok(permit)) => running.push_back(permit),
            std::task::Poll::Ready(Err(status)) => {
                assert_eq!(
                    (status.code, &*status.message),
                    (429, "Too many requests, please try again later.")
                );
                refused += 1;
            }
            std::task::Poll::Pending => waiting.push(request),
        }
    }
    assert_eq!((waiting.len(), refused > 0), (6 * 50, true), "a hand of queues");
    let mut jane = Box::pin(admit("jane", &[]));
    assert!(futures::poll!(&mut jane).is_pending(), "all seats are taken");
    assert!(admit("root", &["system:masters"]).await.is_ok());
    assert!(futures::poll!(Box::pin(admit("system:node:a", &["system:nodes"]))).is_ready());
    let mut ended = 0;
    while futures::poll!(&mut jane).is_pending() {
        drop(running.pop_front());
        ended += 1;
        assert!(ended < 10, "jane waits for all of mallory's requests");
    }
    // Who goes away leaves the queue, and gives back seats that were on their way.
    drop(waiting);
    drop(running);
    let core = fairness.0.core.lock();
    assert_eq!(core.counts(), (0, 0));
}
