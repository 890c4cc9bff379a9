//! An agent that is killed while pods start and end, at other moments each time: the next agent goes on. Nothing is started twice,
//! and nothing is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::cluster::kubectl::{condition, text};
use xtask::cluster::layout::NodeLayout;
use xtask::cluster::{containerd, host};
use xtask::image;

use crate::fixture::{NODES, Shared, Space, shared};

/// From the create of pods, or their delete, until the agent is killed. The pods of a round are at different steps then.
const KILLED_AFTER_MS: [u64; 6] = [100, 300, 600, 900, 1_300, 1_800];
const PODS: usize = 5;
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(10);
const NODE: u8 = 1;

/// Each start of a container adds a line to a file of the pod.
fn pod(name: &str, node: &str) -> Value {
    let container = |name: &str, script: String| {
        json!({
            "name": name, "image": image::EXAMPLE, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        })
    };
    let main = "echo main >>/data/starts; trap 'exit 0' TERM; while :; do sleep 0.1; done".to_owned();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "NAMESPACE", "labels": {"app": "killed"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [container("first", "echo first >>/data/starts; sleep 0.3".to_owned())],
            "containers": [container("main", main)],
        },
    })
}

#[test]
fn an_agent_killed_at_any_step_of_a_pod_starts_nothing_twice_and_leaves_nothing() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "agent-kills")?;
    let node = shared.cluster.layout.node(NODE);
    let (mut uids, links) = (BTreeSet::new(), links(&node)?);
    for after in KILLED_AFTER_MS.map(Duration::from_millis) {
        let items: Vec<Value> =
            (0..PODS).map(|number| pod(&format!("pod-{number}-{}", after.as_millis()), &node.name)).collect();
        space.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        kill_agent(&shared, after)?;
        space.wait_ready("app=killed", PODS)?;
        for pod in space.ready_pods("app=killed")? {
            started_once(&space, &pod).with_context(|| format!("killed after {after:?}"))?;
            uids.insert(text(&pod, "/metadata/uid").to_owned());
        }
        space.run(&["delete", "pods", "--selector=app=killed", "--wait=false"])?;
        kill_agent(&shared, after)?;
        let args = ["pods", "--namespace", &space.name, "--selector=app=killed"];
        shared
            .cluster
            .kubectl
            .wait(&args, Duration::from_secs(60), |pods| pods.is_empty().then_some(()))
            .with_context(|| format!("pods are not gone; the agent was killed after {after:?}"))?;
    }
    ensure!(uids.len() == PODS * KILLED_AFTER_MS.len(), "{} pods ran", uids.len());
    let left = left_of(&node, &uids)?;
    ensure!(left.is_empty(), "left of the pods: {left:#?}");
    no_more_links(&node, &links)?;
    shared.cluster.wait_for_nodes(NODES, |_| ())
}

fn links(node: &NodeLayout) -> Result<BTreeSet<String>> {
    let listed = host::ip(&["-netns", &node.netns, "-oneline", "link"])?;
    Ok(listed.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect())
}

/// The kernel removes the interfaces of a namespace some time after the namespace.
fn no_more_links(node: &NodeLayout, before: &BTreeSet<String>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left: Vec<String> = links(node)?.difference(before).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < NAMESPACE_TIMEOUT, "interfaces left of the pods: {left:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn kill_agent(shared: &Shared, after: Duration) -> Result<()> {
    std::thread::sleep(after);
    ensure!(shared.cluster.kill_agent(NODE)?, "there was no agent to kill");
    shared.cluster.start_node(NODE)
}

fn started_once(space: &Space<'_>, pod: &Value) -> Result<()> {
    let name = text(pod, "/metadata/name");
    let starts = space.run(&["exec", name, "--container=main", "--", "cat", "/data/starts"])?;
    ensure!(starts == "first\nmain\n", "{name} started: {starts:?}");
    let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
    ensure!(restarts == Some(&json!(0)) && condition(pod, "Ready"), "{name} was restarted: {restarts:?}");
    Ok(())
}

/// Containers, allocated addresses, mounts, cgroups and folders that name one of the pods.
fn left_of(node: &NodeLayout, uids: &BTreeSet<String>) -> Result<Vec<String>> {
    let is_of_pod = |text: &str| uids.iter().any(|uid| text.contains(uid.as_str()));
    let listed =
        containerd::ctr(&node.containerd_socket(), &["--namespace", "k8s.io", "containers", "list", "-q"])?;
    let mut left = Vec::new();
    for id in String::from_utf8_lossy(&listed.stdout).lines() {
        let info =
            containerd::ctr(&node.containerd_socket(), &["--namespace", "k8s.io", "containers", "info", id])?;
        if is_of_pod(&String::from_utf8_lossy(&info.stdout)) {
            left.push(format!("container {id}"));
        }
    }
    let allocations = node.agent_root().join("network/allocations.json");
    let allocations: Vec<Value> = serde_json::from_slice(&std::fs::read(&allocations)?)?;
    let allocated = allocations.iter().filter(|allocation| is_of_pod(text(allocation, "/uid")));
    left.extend(allocated.map(|allocation| format!("allocation {allocation}")));
    let mounts = host::mounts()?.into_iter().map(|mount| mount.path.display().to_string());
    left.extend(mounts.filter(|path| is_of_pod(path)).map(|path| format!("mount {path}")));
    let mut folders = host::cgroups(&node.cgroup)?;
    folders.extend([node.agent_root(), node.run.clone()]);
    for folder in folders {
        below(&folder, &mut |path| {
            if path.file_name().is_some_and(|name| is_of_pod(&name.to_string_lossy())) {
                left.push(path.display().to_string());
            }
        });
    }
    Ok(left)
}

fn below(folder: &Path, each: &mut impl FnMut(&Path)) {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What is removed meanwhile is not left.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            each(&path);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            }
        }
    }
}
