//! Services from inside pods and from outside, and the absence of kernel rules for them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::cluster::kubectl::text;
use xtask::example::http_get;

use crate::fixture::{NODES, Space, answers, in_pod, shared};

#[test]
fn a_cluster_ip_reaches_every_replica_from_inside_a_pod() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "services")?;
    space.deploy("web", 4)?;
    let address = space.expose("web")?;
    space.deploy("client", 1)?;
    let pods = space.ready_pods("app=web")?;
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    ensure!(nodes.len() == usize::from(NODES), "the replicas are on {nodes:?} only");
    let counted = answers(&space, "client", &format!("http://{address}/"), 80)?;
    for pod in &pods {
        let name = text(pod, "/metadata/name");
        ensure!(counted.contains_key(name), "{name} never answered: {counted:?}");
    }
    ensure!(counted.len() == pods.len(), "not only replicas answered: {counted:?}");
    // The same for a process that no socket hook sees: packet by packet.
    let client = space.ready_pods("app=client")?.into_iter().next().context("no client")?;
    let service: SocketAddr = format!("{address}:80").parse()?;
    let by_packet = in_pod(&shared.cluster, &client, || {
        (0..80).map(|_| http_get(service, Duration::from_secs(2))).collect::<Result<Vec<_>>>()
    })?;
    for pod in &pods {
        let name = text(pod, "/metadata/name");
        ensure!(by_packet.iter().any(|answer| answer.starts_with(name)), "{name} never answered by packet");
    }
    Ok(())
}

#[test]
fn a_replica_reaches_itself_through_its_own_service() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "hairpin")?;
    space.deploy("web", 1)?;
    let address = space.expose("web")?;
    let counted = answers(&space, "web", &format!("http://{address}/"), 10)?;
    ensure!(counted.len() == 1 && !counted.contains_key("failed"), "{counted:?}");
    Ok(())
}

#[test]
fn the_kernel_has_no_rule_and_no_tracked_connection_of_ours() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "kernel")?;
    space.deploy("web", 3)?;
    let address = space.expose("web")?;
    let counted = answers(&space, "web", &format!("http://{address}/"), 30)?;
    ensure!(!counted.contains_key("failed"), "{counted:?}");
    for index in 1..=NODES {
        let node = shared.cluster.layout.node(index);
        for words in [&["nft", "list", "ruleset"][..], &["conntrack", "-L"][..]] {
            let netns = format!("--net={}", node.netns_path().display());
            let output = Command::new("nsenter").arg(netns).arg("--").args(words).output();
            let output = output.with_context(|| format!("run {}", words.join(" ")))?;
            let shown = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(output.status.success(), "{}: {output:?}", words.join(" "));
            ensure!(shown.is_empty(), "{} in {} shows\n{shown}", words.join(" "), node.name);
        }
    }
    Ok(())
}

#[test]
fn a_node_port_answers_on_every_node_with_every_replica() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "nodeports")?;
    space.deploy("web", 3)?;
    space.run(&["expose", "deployment", "web", "--type=NodePort", "--port=80", "--target-port=8080"])?;
    let service = space.get(&["service", "web"])?;
    let port = service.pointer("/spec/ports/0/nodePort").and_then(serde_json::Value::as_u64);
    let port = u16::try_from(port.context("no node port")?)?;
    ensure!((30_000..=32_767).contains(&port), "node port {port}");
    let pods = space.ready_pods("app=web")?;
    for index in 1..=NODES {
        let address = SocketAddr::from((shared.cluster.layout.node(index).addr, port));
        let answers: Vec<String> =
            (0..60).map(|_| http_get(address, Duration::from_secs(2))).collect::<Result<_>>()?;
        for pod in &pods {
            let name = text(pod, "/metadata/name");
            ensure!(
                answers.iter().any(|answer| answer.starts_with(name)),
                "{name} never answered at {address}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_service_without_replicas_refuses_at_once() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "empty")?;
    space.deploy("client", 1)?;
    space.run(&["create", "service", "clusterip", "none", "--tcp=80:8080"])?;
    let service = space.get(&["service", "none"])?;
    let url = format!("http://{}/", text(&service, "/spec/clusterIP"));
    let took = std::time::Instant::now();
    let counted = answers(&space, "client", &url, 1)?;
    ensure!(counted.contains_key("failed"), "{counted:?}");
    ensure!(took.elapsed() < Duration::from_secs(4), "it took {:?}", took.elapsed());
    Ok(())
}
