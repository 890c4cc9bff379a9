//! Claims, from the API to the files of a container: bound, provisioned, mounted, kept and removed.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_control::{Clients, Config};
use skep_tests::node::{NODE, TestNode, container, phase};
use tokio::task::JoinHandle;

const NAMESPACE: &str = "/api/v1/namespaces/default";
const VOLUMES: &str = "/api/v1/persistentvolumes";

/// A node with the controllers and the scheduler, each with its own rights.
struct Cluster {
    node: TestNode,
    control: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control.abort();
    }
}

impl Cluster {
    async fn start(name: &str) -> Result<Cluster> {
        let node = TestNode::start(name).await?;
        let clients = Clients::new(node.api.clients_by_user());
        let control = tokio::spawn(async move { drop(skep_control::run(clients, Config::default()).await) });
        Ok(Cluster { node, control })
    }

    async fn claim(&self, name: &str, more: Value) -> Result<String> {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        claim["spec"]
            .as_object_mut()
            .context("a spec")?
            .extend(more.as_object().cloned().unwrap_or_default());
        self.node.api.create(&format!("{NAMESPACE}/persistentvolumeclaims"), &claim).await?;
        Ok(format!("{NAMESPACE}/persistentvolumeclaims/{name}"))
    }

    /// A pod that the scheduler is to place.
    async fn pod(&self, name: &str, mut spec: Value) -> Result<String> {
        place(&mut spec);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        self.node.api.create(&format!("{NAMESPACE}/pods"), &pod).await?;
        Ok(format!("{NAMESPACE}/pods/{name}"))
    }

    async fn log(&self, pod: &str) -> Result<String> {
        Ok(self.node.kubelet_get(&format!("/containerLogs/default/{pod}/main")).await?.1)
    }

    /// The folders of local-path volumes on the node.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.node.root().join("volumes")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    async fn volumes(&self) -> Result<Vec<Value>> {
        let list = self.node.api.get(VOLUMES).await?.unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// The node has no network for pods, and is tainted for it.
fn place(spec: &mut Value) {
    spec["hostNetwork"] = json!(true);
    spec["automountServiceAccountToken"] = json!(false);
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["tolerations"] = json!([{"operator": "Exists"}]);
}

fn mount(mut container: Value, volume: &str, more: Value) -> Value {
    let mut mount = json!({"name": volume, "mountPath": format!("/{volume}")});
    if let (Some(into), Some(from)) = (mount.as_object_mut(), more.as_object()) {
        into.extend(from.clone());
    }
    container["volumeMounts"] = json!([mount]);
    container
}

fn of_claim(volume: &str, claim: &str) -> Value {
    json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
}

fn ready(pod: Option<&Value>) -> bool {
    phase(pod) == "Running" && pod.is_some_and(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
}

fn bound(claim: Option<&Value>) -> bool {
    phase(claim) == "Bound"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_a_stateful_set_finds_its_data_again_and_they_go_with_the_claim() -> Result<()> {
    let cluster = Cluster::start("stateful").await?;
    let api = &cluster.node.api;
    let script =
        "echo $HOSTNAME >> /data/log; cat /data/log; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut spec = json!({"containers": [mount(container("main", script), "data", json!({}))],
        "securityContext": {"fsGroup": 4711}});
    place(&mut spec);
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": spec},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}],
    }});
    api.create("/apis/apps/v1/namespaces/default/statefulsets", &set).await?;
    let (pod, claim) =
        (format!("{NAMESPACE}/pods/db-0"), format!("{NAMESPACE}/persistentvolumeclaims/data-db-0"));
    api.wait(&pod, "a ready pod", ready).await?;
    let first = api.get(&pod).await?.unwrap_or_default();
    let lines = cluster.log("db-0").await?.lines().count();
    assert_eq!(lines, 1);
    let volume = cluster.volumes().await?.pop().context("a volume")?;
    assert_eq!(volume["spec"]["storageClassName"], "local-path", "the default class");
    assert_eq!(volume["spec"]["local"]["path"], json!(cluster.folders().first().context("a folder")?));
    assert!(volume["metadata"]["finalizers"].to_string().contains("skep.io/local-path"), "{volume}");
    let log = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(cluster.folders()[0].join("log"))?);
    assert_eq!(log, 4711, "the folder hands the pod's group on");

    api.delete(&pod, 1).await?;
    let again = |found: Option<&Value>| {
        ready(found) && found.is_some_and(|p| p["metadata"]["uid"] != first["metadata"]["uid"])
    };
    api.wait(&pod, "the next pod", again).await?;
    assert_eq!(cluster.log("db-0").await?.lines().count(), 2, "it finds what the first one wrote");

    api.delete("/apis/apps/v1/namespaces/default/statefulsets/db", 1).await?;
    api.delete(&claim, 0).await?;
    api.wait(&pod, "the pod's end", |found| found.is_none()).await?;
    api.wait(&claim, "the claim's end", |found| found.is_none()).await?;
    let path = format!("{VOLUMES}/{}", volume["metadata"]["name"].as_str().unwrap_or_default());
    api.wait(&path, "the volume's end", |found| found.is_none()).await?;
    assert!(cluster.folders().is_empty(), "{:?}", cluster.folders());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_mounted_read_only_and_in_parts_and_by_one_pod_alone() -> Result<()> {
    let cluster = Cluster::start("mounts").await?;
    let api = &cluster.node.api;
    let claim = cluster.claim("shared", json!({})).await?;
    let writer =
        mount(container("main", "echo hello > /part/file; echo done"), "part", json!({"subPath": "a/b"}));
    let spec =
        json!({"restartPolicy": "Never", "containers": [writer], "volumes": [of_claim("part", "shared")]});
    let pod = cluster.pod("writer", spec).await?;
    api.wait(&pod, "the writer's end", |p| phase(p) == "Succeeded").await?;
    api.wait(&claim, "a bound claim", bound).await?;
    assert_eq!(std::fs::read_to_string(cluster.folders()[0].join("a/b/file"))?, "hello\n");

    let reader =
        mount(container("main", "cat /all/a/b/file; touch /all/x && exit 1; exit 0"), "all", json!({}));
    let mut read_only = of_claim("all", "shared");
    read_only["persistentVolumeClaim"]["readOnly"] = json!(true);
    let spec = json!({"restartPolicy": "Never", "containers": [reader], "volumes": [read_only]});
    let pod = cluster.pod("reader", spec).await?;
    api.wait(&pod, "the reader's end", |p| phase(p) == "Succeeded").await?;
    assert!(cluster.log("reader").await?.contains("hello"));

    cluster.claim("alone", json!({"accessModes": ["ReadWriteOncePod"]})).await?;
    let user = mount(container("main", "while :; do sleep 0.1; done"), "d", json!({}));
    let spec = json!({"containers": [user], "volumes": [of_claim("d", "alone")]});
    let first = cluster.pod("first", spec.clone()).await?;
    api.wait(&first, "the first user", ready).await?;
    // Past the scheduler, the node itself refuses a second one.
    let mut bound = spec.clone();
    place(&mut bound);
    let second = cluster.node.run_pod("second", bound).await?;
    let refused = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    wait_for_event(&cluster, "second", refused).await?;
    api.delete(&first, 0).await?;
    api.wait(&second, "the second user", ready).await?;
    Ok(())
}

async fn wait_for_event(cluster: &Cluster, pod: &str, text: &str) -> Result<()> {
    for _ in 0..600 {
        if cluster.node.events(pod).await?.contains(text) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("no event {text:?}: {}", cluster.node.events(pod).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_says_what_its_claim_waits_for() -> Result<()> {
    let cluster = Cluster::start("waits").await?;
    let api = &cluster.node.api;
    let user = mount(container("main", "while :; do sleep 0.1; done"), "d", json!({}));
    let spec = |claim: &str| json!({"containers": [user], "volumes": [of_claim("d", claim)]});
    cluster.pod("early", spec("late")).await?;
    let missing = "0/1 nodes are available: persistentvolumeclaim \"late\" not found.";
    wait_for_event(&cluster, "early", missing).await?;
    cluster.claim("none", json!({"storageClassName": ""})).await?;
    let unbound = cluster.node.run_pod("unbound", spec("none")).await?;
    wait_for_event(&cluster, "unbound", "error processing PVC default/none: PVC is not bound").await?;
    wait_for_event(
        &cluster,
        "none",
        "no persistent volumes available for this claim and no storage class is set",
    )
    .await?;

    let folder = tempfile::tempdir()?;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": folder.path(), "type": "Directory"}}});
    api.create(VOLUMES, &volume).await?;
    api.wait(&unbound, "a pod with the volume", ready).await?;
    cluster.claim("late", json!({})).await?;
    api.wait(&format!("{NAMESPACE}/pods/early"), "a pod with a late claim", ready).await?;

    let lost = cluster.folders().pop().context("a folder")?;
    api.delete(&format!("{NAMESPACE}/pods/early"), 0).await?;
    api.wait(&format!("{NAMESPACE}/pods/early"), "the pod's end", |found| found.is_none()).await?;
    std::fs::remove_dir_all(&lost)?;
    cluster.pod("after", spec("late")).await?;
    wait_for_event(&cluster, "after", "of the volume is lost").await?;
    assert!(!lost.exists(), "an empty folder would hide the loss");
    api.delete(&unbound, 0).await?;
    api.delete(&format!("{NAMESPACE}/persistentvolumeclaims/none"), 0).await?;
    let released = |volume: Option<&Value>| phase(volume) == "Released";
    api.wait(&format!("{VOLUMES}/by-hand"), "a released volume", released).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_volume_goes_with_its_pod_and_a_container_restarts_without_the_server() -> Result<()> {
    let mut cluster = Cluster::start("ephemeral").await?;
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let script = "echo run >> /d/log; test $(wc -l < /d/log) -ge 2 && while :; do sleep 0.1; done; sleep 3";
    let user = mount(container("main", script), "d", json!({}));
    let spec = json!({"containers": [user],
        "volumes": [{"name": "d", "ephemeral": {"volumeClaimTemplate": template}}]});
    let pod = cluster.pod("user", spec).await?;
    let api = &cluster.node.api;
    api.wait(&pod, "a ready pod", ready).await?;
    let claim = format!("{NAMESPACE}/persistentvolumeclaims/user-d");
    let made = api.get(&claim).await?.unwrap_or_default();
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "user");
    let log = cluster.folders().first().context("a folder")?.join("log");

    cluster.node.stop_agent().await;
    cluster.node.api.set_up(false);
    cluster.node.start_agent();
    for _ in 0..1200 {
        if std::fs::read_to_string(&log)?.lines().count() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(std::fs::read_to_string(&log)?, "run\nrun\n", "the container is restarted with its volume");
    let api = &cluster.node.api;
    api.set_up(true);
    api.delete(&pod, 0).await?;
    api.wait(&claim, "the claim's end", |found| found.is_none()).await?;
    for _ in 0..1200 {
        if cluster.folders().is_empty() && cluster.volumes().await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    ensure!(cluster.folders().is_empty(), "{NODE} keeps {:?}", cluster.folders());
    anyhow::bail!("the volume stays: {:?}", cluster.volumes().await?)
}
