//! The cluster that the node sees, made of numbers: every object can be made at any time, and is the same each time.
//!
//! Pods are deployments of twenty, spread over the nodes; services lead to pods. The pods of this node are of as many namespaces
//! and rule sets as there can be, so that each of them brings rules that the node did not know.

use std::net::Ipv4Addr;

use crate::cluster::{NODE, POD_CIDR};

/// This node's second address; the other nodes have those that follow.
pub(super) const OTHER_NODES: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// Where the pod networks of the other nodes begin, a /24 each.
const POD_NETWORKS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 0);
const BALANCERS: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 0);
/// Apps of a namespace: each is a deployment.
const APPS: u32 = 5;
/// Labels by which namespaces select each other.
const TEAMS: u32 = 20;

/// How large the cluster is, and how much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) nodes: u32,
    pub(super) namespaces: u32,
    /// Of other nodes.
    pub(super) pods: u32,
    /// Of this node.
    pub(super) local_pods: u32,
    pub(super) services: u32,
    /// Entries of conntrack while endpoints change.
    pub(super) flows: u32,
    /// Changes of each kind.
    pub(super) changes: u32,
    /// Networks of one policy.
    pub(super) networks: u32,
}

impl Size {
    pub(super) fn new(quick: bool) -> Size {
        match quick {
            true => Size {
                nodes: 20,
                namespaces: 20,
                pods: 200,
                local_pods: 4,
                services: 200,
                flows: 1_000,
                changes: 5,
                networks: 100,
            },
            false => Size {
                nodes: 5_000,
                namespaces: 500,
                pods: 50_000,
                local_pods: 102,
                services: 100_000,
                flows: 250_000,
                changes: 200,
                networks: 8_000,
            },
        }
    }

    pub(super) fn policies(&self) -> u32 {
        2 * self.namespaces
    }

    /// Namespaces with pods of this node: the first ones.
    pub(super) fn local_namespaces(&self) -> u32 {
        self.local_pods.div_ceil(2).min(self.namespaces / 2)
    }
}

/// Names and addresses by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) size: Size,
}

/// A pod, here or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) app: u32,
    pub(super) node: String,
    /// The agent gives one to a pod of this node.
    pub(super) addr: Option<Ipv4Addr>,
}

impl View {
    pub(super) fn new(size: Size) -> View {
        View { size }
    }

    pub(super) fn namespace(number: u32) -> String {
        format!("team-{number}")
    }

    pub(super) fn team(namespace: u32) -> u32 {
        namespace % TEAMS
    }

    pub(super) fn node_name(number: u32) -> String {
        if number == 0 { NODE.to_owned() } else { format!("node-{number}") }
    }

    pub(super) fn node_addr(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(OTHER_NODES) + number)
    }

    pub(super) fn pod_cidr(number: u32) -> String {
        if number == 0 { POD_CIDR.to_owned() } else { format!("{}/24", View::pod_network(number)) }
    }

    fn pod_network(node: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(POD_NETWORKS) + (node << 8))
    }

    pub(super) fn pod_addr(&self, number: u32) -> Ipv4Addr {
        let others = self.size.nodes - 1;
        Ipv4Addr::from(u32::from(View::pod_network(1 + number % others)) + 2 + number / others)
    }

    /// A pod of another node.
    pub(super) fn pod(&self, number: u32) -> PodName {
        let deployment = number % (self.size.namespaces * APPS);
        PodName {
            namespace: View::namespace(deployment % self.size.namespaces),
            name: format!("app-{}-{number}", deployment / self.size.namespaces),
            app: deployment / self.size.namespaces,
            node: View::node_name(1 + number % (self.size.nodes - 1)),
            addr: Some(self.pod_addr(number)),
        }
    }

    /// A pod of this node.
    pub(super) fn local_pod(&self, number: u32) -> PodName {
        let app = number / self.size.local_namespaces() % APPS;
        PodName {
            namespace: View::namespace(number % self.size.local_namespaces()),
            name: format!("app-{app}-local-{number}"),
            app,
            node: NODE.to_owned(),
            addr: None,
        }
    }

    pub(super) fn service_ip(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(SERVICES) + number)
    }

    /// One in ten is UDP.
    pub(super) fn is_udp(number: u32) -> bool {
        number % 10 == 9
    }

    /// One in fifty has a node port, as many as there can be.
    pub(super) fn node_port(number: u32) -> Option<u32> {
        (number.is_multiple_of(50) && number < 100_000).then_some(30_000 + number / 50)
    }

    /// One in a thousand has a load balancer's address from a pool.
    pub(super) fn balancer_ip(number: u32) -> Option<Ipv4Addr> {
        (number % 1_000 == 1).then(|| Ipv4Addr::from(u32::from(BALANCERS) + number))
    }

    /// One of all has an external IP.
    pub(super) fn external_ip(number: u32) -> Option<Ipv4Addr> {
        (number == 2).then(|| Ipv4Addr::from(u32::from(BALANCERS) + number))
    }

    /// The pods of a service, two or three; others in each version.
    pub(super) fn endpoints(&self, service: u32, version: u32) -> impl Iterator<Item = PodName> {
        let first = service * 5 / 2 + version * 7;
        (0..2 + service % 2).map(move |number| self.pod((first + number) % self.size.pods))
    }
}
