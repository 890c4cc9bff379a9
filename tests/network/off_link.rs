//! A Node whose address is on no link of this node: its pods have no route of ours, and nothing else waits for it. Packets
//! for this node's pods that do not exist are refused here.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use skep_datapath::DatapathError;
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::agent::{Agent, Machine, NODE_ADDR};

const NODE: &str = "np-off";
/// Of the node that is behind a router.
const FAR_PODS: &str = "10.79.3.0/24";
const FAR_NODE: &str = "192.168.79.5";
const ROUTER: &str = "10.79.0.254";

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

fn node(name: &str, address: &str, pods: &str) -> Node {
    object(json!({
        "metadata": {"name": name}, "spec": {"podCIDR": pods},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
}

fn service(name: &str, address: &str) -> Service {
    object(json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]},
    }))
}

fn feed(agent: &Agent) -> Result<()> {
    let nodes = [
        node(NODE, NODE_ADDR, "10.79.1.0/24"),
        node("far", FAR_NODE, FAR_PODS),
        node("near", "10.79.0.9", "10.79.4.0/24"),
    ];
    let pod: Pod = object(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"nodeName": NODE, "containers": []},
    }));
    let one = service("one", "10.96.9.1");
    agent.index(move |index| {
        nodes.iter().for_each(|node| index.apply_node(node));
        index.apply_pod(&pod);
        index.apply_service(&one);
    })
}

/// What the kernel says about a packet to the address.
fn route_to(machine: &NetNs, addr: &str) -> Result<String> {
    let output = machine.command("ip").args(["route", "get", addr]).output()?;
    let text = if output.status.success() { output.stdout } else { output.stderr };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_node_off_the_link_holds_up_nothing() -> Result<()> {
    let machine = Machine::new(NODE)?;
    machine.netns().ip(&["route", "add", "default", "via", ROUTER])?;
    let mut agent = machine.start()?;
    feed(&agent)?;
    // Ready, although one route cannot be made.
    agent.sync()?;
    let two = service("two", "10.96.9.2");
    agent.index(move |index| index.apply_service(&two))?;
    let sandbox = NetNs::new("np-off-web")?;
    let added = agent.cni("ADD", "web", &sandbox)?;
    let addr = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    let addr = addr.context("no address")?;

    // The router would send a packet to a pod that is gone back to this node.
    let gone = route_to(machine.netns(), "10.79.1.200")?;
    ensure!(gone.contains("unreachable") || gone.contains("No route to host"), "{gone}");
    let here = route_to(machine.netns(), addr)?;
    ensure!(here.contains("dev skep"), "{here}");
    agent.end()?;

    let observed = machine.observed()?;
    let mut frontends: Vec<String> =
        observed.services.keys().map(|key| std::net::IpAddr::from(key.addr).to_string()).collect();
    frontends.dedup();
    ensure!(frontends == ["10.96.9.1", "10.96.9.2"], "{frontends:?}");
    let routes: Vec<String> = observed.routes.keys().map(ToString::to_string).collect();
    ensure!(routes == ["10.79.4.0/24"], "{routes:?}");
    let unreachable: Vec<String> = observed.unreachable.iter().map(ToString::to_string).collect();
    ensure!(unreachable == ["10.79.1.0/24"], "{unreachable:?}");
    Ok(())
}

#[test]
fn the_networks_own_route_makes_ours_needless_and_the_default_route_does_not() -> Result<()> {
    let machine = Machine::new("np-fabric")?;
    machine.netns().ip(&["route", "add", "default", "via", ROUTER])?;
    let put = || -> Result<DatapathError> {
        let write = Write::PutRoute { cidr: FAR_PODS.parse()?, via: FAR_NODE.parse()? };
        match machine.datapath(|datapath| Ok(datapath.apply(&[write])))? {
            Ok(()) => bail!("a route by way of an address off the link"),
            Err(error) => Ok(*error.source),
        }
    };
    let error = put()?;
    ensure!(matches!(error, DatapathError::OffLink { .. }), "{error:?}");
    machine.netns().ip(&["route", "add", "10.79.0.0/16", "via", ROUTER])?;
    let error = put()?;
    ensure!(matches!(error, DatapathError::RoutedByOthers { .. }), "{error:?}");
    Ok(())
}
