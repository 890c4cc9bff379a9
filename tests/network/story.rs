//! Two pods, a Service, policies that come and go, an agent that goes and comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use skep_tests::netns::NetNs;

use crate::agent::{Agent, Machine, NODE_ADDR};

const NODE: &str = "np-story";
const VIP: &str = "10.96.7.8";
/// How long an answer may take before it counts as none.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(5);

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

fn pod(name: &str) -> Pod {
    object(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": NODE, "containers": []},
    }))
}

/// Ingress to the server from no pod, or from the pods of `from`.
fn policy(from: Option<&str>) -> NetworkPolicy {
    let rules = from.map(|app| json!({"from": [{"podSelector": {"matchLabels": {"app": app}}}]}));
    object(json!({
        "metadata": {"namespace": "default", "name": "guard"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}},
                 "ingress": rules.into_iter().collect::<Vec<_>>()},
    }))
}

/// Everything but the policy.
fn feed(agent: &Agent, server: Option<&str>) -> Result<()> {
    let node: Node = object(json!({
        "metadata": {"name": NODE}, "spec": {"podCIDR": "10.79.1.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]},
    }));
    let namespace: Namespace = object(json!({"metadata": {"name": "default"}}));
    let service: Service = object(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": VIP, "ports": [{"port": 80}]},
    }));
    let slice = server.map(|addr| -> EndpointSlice {
        object(json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [addr], "nodeName": NODE}],
        }))
    });
    agent.index(move |index| {
        index.apply_node(&node);
        index.apply_namespace(&namespace);
        index.apply_service(&service);
        ["client", "server"].iter().for_each(|name| index.apply_pod(&pod(name)));
        slice.iter().for_each(|slice| index.apply_slice(slice));
    })
}

/// Answers every byte with itself, on every connection, for as long as the namespace has the thread.
fn serve_echo(pod: &NetNs) -> Result<()> {
    let listener = pod.run(|| TcpListener::bind("0.0.0.0:8080"))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = &stream;
                let mut byte = [0];
                while reader.read_exact(&mut byte).is_ok() && (&stream).write_all(&byte).is_ok() {}
            });
        }
    });
    Ok(())
}

fn dial(pod: &NetNs) -> Result<TcpStream> {
    dial_at(pod, &format!("{VIP}:80"))
}

fn dial_at(pod: &NetNs, to: &str) -> Result<TcpStream> {
    let to: SocketAddr = to.parse()?;
    let stream = pod.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(500)))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

fn echoes(mut stream: &TcpStream) -> bool {
    let mut byte = [7];
    stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok()
}

fn within_deadline(what: &str, mut done: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
    }
    Ok(start.elapsed())
}

#[test]
fn pods_service_policy_and_restart() -> Result<()> {
    let machine = Machine::new(NODE)?;
    let (client, server) = (NetNs::new("np-client")?, NetNs::new("np-server")?);
    let mut agent = machine.start()?;
    feed(&agent, None)?;
    agent.sync()?;
    agent.cni("ADD", "client", &client)?;
    let added = agent.cni("ADD", "server", &server)?;
    let address = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    let address = address.context("no address")?.to_owned();
    serve_echo(&server)?;
    ensure!(dial(&client).is_err(), "a service without endpoints answered");

    feed(&agent, Some(&address))?;
    within_deadline("the service answers", || dial(&client).is_ok_and(|stream| echoes(&stream)))?;
    let established = dial(&client)?;
    ensure!(echoes(&established), "no echo on a fresh connection");

    check_host_port(&agent, &client, &address)?;

    // Revoked by policy: the established connection too.
    agent.index(|index| index.apply_policy(&policy(None)))?;
    let cut = within_deadline("an established connection is cut", || !echoes(&established))?;
    println!("an established connection was cut after {:?}", cut.saturating_sub(ANSWER_TIMEOUT));
    // The printed figure is the measurement; this bound, wide for a busy machine, catches a cut that waits for a timer.
    ensure!(cut < Duration::from_secs(1) + ANSWER_TIMEOUT, "the cut took {cut:?}");
    ensure!(dial(&client).is_err(), "a denied connection was made");
    agent.index(|index| index.apply_policy(&policy(Some("client"))))?;
    within_deadline("an allowed client gets in", || dial(&client).is_ok_and(|stream| echoes(&stream)))?;

    // The agent goes; packets do not notice. The next one finds everything as it should be.
    let established = dial(&client)?;
    ensure!(echoes(&established), "no echo before the restart");
    agent.end()?;
    ensure!(echoes(&established), "the connection broke when the agent ended");
    let before = machine.observed()?;
    let mut agent = machine.start()?;
    ensure!(echoes(&established), "the connection broke when the next agent started");
    feed(&agent, Some(&address))?;
    agent.index(|index| index.apply_policy(&policy(Some("client"))))?;
    agent.sync()?;
    ensure!(echoes(&established), "the connection broke when the next agent had synced");
    agent.end()?;
    let after = machine.observed()?;
    // Neither sets nor slots nor the generation are new ones; what was garbage may be gone.
    ensure!(
        before.pods == after.pods && before.services == after.services,
        "the next agent wrote the maps again"
    );
    ensure!(before.generation == after.generation, "the next agent raised the generation");

    check_removal(&machine, &address, &client, &server)
}

/// A pod with a host port answers at the node's address for as long as it has the port.
fn check_host_port(agent: &Agent, client: &NetNs, address: &str) -> Result<()> {
    let mut with_port = pod("server");
    let host_port = json!([{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 9080}]}]);
    with_port.spec.as_mut().context("a spec")?.containers = object(host_port);
    with_port.status = Some(object(json!({"phase": "Running", "podIPs": [{"ip": address}]})));
    agent.index(move |index| index.apply_pod(&with_port))?;
    let at_node = format!("{NODE_ADDR}:9080");
    let answers = || dial_at(client, &at_node).is_ok_and(|stream| echoes(&stream));
    within_deadline("the host port answers", answers)?;
    agent.index(|index| index.apply_pod(&pod("server")))?;
    within_deadline("the host port is gone", || !answers())?;
    Ok(())
}

/// The plugin's DEL is idempotent, and leaves no pod in the maps.
fn check_removal(machine: &Machine, address: &str, client: &NetNs, server: &NetNs) -> Result<()> {
    let mut agent = machine.start()?;
    feed(&agent, Some(address))?;
    agent.sync()?;
    for (name, netns) in [("client", client), ("server", server), ("server", server)] {
        agent.cni("DEL", name, netns)?;
    }
    agent.end()?;
    ensure!(machine.observed()?.pods.is_empty(), "a pod is left in the maps");
    Ok(())
}
