//! The example application: deploys it and proves that it works.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::kubectl::{Kubectl, Objects, condition, text};
use crate::progress::Step;

pub const NAMESPACE: &str = "example";
pub const NODE_PORT: u16 = 30080;
/// Of all Deployments together.
pub const REPLICAS: usize = 6;
const REQUESTS: usize = 300;
const SERVERS: &str = "--selector=app in (web, api)";
const IN_NAMESPACE: &str = "--namespace=example";

/// The number of answers by pod and node.
pub type Spread = BTreeMap<(String, String), usize>;

/// The results of the proof.
pub struct Proof {
    pub cluster_ip: Spread,
    pub node_port: Spread,
    /// How many requests of the pod that the policy excludes succeeded; 0 is right.
    pub let_in: usize,
    /// How many requests it made.
    pub tried: usize,
    pub replaced: Replacement,
}

/// A deleted replica and its replacement.
pub struct Replacement {
    pub old: String,
    pub new: String,
    pub took: Duration,
}

pub fn manifests() -> PathBuf {
    crate::workspace().join("tests/cluster/manifests")
}

/// Applies the application and waits until every replica is ready.
pub fn deploy(kubectl: &Kubectl) -> Result<()> {
    let step = Step::of("example application", REPLICAS as u64);
    // A namespace that is being deleted accepts nothing new.
    let args = ["namespaces", "--field-selector=metadata.name=example"];
    kubectl.wait(&args, Duration::from_secs(60), |found| {
        let ending = found.iter().any(|found| found.pointer("/metadata/deletionTimestamp").is_some());
        (!ending).then_some(())
    })?;
    for file in ["10-web.yaml", "20-api.yaml"] {
        kubectl.apply(&manifests().join(file))?;
    }
    wait_ready(kubectl, |ready, pods| {
        step.at(ready);
        step.say(pods.iter().find(|pod| !condition(pod, "Ready")).map(state).unwrap_or_default());
    })?;
    step.done(format!("{REPLICAS} replicas ready"));
    Ok(())
}

/// Waits until all replicas are ready and none is terminating.
pub fn wait_ready(kubectl: &Kubectl, mut each: impl FnMut(usize, &Objects)) -> Result<()> {
    let args = ["pods", IN_NAMESPACE, SERVERS];
    let waited = kubectl.wait(&args, Duration::from_secs(90), |pods| {
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        each(ready, pods);
        (ready == REPLICAS && pods.len() == REPLICAS).then_some(())
    });
    waited.map_err(|error| {
        let pods = kubectl.run(&["get", "pods", IN_NAMESPACE, "--output=wide"]).unwrap_or_default();
        let events = ["get", "events", IN_NAMESPACE, "--field-selector=type=Warning", "--no-headers"];
        let events = kubectl.run(&events).unwrap_or_default();
        let last: Vec<&str> = events.lines().rev().take(6).collect();
        error.context(format!("the replicas do not become ready\n{pods}{}\n", last.join("\n")))
    })
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// Why a pod is not ready yet, in a few words.
fn state(pod: &Value) -> String {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let waiting = statuses.into_iter().flatten().map(|status| text(status, "/state/waiting/reason"));
    let reason = waiting.into_iter().find(|reason| !reason.is_empty());
    format!("{} {}", text(pod, "/metadata/name"), reason.unwrap_or(text(pod, "/status/phase")))
}

/// Sends requests to the services from inside and outside, and deletes a replica.
pub fn prove(kubectl: &Kubectl, nodes: &[SocketAddr]) -> Result<Proof> {
    let step = Step::new("requests by ClusterIP");
    let (answers, refusals) = run_clients(kubectl)?;
    let cluster_ip = spread(answers.lines())?;
    step.done(format!("{} answers from {} replicas", total(&cluster_ip), cluster_ip.len()));
    let step = Step::of("requests by NodePort", REQUESTS as u64);
    let node_port = by_node_port(nodes, |sent| step.at(sent))?;
    step.done(format!("{} answers from {} replicas", total(&node_port), node_port.len()));
    let refused = refusals.lines().filter(|line| *line == "refused").count();
    // An answer is a pod's and its node's name.
    let let_in = refusals.lines().filter(|line| line.split_whitespace().count() >= 2).count();
    let tried = refused + let_in;
    let step = Step::new("a replica deleted");
    let replaced = replace_one(kubectl)?;
    step.done(format!("{} came for {}", replaced.new, replaced.old));
    Ok(Proof { cluster_ip, node_port, let_in, tried, replaced })
}

/// Reads the logs of the admitted and of the excluded client.
fn run_clients(kubectl: &Kubectl) -> Result<(String, String)> {
    let clients = ["pod/client", "pod/stranger"];
    let delete = ["delete", IN_NAMESPACE, "--ignore-not-found", clients[0], clients[1]];
    kubectl.run(&delete)?;
    kubectl.apply(&manifests().join("30-clients.yaml"))?;
    let args = ["pods", IN_NAMESPACE, "--selector=role"];
    let ended = kubectl.wait(&args, Duration::from_secs(90), |pods| {
        let phases: Vec<&str> = pods.iter().map(|pod| text(pod, "/status/phase")).collect();
        let ended = phases.iter().filter(|phase| ["Succeeded", "Failed"].contains(phase)).count();
        (ended == clients.len()).then_some(())
    });
    ended.context("the clients do not end")?;
    let log = |pod| kubectl.run(&["logs", IN_NAMESPACE, pod]);
    Ok((log("client")?, log("stranger")?))
}

fn by_node_port(nodes: &[SocketAddr], mut each: impl FnMut(usize)) -> Result<Spread> {
    let mut answers = Vec::with_capacity(REQUESTS);
    for (sent, node) in nodes.iter().cycle().take(REQUESTS).enumerate() {
        answers.push(http_get(*node, Duration::from_secs(5)).with_context(|| format!("ask {node}"))?);
        each(sent);
    }
    spread(answers.iter().map(String::as_str))
}

/// Sends one request over a connection of its own and returns the body.
pub fn http_get(address: SocketAddr, timeout: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    if !head.contains(" 200 ") {
        bail!("the answer is {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.trim().to_owned())
}

/// Counts answers, each of which is a pod's and its node's name.
fn spread<'a>(answers: impl Iterator<Item = &'a str>) -> Result<Spread> {
    let mut spread = Spread::new();
    for answer in answers {
        let mut words = answer.split_whitespace();
        let (Some(pod), Some(node)) = (words.next(), words.next()) else {
            bail!("a request failed: the answer is {answer:?}");
        };
        *spread.entry((pod.to_owned(), node.to_owned())).or_default() += 1;
    }
    Ok(spread)
}

pub fn total(spread: &Spread) -> usize {
    spread.values().sum()
}

/// Deletes a replica and waits until another is ready in its place.
fn replace_one(kubectl: &Kubectl) -> Result<Replacement> {
    let names = |pods: &Objects| -> Vec<String> {
        pods.iter().filter(|pod| is_ready(pod)).map(|pod| text(pod, "/metadata/name").to_owned()).collect()
    };
    let args = ["pods", IN_NAMESPACE, "--selector=app=web"];
    let before = kubectl.wait(&args, Duration::from_secs(30), |pods| Some(names(pods)))?;
    let old = before.first().context("there is no replica to delete")?.clone();
    let from = Instant::now();
    kubectl.run(&["delete", "pod", IN_NAMESPACE, "--wait=false", &old])?;
    let new = kubectl.wait(&args, Duration::from_secs(60), |pods| {
        let now = names(pods);
        let new = now.iter().find(|name| !before.contains(name))?.clone();
        (now.len() == before.len() && !now.contains(&old)).then_some(new)
    })?;
    Ok(Replacement { old, new, took: from.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_for_its_replica() {
        let spread = spread(["a n1", "b n2 hello", "a n1"].into_iter()).unwrap();
        assert_eq!(spread[&("a".to_owned(), "n1".to_owned())], 2);
        assert_eq!(total(&spread), 3);
    }

    #[test]
    fn a_failed_request_fails_the_proof() {
        assert!(spread(["a n1", "failed"].into_iter()).is_err());
    }
}
