//! The scheduler: bindings, conditions, events, preemption; and that it can run alone.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use skep_control::{Config, Parts};

use crate::cluster::{self, Cluster, cluster, parsed, soon};

impl Cluster {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// A ready node, from which the node lifecycle controller has taken the taint of a new one.
    async fn node(&self, name: &str, cpu: &str) {
        self.tainted_node(name, cpu).await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let is_open = |node: Option<&Node>| {
            let taints = node.and_then(|node| node.spec.as_ref()?.taints.as_ref());
            node.is_some() && taints.is_none_or(Vec::is_empty)
        };
        soon("taint taken away", await_condition(nodes, name, is_open)).await.unwrap();
    }

    async fn tainted_node(&self, name: &str, cpu: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = parsed(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let room = json!({"cpu": cpu, "memory": "8Gi", "pods": "20"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
        let patch = kube::api::Patch::Merge(status);
        nodes.patch_status(name, &Default::default(), &patch).await.unwrap();
    }

    pub(crate) async fn pod(&self, name: &str, cpu: &str, more: Value) {
        let mut spec = json!({
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
            "serviceAccountName": "default", "automountServiceAccountToken": false,
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let pod: Pod = parsed(json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec}));
        // Pods are refused before a controller has created the service account.
        let accounts = Api::<ServiceAccount>::default_namespaced(self.client.clone());
        let exists = |account: Option<&ServiceAccount>| account.is_some();
        soon("service account", await_condition(accounts, "default", exists)).await.unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn pod_until(&self, what: &str, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let seen = await_condition(self.pods(), name, |pod: Option<&Pod>| pod.is_some_and(&holds));
        soon(what, seen).await.unwrap().unwrap()
    }

    async fn bound(&self, name: &str) -> String {
        node_of(&self.pod_until("bound", name, |pod| !node_of(pod).is_empty()).await)
    }

    /// Waits for an Event with this message.
    async fn event(&self, pod: &str, reason: &str, message: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let wanted = |event: &Event| {
            event.involved_object.name.as_deref() == Some(pod)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref() == Some(message)
        };
        let mut stream = std::pin::pin!(kube::runtime::watcher(events, Default::default()));
        let found = async {
            loop {
                use futures::StreamExt;
                use kube::runtime::watcher::Event as Step;
                if let Some(Ok(Step::Apply(event) | Step::InitApply(event))) = stream.next().await
                    && wanted(&event)
                {
                    return;
                }
            }
        };
        soon(reason, found).await
    }
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Status, reason and message of a condition.
fn condition(pod: &Pod, kind: &str) -> Option<(String, String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some((found.status.clone(), text(&found.reason), text(&found.message)))
}

fn same<T: PartialEq + Debug>(a: T, b: T) {
    assert_eq!(a, b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_with_condition_and_event() {
    let (cluster, _running) = cluster().await;
    cluster.node("n1", "2").await;
    cluster.pod("web", "100m", json!({})).await;
    same(cluster.bound("web").await, "n1".into());
    let pod = cluster.pod_until("condition", "web", |pod| condition(pod, "PodScheduled").is_some()).await;
    same(condition(&pod, "PodScheduled").unwrap().0, "True".into());
    cluster.event("web", "Scheduled", "Successfully assigned default/web to n1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_room_gets_the_reason_and_is_bound_when_there_is_room() {
    let (cluster, _running) = cluster().await;
    cluster.node("n1", "500m").await;
    cluster.pod("web", "1", json!({})).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                   1 Preemption is not helpful for scheduling.";
    // The scheduler may still have the node with its taint when it meets the pod first.
    let refusal = Some(("False".into(), "Unschedulable".into(), message.into()));
    cluster.pod_until("refusal", "web", |pod| condition(pod, "PodScheduled") == refusal).await;
    cluster.event("web", "FailedScheduling", message).await;
    cluster.node("n2", "2").await;
    same(cluster.bound("web").await, "n2".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_never_overcommit_a_node() {
    let (cluster, _running) = cluster().await;
    for node in ["n1", "n2", "n3"] {
        cluster.node(node, "1").await;
    }
    for number in 0..12 {
        cluster.pod(&format!("p{number}"), "300m", json!({})).await;
    }
    // Nine fit; the last one is refused only after all nine were decided.
    let refused = |pods: &[Pod]| {
        pods.iter().filter(|p| condition(p, "PodScheduled").is_some_and(|c| c.0 == "False")).count()
    };
    let bound = |pods: &[Pod]| pods.iter().filter(|p| !node_of(p).is_empty()).count();
    let mut stream = std::pin::pin!(kube::runtime::watcher(cluster.pods(), Default::default()));
    let pods = soon("nine bound, three refused", async {
        loop {
            let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
            if bound(&pods) == 9 && refused(&pods) == 3 {
                return pods;
            }
            futures::StreamExt::next(&mut stream).await;
        }
    })
    .await;
    for node in ["n1", "n2", "n3"] {
        same(pods.iter().filter(|pod| node_of(pod) == node).count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_higher_priority_preempts_one_of_lower_priority() {
    let (cluster, _running) = cluster().await;
    let classes: Api<PriorityClass> = Api::all(cluster.client.clone());
    let class = parsed(json!({"metadata": {"name": "great"}, "value": 1000}));
    classes.create(&PostParams::default(), &class).await.unwrap();
    cluster.node("n1", "1").await;
    cluster.pod("old", "800m", json!({})).await;
    cluster.bound("old").await;
    cluster.pod("new", "800m", json!({"priorityClassName": "great"})).await;
    let old = cluster.pod_until("removal", "old", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    same(condition(&old, "DisruptionTarget").unwrap().1, "PreemptionByScheduler".into());
    let nominated = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
    let new = cluster.pod_until("nomination", "new", |pod| nominated(pod).is_some()).await;
    same((nominated(&new).as_deref(), node_of(&new).as_str()), (Some("n1"), ""));
    // What a kubelet does when the containers have ended.
    cluster.pods().delete("old", &DeleteParams::default().grace_period(0)).await.unwrap();
    same(cluster.bound("new").await, "n1".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_runs_alone_and_reads_only_its_own_kinds() {
    let cluster = Cluster::new().await;
    let accounts = Api::<ServiceAccount>::default_namespaced(cluster.client.clone());
    let account = parsed(json!({"metadata": {"name": "default"}}));
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let running = cluster.run(Config { parts: Parts::Scheduler, ..cluster::config() });
    cluster.tainted_node("n1", "2").await;
    // No controller runs that takes the taint of a new node away.
    let untaint = kube::api::Patch::Merge(json!({"spec": {"taints": null}}));
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch("n1", &Default::default(), &untaint).await.unwrap();
    cluster.pod("web", "100m", json!({})).await;
    same(cluster.bound("web").await, "n1".into());
    cluster.event("web", "Scheduled", "Successfully assigned default/web to n1").await;
    let expected = [
        "GET /api/v1/namespaces",
        "GET /api/v1/nodes",
        "GET /api/v1/persistentvolumeclaims",
        "GET /api/v1/persistentvolumes",
        "GET /api/v1/pods",
        "GET /apis/storage.k8s.io/v1/storageclasses",
        "GET /apis/policy/v1/poddisruptionbudgets",
        "POST /api/v1/namespaces/default/events",
        "POST /api/v1/namespaces/default/pods/web/binding",
    ];
    let mut requests = running.requests();
    requests.sort();
    requests.dedup();
    let other: Vec<&String> = requests.iter().filter(|r| !expected.contains(&r.as_str())).collect();
    assert!(other.is_empty(), "{other:?}");
}
