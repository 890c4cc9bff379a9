//! A node for a test: containerd of its own, the API server and the agent in this process.

mod kubelet;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::api_server::{Authority, Pem, TestApiServer};
use crate::containerd::{Containerd, unmount_below};
use crate::image::{Image, build, pause};
use anyhow::{Context as _, Result};
use http::Request;
use serde_json::{Value, json};
use skep_apiserver::Identity;
use skep_network::Informers;
use skep_node::{AgentConfig, Inputs, OtherParts, ServingTls};
use skep_test_servers::free_address;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const IMAGE: &str = "localhost/skep/test:1";
pub const NODE: &str = "node-under-test";
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub struct TestNode {
    pub api: Api,
    pub containerd: Containerd,
    /// Declared after containerd, and so removed after its containers.
    cgroup: Cgroup,
    pub ca: Authority,
    serving_certificate: Pem,
    pub client_certificate: Pem,
    pub address: std::net::SocketAddr,
    root: TempDir,
    agent: Option<(JoinHandle<()>, CancellationToken)>,
    /// What this test's agent has set otherwise.
    configure: fn(&mut AgentConfig),
}

/// The API server as a user sees it, by paths such as `/api/v1/namespaces/default/pods/web`.
pub struct Api {
    server: TestApiServer,
    client: kube::Client,
    /// Whether the agent can reach the server.
    up: watch::Sender<bool>,
}

impl Api {
    async fn start() -> Result<Api> {
        let server = TestApiServer::start().await?;
        let (client, up) = (server.client(), watch::Sender::new(true));
        let api = Api { server, client, up };
        // The service account controller would make it; admission of pods needs it.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        api.create("/api/v1/namespaces/default/serviceaccounts", &account).await?;
        Ok(api)
    }

    /// The agent's client.
    fn node_client(&self) -> kube::Client {
        let identity = Identity::new(format!("system:node:{NODE}"), &["system:nodes"]);
        self.server.cuttable_client(identity, &self.up.subscribe())
    }

    /// A client for each user, as the controllers have.
    pub fn clients_by_user(&self) -> impl Fn(&str) -> kube::Client + Send + Sync + use<> {
        self.server.clients_by_user().0
    }

    pub fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    async fn request(&self, request: http::request::Builder, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = request.header("content-type", "application/json").body(body)?;
        Ok(self.client.request(request).await?)
    }

    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.client.request(Request::get(path).body(Vec::new())?).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("get {path}")),
        }
    }

    pub async fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.request(Request::post(collection), object)
            .await
            .with_context(|| format!("create in {collection}"))
    }

    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.request(Request::put(path), object).await.with_context(|| format!("replace {path}"))
    }

    /// A strategic merge patch.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let request = Request::patch(path).header("content-type", "application/strategic-merge-patch+json");
        let request = request.body(serde_json::to_vec(patch)?)?;
        self.client.request(request).await.with_context(|| format!("patch {path}"))
    }

    /// Deletes as a user does; with a grace of 0 the object is gone at once.
    pub async fn delete(&self, path: &str, grace_seconds: i64) -> Result<()> {
        let options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace_seconds});
        self.request(Request::delete(path), &options).await.with_context(|| format!("delete {path}"))?;
        Ok(())
    }

    /// Waits until `test` holds for the object at `path`.
    pub async fn wait(&self, path: &str, what: &str, test: impl Fn(Option<&Value>) -> bool) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let object = self.get(path).await?;
            if test(object.as_ref()) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{what} did not come: {object:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The folder of the pods' cgroups in every hierarchy.
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([root.to_path_buf()]) {
            remove_cgroup(&hierarchy.join(&self.0));
        }
    }
}

/// Pods that were there when the agent ended have left theirs.
fn remove_cgroup(path: &Path) {
    for child in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

impl TestNode {
    pub async fn start(name: &str) -> Result<TestNode> {
        TestNode::start_with(name, |_| {}).await
    }

    /// A node whose agent is configured further.
    pub async fn start_with(name: &str, configure: fn(&mut AgentConfig)) -> Result<TestNode> {
        let _ =
            tracing_subscriber::fmt().with_env_filter("warn,skep_node=debug").with_test_writer().try_init();
        let containerd = tokio::task::block_in_place(|| Containerd::start(name))?;
        let root = tempfile::Builder::new().prefix(&format!("skep-{name}-agent-")).tempdir_in("/tmp")?;
        let images = root.path().join("images");
        std::fs::create_dir_all(&images)?;
        pause(&images.join("pause.tar"))?;
        let image = Image { name: IMAGE, command: &["/bin/sh"], files: &[], stop_signal: None };
        build(&image, &images.join("test.tar"))?;
        let address = free_address()?;
        let cgroup = Cgroup(format!("skep-{name}-{}", std::process::id()));
        let ca = Authority::new()?;
        let mut node = TestNode {
            api: Api::start().await?,
            containerd,
            cgroup,
            serving_certificate: ca.issue(&format!("system:node:{NODE}"), "system:nodes")?,
            client_certificate: ca.issue("kube-apiserver-kubelet-client", "system:masters")?,
            ca,
            address,
            root,
            agent: None,
            configure,
        };
        node.start_agent();
        Ok(node)
    }

    /// The folder of the pods' cgroups, in every hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup.0
    }

    /// The agent's folder.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn start_agent(&mut self) {
        let tls = ServingTls {
            certificate: self.serving_certificate.certificate.clone(),
            key: self.serving_certificate.key.clone(),
            client_ca: self.ca.certificate.clone(),
        };
        let root = self.root.path().to_path_buf();
        let mut config = AgentConfig::new(NODE, self.api.node_client(), root, self.address, tls);
        config.containerd_socket = self.containerd.socket();
        config.cgroup_parent = format!("/{}", self.cgroup.0);
        config.lease_interval = Duration::from_secs(2);
        // The machine of the tests may be nearly full.
        config.eviction.thresholds.clear();
        config.images.high_percent = 100;
        (self.configure)(&mut config);
        let stop = CancellationToken::new();
        let own = stop.clone();
        let mut informers = Informers::default();
        informers.pods.restrict(format!("spec.nodeName={NODE}"));
        let inputs = Inputs {
            pods: informers.pods.subscribe(),
            services: informers.services.subscribe(),
            tunnels: None,
            network: None,
            others: OtherParts::default(),
        };
        tokio::spawn(informers.run(self.api.node_client(), stop.clone()));
        let task = tokio::spawn(async move {
            if let Err(error) = skep_node::run(config, inputs, own).await {
                eprintln!("agent: {error}");
            }
        });
        self.agent = Some((task, stop));
    }

    /// Ends the agent at once, whatever it is doing.
    pub async fn stop_agent(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            let _ = task.await;
        }
    }

    /// Creates a pod that is bound to the node; returns its path.
    pub async fn run_pod(&self, name: &str, spec: Value) -> Result<String> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false},
        });
        if let (Some(into), Some(from)) = (pod["spec"].as_object_mut(), spec.as_object()) {
            into.extend(from.clone());
        }
        self.api.create("/api/v1/namespaces/default/pods", &pod).await?;
        Ok(format!("/api/v1/namespaces/default/pods/{name}"))
    }

    /// Events about the pod, as lines `reason: message`.
    pub async fn events(&self, name: &str) -> Result<String> {
        let list = self.api.get("/api/v1/namespaces/default/events").await?.unwrap_or_default();
        let events = list["items"].as_array().into_iter().flatten();
        let about = events.filter(|event| event["involvedObject"]["name"] == name);
        let text = |event: &Value| {
            format!("{}: {}", event["reason"].as_str().unwrap_or(""), event["message"].as_str().unwrap_or(""))
        };
        Ok(about.map(text).collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            task.abort();
        }
        unmount_below(self.root.path());
    }
}

pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]})
}

pub fn phase(pod: Option<&Value>) -> &str {
    pod.and_then(|p| p["status"]["phase"].as_str()).unwrap_or("")
}
