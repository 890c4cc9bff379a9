//! A node for a test: containerd of its own, the API in memory, the agent in this process.

pub(crate) mod api;
pub(crate) mod kubelet;

use std::time::Duration;

use anyhow::Result;
use api::FakeApi;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use skep_network::Informers;
use skep_node::{AgentConfig, Inputs, ServingTls};
use skep_tests::containerd::{Containerd, unmount_below};
use skep_tests::image::{Image, build, pause};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const IMAGE: &str = "localhost/skep/test:1";
pub(crate) const NODE: &str = "node-under-test";

pub(crate) struct TestNode {
    pub(crate) api: FakeApi,
    pub(crate) containerd: Containerd,
    /// Declared after containerd, and so removed after its containers.
    cgroup: Cgroup,
    pub(crate) pki: Pki,
    pub(crate) address: std::net::SocketAddr,
    root: TempDir,
    agent: Option<(JoinHandle<()>, CancellationToken)>,
}

/// The folder of the pods' cgroups in every hierarchy.
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([root.to_path_buf()]) {
            let _ = std::fs::remove_dir(hierarchy.join(&self.0));
        }
    }
}

/// A cluster CA, the node's certificate and a client's.
pub(crate) struct Pki {
    pub(crate) ca: String,
    pub(crate) serving: (String, String),
    pub(crate) client: (String, String),
}

impl Pki {
    fn new() -> Result<Pki> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let leaf = |names: Vec<String>, organisation: &str, common: &str| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(rcgen::DnType::OrganizationName, organisation);
            params.distinguished_name.push(rcgen::DnType::CommonName, common);
            params.extended_key_usages =
                vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        Ok(Pki {
            ca: ca.pem(),
            serving: leaf(vec!["127.0.0.1".into()], "system:nodes", "system:node:test")?,
            client: leaf(Vec::new(), "system:masters", "kube-apiserver-kubelet-client")?,
        })
    }
}

impl TestNode {
    pub(crate) async fn start(name: &str) -> Result<TestNode> {
        let _ =
            tracing_subscriber::fmt().with_env_filter("warn,skep_node=debug").with_test_writer().try_init();
        let containerd = tokio::task::block_in_place(|| Containerd::start(name))?;
        let root = tempfile::Builder::new().prefix(&format!("skep-{name}-agent-")).tempdir_in("/tmp")?;
        let images = root.path().join("images");
        std::fs::create_dir_all(&images)?;
        pause(&images.join("pause.tar"))?;
        build(&Image { name: IMAGE, command: &["/bin/sh"], files: &[] }, &images.join("test.tar"))?;
        // A port that was free a moment ago; the agent binds it next.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let cgroup = Cgroup(format!("skep-{name}-{}", std::process::id()));
        let mut node = TestNode {
            api: FakeApi::new(),
            containerd,
            cgroup,
            pki: Pki::new()?,
            address,
            root,
            agent: None,
        };
        node.start_agent();
        Ok(node)
    }

    pub(crate) fn start_agent(&mut self) {
        let tls = ServingTls {
            certificate: self.pki.serving.0.clone(),
            key: self.pki.serving.1.clone(),
            client_ca: self.pki.ca.clone(),
        };
        let root = self.root.path().to_path_buf();
        let mut config = AgentConfig::new(NODE, self.api.client(), root, self.address, tls);
        config.containerd_socket = self.containerd.socket();
        config.cgroup_parent = format!("/{}", self.cgroup.0);
        config.lease_interval = Duration::from_secs(2);
        let stop = CancellationToken::new();
        let own = stop.clone();
        let mut informers = Informers::default();
        informers.pods.restrict(format!("spec.nodeName={NODE}"));
        let inputs = Inputs {
            pods: informers.pods.subscribe(),
            services: informers.services.subscribe(),
            network: None,
        };
        tokio::spawn(informers.run(self.api.client(), stop.clone()));
        let task = tokio::spawn(async move {
            if let Err(error) = skep_node::run(config, inputs, own).await {
                eprintln!("agent: {error}");
            }
        });
        self.agent = Some((task, stop));
    }

    /// Ends the agent as a kill does: at once, wherever it is.
    pub(crate) async fn stop_agent(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            let _ = task.await;
        }
    }

    /// Binds a pod to the node; returns its path.
    pub(crate) fn run_pod(&self, name: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "generation": 1},
            "spec": {"nodeName": NODE, "hostNetwork": true},
        });
        if let (Some(into), Some(from)) = (pod["spec"].as_object_mut(), spec.as_object()) {
            into.extend(from.clone());
        }
        self.api.put(&path, pod);
        path
    }

    /// Events about the pod, as `reason: message`.
    pub(crate) fn events(&self, name: &str) -> Vec<String> {
        let about = |e: &&Value| e["involvedObject"]["name"] == name;
        let events = self.api.list("/api/v1/namespaces/default/events/");
        let text = |e: &Value| {
            format!("{}: {}", e["reason"].as_str().unwrap_or(""), e["message"].as_str().unwrap_or(""))
        };
        events.iter().filter(about).map(text).collect()
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

pub(crate) fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]})
}

pub(crate) fn phase(pod: Option<&Value>) -> &str {
    pod.and_then(|p| p["status"]["phase"].as_str()).unwrap_or("")
}
