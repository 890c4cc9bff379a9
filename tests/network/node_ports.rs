//! A Service with a node port and a range of ports, from the API object to packets: on the node's loopback address, at the
//! cluster IP by sockets and by packets, under a policy, and until the annotation goes.

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

const NODE: &str = "np-local";
const VIP: &str = "10.96.9.1";
const NODE_PORT: u16 = 30_080;
const TARGET: u16 = 8080;
/// In the range of the annotation, the second one not allowed by the policy.
const RANGE: &str = "9000-9099";
const PORTS: [u16; 2] = [9010, 9020];
const DEADLINE: Duration = Duration::from_secs(5);

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

fn service(ports: Option<&str>) -> Service {
    let annotations = ports.map(|ports| json!({"skep.io/ports": ports}));
    object(json!({
        "metadata": {"namespace": "default", "name": "web", "annotations": annotations},
        "spec": {"type": "NodePort", "clusterIP": VIP, "externalTrafficPolicy": "Local",
                 "ports": [{"port": 80, "nodePort": NODE_PORT}]},
    }))
}

fn feed(agent: &Agent) -> Result<()> {
    let node: Node = object(json!({
        "metadata": {"name": NODE}, "spec": {"podCIDR": "10.79.3.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]},
    }));
    let namespace: Namespace = object(json!({"metadata": {"name": "default"}}));
    let pods = ["client", "server"].map(|name| -> Pod {
        object(json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": NODE, "containers": []},
        }))
    });
    agent.index(move |index| {
        index.apply_node(&node);
        index.apply_namespace(&namespace);
        pods.iter().for_each(|pod| index.apply_pod(pod));
        index.apply_service(&service(Some(RANGE)));
    })
}

/// Answers with the port that it listens on.
fn serve(pod: &NetNs, port: u16) -> Result<()> {
    let listener = pod.run(move || TcpListener::bind(("0.0.0.0", port)))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&port.to_be_bytes());
        }
    });
    Ok(())
}

/// The port at which the connection ended.
fn reached(to: &str) -> Option<u16> {
    let to: SocketAddr = to.parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(300)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    let mut port = [0; 2];
    stream.read_exact(&mut port).ok()?;
    Some(u16::from_be_bytes(port))
}

fn becomes(what: &str, mut found: impl FnMut() -> Result<Option<u16>>, wanted: Option<u16>) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = found()?;
        if now == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < DEADLINE, "{what}: {now:?} instead of {wanted:?}");
    }
}

/// The node, with a pod that asks.
struct World {
    machine: Machine,
    client: NetNs,
}

impl World {
    /// By the sockets of the node's own processes.
    fn on_host(&self, to: &str) -> Result<Option<u16>> {
        self.by_socket_of(self.machine.netns(), to)
    }

    /// By the pod's sockets.
    fn by_socket(&self, to: &str) -> Result<Option<u16>> {
        self.by_socket_of(&self.client, to)
    }

    fn by_socket_of(&self, netns: &NetNs, to: &str) -> Result<Option<u16>> {
        netns.run(|| {
            self.machine.cgroup.enter()?;
            Ok(reached(to))
        })?
    }

    /// By the pod's packets: the socket is in no cgroup of the node.
    fn by_packet(&self, to: &str) -> Result<Option<u16>> {
        self.client.run(|| reached(to))
    }
}

fn at(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// A pod that listens at the target and at the ports of the range, behind the Service.
fn serve_as_pod(agent: &Agent, server: &NetNs) -> Result<()> {
    let added = agent.cni("ADD", "server", server)?;
    let addr = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    let addr = addr.context("no address")?.to_owned();
    for port in [TARGET, PORTS[0], PORTS[1]] {
        serve(server, port)?;
    }
    let slice: EndpointSlice = object(json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": TARGET}],
        "endpoints": [{"addresses": [addr], "nodeName": NODE}],
    }));
    agent.index(move |index| index.apply_slice(&slice))
}

#[test]
fn node_ports_on_loopback_and_ranges_of_ports_reach_pods() -> Result<()> {
    let world = World { machine: Machine::new(NODE)?, client: NetNs::new("npl-client")? };
    world.machine.cgroup.make_threaded()?;
    let server = NetNs::new("npl-server")?;
    let mut agent = world.machine.start()?;
    feed(&agent)?;
    agent.sync()?;
    agent.cni("ADD", "client", &world.client)?;
    serve_as_pod(&agent, &server)?;

    let loopback = format!("127.0.0.1:{NODE_PORT}");
    becomes("loopback", || world.on_host(&loopback), Some(TARGET))?;
    becomes("a pod's loopback", || world.by_socket(&loopback), None)?;
    becomes("the port of the list", || world.by_packet(&at(80)), Some(TARGET))?;
    for port in PORTS {
        becomes("the host", || world.on_host(&at(port)), Some(port))?;
        becomes("a pod's socket", || world.by_socket(&at(port)), Some(port))?;
        becomes("a pod's packets", || world.by_packet(&at(port)), Some(port))?;
    }
    becomes("past the range", || world.by_packet(&at(9100)), None)?;

    policies_bind_ports_of_the_range(&world, &agent)?;

    agent.index(|index| index.apply_service(&service(Some("all"))))?;
    becomes("all ports", || world.by_packet(&at(PORTS[1])), Some(PORTS[1]))?;
    agent.index(|index| index.apply_service(&service(None)))?;
    becomes("the range is gone", || world.by_packet(&at(PORTS[0])), None)?;
    becomes("the range is gone", || world.by_socket(&at(PORTS[0])), None)?;
    becomes("the port of the list stays", || world.by_packet(&at(80)), Some(TARGET))?;
    agent.end()
}

fn policies_bind_ports_of_the_range(world: &World, agent: &Agent) -> Result<()> {
    let policy: NetworkPolicy = object(json!({
        "metadata": {"namespace": "default", "name": "some"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}},
                 "ingress": [{"ports": [{"port": 9000, "endPort": 9015}]}]},
    }));
    agent.index(move |index| index.apply_policy(&policy))?;
    becomes("a denied port by packets", || world.by_packet(&at(PORTS[1])), None)?;
    becomes("a denied port by a socket", || world.by_socket(&at(PORTS[1])), None)?;
    becomes("an allowed port by packets", || world.by_packet(&at(PORTS[0])), Some(PORTS[0]))?;
    becomes("an allowed port by a socket", || world.by_socket(&at(PORTS[0])), Some(PORTS[0]))?;
    becomes("the host is always allowed", || world.on_host(&at(PORTS[1])), Some(PORTS[1]))?;
    agent.index(|index| index.delete_policy("default/some"))
}
