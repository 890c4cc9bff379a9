//! Two nodes and two clients from outside on one link, a pod that asks and one that serves on each node, and a Service
//! for each row of the table, planned from API objects.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_abi::Pod;
use skep_datapath::PodInterface;
use skep_netplan::{Owner, Planner};
use skep_tests::netns::NetNs;

use super::rules::{Endpoint, Kind, Layout, Policy};
use crate::node::{Lan, Node};

pub(super) const PORT: u16 = 80;
/// Where endpoints listen.
pub(super) const TARGET: u16 = 8080;
const NODE_PORTS: u16 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn at(self, net: u8, subnet: u8, host: u8) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([10, net, subnet, host]),
            Family::V6 => IpAddr::from([0xfd00, net.into(), subnet.into(), 0, 0, 0, 0, host.into()]),
        }
    }

    fn subnet(self, net: u8, subnet: u8) -> String {
        format!("{}/{}", self.at(net, subnet, 0), if self == Family::V4 { 24 } else { 48 })
    }

    pub(super) fn node(self, node: usize) -> IpAddr {
        self.at(83, 0, 1 + node as u8)
    }

    pub(super) fn outside(self, node: usize) -> IpAddr {
        self.at(83, 0, 11 + node as u8)
    }

    pub(super) fn client(self, node: usize) -> IpAddr {
        self.at(84, node as u8, 2)
    }

    pub(super) fn endpoint(self, endpoint: Endpoint) -> IpAddr {
        if endpoint.host { self.node(endpoint.node) } else { self.at(84, endpoint.node as u8, 3) }
    }
}

/// A row's service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) number: u8,
    pub(super) kind: Kind,
    pub(super) policy: Policy,
    pub(super) layout: Layout,
    pub(super) affinity: bool,
}

impl Row {
    pub(super) fn all() -> Vec<Row> {
        let mut rows = Vec::new();
        for kind in Kind::ALL {
            for policy in [Policy::Cluster, Policy::Local] {
                for layout in Layout::ALL {
                    for affinity in [false, true] {
                        let number = rows.len() as u8 + 1;
                        rows.push(Row { number, kind, policy, layout, affinity });
                    }
                }
            }
        }
        rows
    }

    /// What is asked, at the node or by its link.
    pub(super) fn address(&self, family: Family, entry: usize) -> (IpAddr, u16) {
        match self.kind {
            Kind::ClusterIp => (family.at(85, 0, self.number), PORT),
            Kind::NodePort => (family.node(entry), self.node_port()),
            Kind::LoadBalancer => (family.at(86, 0, self.number), PORT),
            Kind::ExternalIp => (family.at(87, 0, self.number), PORT),
        }
    }

    fn node_port(&self) -> u16 {
        NODE_PORTS + u16::from(self.number)
    }

    fn service(&self) -> Service {
        let both = |net: u8| Family::ALL.map(|family| family.at(net, 0, self.number).to_string());
        let kind = match self.kind {
            Kind::ClusterIp | Kind::ExternalIp => "ClusterIP",
            Kind::NodePort => "NodePort",
            Kind::LoadBalancer => "LoadBalancer",
        };
        let node_port = if kind == "ClusterIP" { 0 } else { self.node_port() };
        let ports = PROTOS.map(
            |name| json!({"name": name, "protocol": name, "port": PORT, "targetPort": TARGET, "nodePort": node_port}),
        );
        let policy = format!("{:?}", self.policy);
        let (internal, external) = match self.kind {
            Kind::ClusterIp => (policy.as_str(), "Cluster"),
            _ => ("Cluster", policy.as_str()),
        };
        let external_ips = if self.kind == Kind::ExternalIp { both(87).to_vec() } else { Vec::new() };
        let ingress: Vec<Value> = both(86).iter().map(|ip| json!({"ip": ip})).collect();
        object(json!({
            "metadata": {"namespace": "truth", "name": self.name()},
            "spec": {"type": kind, "clusterIP": both(85)[0], "clusterIPs": both(85), "ports": ports,
                     "externalIPs": external_ips, "internalTrafficPolicy": internal,
                     "externalTrafficPolicy": external,
                     "sessionAffinity": if self.affinity { "ClientIP" } else { "None" }},
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
    }

    fn slice(&self, family: Family) -> EndpointSlice {
        let endpoints = self.layout.endpoints().into_iter().map(
            |endpoint| json!({"addresses": [family.endpoint(endpoint)], "nodeName": NAMES[endpoint.node]}),
        );
        let endpoints: Vec<Value> = endpoints.collect();
        let ports = PROTOS.map(|name| json!({"name": name, "protocol": name, "port": TARGET}));
        object(json!({
            "metadata": {"namespace": "truth", "name": format!("{}-{family:?}", self.name()),
                         "labels": {"kubernetes.io/service-name": self.name()}},
            "addressType": format!("IP{}", format!("{family:?}").to_lowercase()),
            "ports": ports, "endpoints": endpoints,
        }))
    }

    fn name(&self) -> String {
        format!("row-{}", self.number)
    }
}

const PROTOS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NAMES: [&str; 2] = ["skth0", "skth1"];

/// Dropped in this order: namespaces of pods first, the link last.
pub(super) struct World {
    pub(super) clients: Vec<NetNs>,
    pub(super) servers: Vec<NetNs>,
    pub(super) nodes: Vec<Node>,
    pub(super) outside: Vec<NetNs>,
    /// By node.
    pods: Vec<Vec<LocalPod>>,
    _lan: Lan,
}

/// Role, addresses, interface, slot.
type LocalPod = (&'static str, [IpAddr; 2], PodInterface, u32);

impl World {
    pub(super) fn new(rows: &[Row]) -> Result<World> {
        let lan = Lan::new("skthl")?;
        let mut world = World {
            clients: Vec::new(),
            servers: Vec::new(),
            nodes: Vec::new(),
            outside: Vec::new(),
            pods: Vec::new(),
            _lan: lan,
        };
        for (node, name) in NAMES.into_iter().enumerate() {
            let outside = NetNs::new(&format!("sktho{node}"))?;
            world._lan.join(&outside, "eth0", &Family::ALL.map(|family| family.outside(node)))?;
            for family in Family::ALL {
                let via = family.node(node).to_string();
                for net in [85, 86, 87] {
                    outside.ip(&["route", "add", &family.subnet(net, 0), "via", &via])?;
                }
            }
            world.outside.push(outside);
            let addrs = Family::ALL.map(|family| family.node(node));
            let gateways = Family::ALL.map(|family| family.outside(node));
            let mut on = Node::on_lan(name, &world._lan, &addrs, &gateways)?;
            on.cgroup.make_threaded()?;
            let mut pods = Vec::new();
            for role in ["client", "server"] {
                let addrs = Family::ALL.map(|family| match role {
                    "client" => family.client(node),
                    _ => family.endpoint(Endpoint { node, host: false }),
                });
                let (netns, interface, slot) = on.add_pod(&format!("skth{node}{}", &role[..1]), &addrs)?;
                pods.push((role, addrs, interface, slot));
                if role == "client" { &mut world.clients } else { &mut world.servers }.push(netns);
            }
            world.nodes.push(on);
            world.pods.push(pods);
        }
        world.plan(rows)?;
        Ok(world)
    }

    /// Has these Services be the cluster's, for an agent that finds what an earlier one wrote.
    pub(super) fn plan(&mut self, rows: &[Row]) -> Result<()> {
        let nodes = self.nodes.iter_mut().zip(NAMES).zip(&self.pods);
        nodes.into_iter().try_for_each(|((node, name), pods)| serve(node, name, pods, rows))
    }

    /// Has both agents end and start.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| {
            node.datapath = None;
            node.open()
        })
    }
}

/// Plans the node from the cluster's objects, and writes that.
fn serve(node: &mut Node, name: &str, pods: &[LocalPod], rows: &[Row]) -> Result<()> {
    let datapath = node.datapath.as_ref().context("no datapath")?;
    let observed = node.netns.run(|| datapath.observed())??;
    let mut planner = Planner::new(name, node.addrs.clone(), observed);
    for (number, name) in NAMES.into_iter().enumerate() {
        planner.index.apply_node(&api_node(number, name));
    }
    for row in rows {
        planner.index.apply_service(&row.service());
        Family::ALL.iter().for_each(|family| planner.index.apply_slice(&row.slice(*family)));
    }
    for (role, addrs, interface, slot) in pods {
        let owner = Owner { namespace: "truth".into(), name: (*role).into(), uid: String::new() };
        let PodInterface { ifindex, mac, host_mac } = *interface;
        planner.attach(role, &owner, addrs, Pod { ifindex, slot: *slot, mac, host_mac, ..Pod::default() });
    }
    planner.synced();
    let plan = planner.plan();
    node.apply(&plan.writes)
}

fn api_node(number: usize, name: &str) -> ApiNode {
    let addresses = Family::ALL.map(|f| json!({"type": "InternalIP", "address": f.node(number)}));
    let cidrs = Family::ALL.map(|family| family.subnet(84, number as u8));
    object(json!({
        "metadata": {"name": name}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    }))
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}
