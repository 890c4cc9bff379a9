//! Quotas with the controllers: racing creates, release, and the status.

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::{DeleteParams, Patch, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Error};
use serde_json::json;

use crate::cluster::{Cluster, cluster, parsed, soon};

impl Cluster {
    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn quota(&self, name: &str, hard: serde_json::Value) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), "default");
        let quota = parsed(json!({"metadata": {"name": name}, "spec": {"hard": hard}}));
        quotas.create(&PostParams::default(), &quota).await.unwrap();
    }

    /// Waits until the quota's status has this usage.
    async fn used(&self, name: &str, resource: &str, amount: &str) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), "default");
        let shows = |quota: Option<&ResourceQuota>| {
            let used = quota.and_then(|quota| quota.status.as_ref()?.used.as_ref()?.get(resource));
            used.is_some_and(|used| used.0 == amount)
        };
        soon(&format!("{resource}={amount}"), await_condition(quotas, name, shows)).await.unwrap();
    }

    async fn map(&self, name: &str) -> Result<ConfigMap, Error> {
        let map = parsed(json!({"metadata": {"name": name}}));
        self.maps().create(&PostParams::default(), &map).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_creates_never_exceed_a_quota_and_deletions_release() {
    let (cluster, _running) = cluster().await;
    // A controller creates one: the CA certificate.
    let exists = |map: Option<&ConfigMap>| map.is_some();
    soon("CA", await_condition(cluster.maps(), "kube-root-ca.crt", exists)).await.unwrap();
    cluster.quota("maps", json!({"configmaps": "9", "count/configmaps": "20"})).await;
    cluster.used("maps", "configmaps", "1").await;
    let names: Vec<String> = (0..24).map(|n| format!("m{n}")).collect();
    let made = futures::future::join_all(names.iter().map(|name| cluster.map(name))).await;
    let refused: Vec<String> =
        made.iter().filter_map(|made| made.as_ref().err().map(ToString::to_string)).collect();
    assert_eq!(refused.len(), 16, "8 of 24 fit: {refused:?}");
    let wanted = "is forbidden: exceeded quota: maps, requested: configmaps=1, used: configmaps=9, limited: configmaps=9";
    assert!(refused.iter().all(|why| why.contains(wanted)), "{refused:?}");
    cluster.used("maps", "configmaps", "9").await;
    let first = names.iter().zip(&made).find(|(_, made)| made.is_ok()).unwrap().0;
    cluster.maps().delete(first, &DeleteParams::default()).await.unwrap();
    cluster.used("maps", "configmaps", "8").await;
    let second = names.iter().zip(&made).filter(|(_, made)| made.is_ok()).nth(1).unwrap().0;
    let again = cluster.map(second).await.unwrap_err();
    assert!(again.to_string().contains("already exists"), "{again}");
    // The charge of the refused create was returned: there is room for one.
    cluster.map("last").await.unwrap();
    cluster.used("maps", "count/configmaps", "9").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_count_with_their_requests_until_they_finish() {
    let (cluster, _running) = cluster().await;
    cluster.quota("compute", json!({"pods": "3", "requests.cpu": "1"})).await;
    cluster.used("compute", "pods", "0").await;
    cluster.pod("a", "600m", json!({})).await;
    cluster.used("compute", "requests.cpu", "600m").await;
    let pod = |cpu: Option<&str>| {
        let requests = cpu.map(|cpu| json!({"requests": {"cpu": cpu}}));
        let container = json!({"name": "c", "image": "i", "resources": requests});
        parsed(json!({"metadata": {"name": "b"}, "spec": {"containers": [container]}}))
    };
    let over = cluster.pods().create(&PostParams::default(), &pod(Some("500m"))).await.unwrap_err();
    let wanted = "exceeded quota: compute, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1";
    assert!(over.to_string().contains(wanted), "{over}");
    let silent = cluster.pods().create(&PostParams::default(), &pod(None)).await.unwrap_err();
    assert!(
        silent.to_string().contains("failed quota: compute: must specify requests.cpu for: c"),
        "{silent}"
    );
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    cluster.pods().create(&dry, &pod(Some("400m"))).await.unwrap();
    cluster.used("compute", "requests.cpu", "600m").await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    cluster.pods().patch_status("a", &Default::default(), &ended).await.unwrap();
    cluster.used("compute", "requests.cpu", "0").await;
    cluster.pods().create(&PostParams::default(), &pod(Some("1"))).await.unwrap();
    cluster.used("compute", "pods", "1").await;
}
