//! Several uplinks: a second interface, a VLAN, a bond, addresses that come and go while the agent runs. Real packets by each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skep_tests::netns::{NetNs, connect};

use crate::agent::{Agent, Machine, NODE_ADDR};

const NODE: &str = "uplk";
const OTHER_NODE: &str = "10.79.0.254";
/// On another node, behind the first uplink.
const FAR_POD: &str = "10.79.9.5";
/// Behind the second uplink's default route.
const REMOTE: &str = "198.51.100.9";
const NEAR_PORT: u16 = 30_080;
const FAR_PORT: u16 = 30_081;
const TARGET: u16 = 8080;
const DEADLINE: Duration = Duration::from_secs(8);

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

/// A Service with a node port, and its only endpoint.
fn feed_service(agent: &Agent, name: &str, vip: &str, port: u16, addr: &str, node: &str) -> Result<()> {
    let service: Service = object(json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"type": "NodePort", "clusterIP": vip, "clusterIPs": [vip],
                 "ports": [{"port": 80, "nodePort": port, "targetPort": TARGET}]},
    }));
    let slice: EndpointSlice = object(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": TARGET}],
        "endpoints": [{"addresses": [addr], "nodeName": node}],
    }));
    agent.index(move |index| {
        index.apply_service(&service);
        index.apply_slice(&slice);
    })
}

fn feed(agent: &Agent) -> Result<()> {
    let nodes = [(NODE, NODE_ADDR, "10.79.3.0/24"), ("other", OTHER_NODE, "10.79.9.0/24")];
    let nodes = nodes.map(|(name, addr, cidr)| -> Node {
        object(json!({
            "metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": addr}]},
        }))
    });
    let namespace: Namespace = object(json!({"metadata": {"name": "default"}}));
    let pods = ["client", "server"].map(|name| -> Pod {
        object(json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": NODE, "containers": []},
        }))
    });
    agent.index(move |index| {
        nodes.iter().for_each(|node| index.apply_node(node));
        index.apply_namespace(&namespace);
        pods.iter().for_each(|pod| index.apply_pod(pod));
    })
}

/// Answers with the client's address as the server sees it.
fn serve(netns: &NetNs, port: u16) -> Result<()> {
    let listener = netns.run(move || TcpListener::bind(("0.0.0.0", port)))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Ok(peer) = stream.peer_addr() {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        }
    });
    Ok(())
}

/// As whom the server sees a connection from the namespace; `None`: there is none.
fn seen_as(from: &NetNs, to: &str, port: u16) -> Result<Option<String>> {
    let to = SocketAddr::new(to.parse()?, port);
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(300)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn becomes(what: &str, from: &NetNs, (to, port): (&str, u16), wanted: Option<&str>) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = seen_as(from, to, port)?;
        if now.as_deref() == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < DEADLINE, "{what}: {now:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pod with its address.
fn add_pod(agent: &Agent, name: &str) -> Result<(NetNs, String)> {
    let netns = NetNs::new(&format!("{NODE}-{name}"))?;
    let added = agent.cni("ADD", name, &netns)?;
    let addr = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    Ok((netns, addr.context("no address")?.to_owned()))
}

/// The second uplink, with a default route.
fn add_second(node: &NetNs, second: &NetNs) -> Result<()> {
    connect((node, "up1", "10.81.0.1/24"), (second, "to-node", "10.81.0.254/24"))?;
    node.ip(&["route", "add", "default", "via", "10.81.0.254"])
}

#[test]
fn services_and_pods_use_every_uplink_and_follow_its_changes() -> Result<()> {
    let machine = Machine::new(NODE)?;
    let (node, outside, second) = (machine.netns(), machine.outside(), NetNs::new("uplk-second")?);
    for (netns, addr) in [(outside, FAR_POD), (&second, REMOTE)] {
        netns.ip(&["link", "set", "lo", "up"])?;
        netns.ip(&["addr", "add", &format!("{addr}/32"), "dev", "lo"])?;
        serve(netns, TARGET)?;
    }
    let mut agent = machine.start()?;
    feed(&agent)?;
    agent.sync()?;
    let (client, client_addr) = add_pod(&agent, "client")?;
    let (server, server_addr) = add_pod(&agent, "server")?;
    outside.ip(&["route", "add", "10.79.3.0/24", "via", NODE_ADDR])?;
    serve(&server, TARGET)?;
    feed_service(&agent, "near", "10.96.9.1", NEAR_PORT, &server_addr, NODE)?;
    feed_service(&agent, "far", "10.96.9.2", FAR_PORT, FAR_POD, "other")?;
    becomes("the first uplink", outside, (NODE_ADDR, NEAR_PORT), Some(OTHER_NODE))?;

    add_second(node, &second)?;
    becomes("a new uplink", &second, ("10.81.0.1", NEAR_PORT), Some("10.81.0.254"))?;
    becomes("from one uplink to the other", &second, ("10.81.0.1", FAR_PORT), Some(NODE_ADDR))?;
    becomes("a pod by the new uplink", &client, (REMOTE, TARGET), Some("10.81.0.1"))?;
    becomes("a pod to another node's", &client, (FAR_POD, TARGET), Some(&client_addr))?;
    becomes("a pod to a node port", &client, ("10.81.0.1", NEAR_PORT), Some(&client_addr))?;

    node.ip(&["addr", "add", "10.81.0.7/24", "dev", "up1"])?;
    becomes("a new address", &second, ("10.81.0.7", NEAR_PORT), Some("10.81.0.254"))?;
    node.ip(&["addr", "del", "10.81.0.7/24", "dev", "up1"])?;
    // The link still leads there, so that only the node's answer is missing.
    let mac = mac(node, "up1")?;
    second.ip(&["neigh", "replace", "10.81.0.7", "lladdr", &mac, "dev", "to-node", "nud", "permanent"])?;
    becomes("an address that is gone", &second, ("10.81.0.7", NEAR_PORT), None)?;
    ensure!(seen_as(&second, "10.81.0.1", NEAR_PORT)?.is_some(), "the address that stays");

    node.ip(&["link", "del", "up1"])?;
    becomes("the uplink is gone", &client, (REMOTE, TARGET), None)?;
    add_second(node, &second)?;
    becomes("the uplink came back", &second, ("10.81.0.1", NEAR_PORT), Some("10.81.0.254"))?;
    becomes("a pod by the uplink that came back", &client, (REMOTE, TARGET), Some("10.81.0.1"))?;
    agent.end()
}

fn mac(netns: &NetNs, interface: &str) -> Result<String> {
    let output = netns.command("ip").args(["-json", "link", "show", interface]).output()?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    Ok(links[0]["address"].as_str().context("no MAC")?.to_owned())
}

/// A VLAN beside untagged packets of the first uplink; false: the kernel has none.
fn add_tagged(netns: &NetNs, parent: &str, addr: &str) -> Result<bool> {
    if netns.ip(&["link", "add", "link", parent, "name", "tag7", "type", "vlan", "id", "7"]).is_err() {
        return Ok(false);
    }
    netns.ip(&["link", "set", "tag7", "up"])?;
    netns.ip(&["addr", "add", addr, "dev", "tag7"])?;
    Ok(true)
}

/// A bond of one link, or where the kernel has no bonds, a bridge.
fn add_bond(netns: &NetNs, far: &NetNs) -> Result<bool> {
    let is_bond = netns.ip(&["link", "add", "bond0", "type", "bond", "mode", "active-backup"]).is_ok();
    if !is_bond {
        netns.ip(&["link", "add", "bond0", "type", "bridge"])?;
    }
    skep_tests::netns::link(netns, "slave0", far, "to-bond")?;
    netns.ip(&["link", "set", "slave0", "down"])?;
    netns.ip(&["link", "set", "slave0", "master", "bond0"])?;
    netns.ip(&["link", "set", "slave0", "up"])?;
    netns.ip(&["link", "set", "bond0", "up"])?;
    netns.ip(&["addr", "add", "10.83.0.1/24", "dev", "bond0"])?;
    far.ip(&["addr", "add", "10.83.0.254/24", "dev", "to-bond"])?;
    Ok(is_bond)
}

#[test]
fn interfaces_on_other_interfaces_are_uplinks() -> Result<()> {
    let machine = Machine::new("uplv")?;
    let (node, outside) = (machine.netns(), machine.outside());
    let far = NetNs::new("uplv-far")?;
    serve(outside, TARGET)?;
    serve(&far, TARGET)?;
    let is_bond = add_bond(node, &far)?;
    let is_vlan =
        add_tagged(node, "up0", "10.82.0.1/24")? && add_tagged(outside, "to-node", "10.82.0.254/24")?;
    println!("kernel has VLANs: {is_vlan}; bonds: {is_bond}");
    if is_vlan {
        node.ip(&["route", "add", "default", "via", "10.82.0.254", "metric", "10"])?;
    }
    node.ip(&["route", "add", "default", "via", "10.83.0.254", "metric", "20"])?;
    let mut agent = machine.start()?;
    feed(&agent)?;
    let own: Node = object(json!({
        "metadata": {"name": "uplv"}, "spec": {"podCIDR": "10.79.4.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]},
    }));
    let pods = ["vlan-client", "vlan-server"].map(|name| -> Pod {
        object(json!({
            "metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": "uplv", "containers": []},
        }))
    });
    agent.index(move |index| {
        index.delete_node(NODE);
        index.apply_node(&own);
        pods.iter().for_each(|pod| index.apply_pod(pod));
    })?;
    agent.sync()?;
    let (client, _) = add_pod(&agent, "vlan-client")?;
    let (server, server_addr) = add_pod(&agent, "vlan-server")?;
    serve(&server, TARGET)?;
    feed_service(&agent, "near", "10.96.9.1", NEAR_PORT, &server_addr, "uplv")?;
    if is_vlan {
        becomes("the VLAN", outside, ("10.82.0.1", NEAR_PORT), Some("10.82.0.254"))?;
        becomes("a pod by the VLAN", &client, ("10.82.0.254", TARGET), Some("10.82.0.1"))?;
        becomes("a connection of the node's own", node, ("10.82.0.254", TARGET), Some("10.82.0.1"))?;
    }
    becomes("untagged", outside, (NODE_ADDR, NEAR_PORT), Some(OTHER_NODE))?;
    becomes("the bond", &far, ("10.83.0.1", NEAR_PORT), Some("10.83.0.254"))?;
    becomes("a pod by the bond", &client, ("10.83.0.254", TARGET), Some("10.83.0.1"))?;
    agent.end()
}
