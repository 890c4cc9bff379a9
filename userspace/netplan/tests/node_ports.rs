//! On which of the node's addresses node ports are open, loopback addresses included.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;
use skep_netplan::{Observed, Planner, Write};

const ADDRS: [&str; 3] = ["10.1.0.1", "10.2.0.1", "2001:db8::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
const NODE_PORT: u16 = 30_080;

/// The addresses that have the node port.
fn open_at(networks: &[&str]) -> BTreeSet<IpAddr> {
    let addrs = ADDRS.map(|addr| addr.parse().unwrap()).to_vec();
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let mut planner = Planner::new("node-a", addrs, Observed::default()).with_node_port_networks(networks);
    let service = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"],
                 "ports": [{"name": "http", "port": 80, "nodePort": NODE_PORT}]},
    });
    planner.index.apply_service(&serde_json::from_value(service).unwrap());
    planner.synced();
    let is_node_port = |write: &Write| match write {
        Write::PutService(key, _) if key.port.get() == NODE_PORT => Some(key.addr.into()),
        _ => None,
    };
    planner.plan().writes.iter().filter_map(is_node_port).collect()
}

#[test]
fn node_ports_are_open_on_all_addresses_or_on_those_of_the_given_networks() {
    let addrs = |addrs: &[&str]| addrs.iter().map(|addr| addr.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
    assert_eq!(open_at(&[]), addrs(&[&ADDRS[..], &LOOPBACK[..]].concat()));
    assert_eq!(open_at(&["127.0.0.0/8", "::1/128"]), addrs(&LOOPBACK));
    assert_eq!(open_at(&["10.1.0.0/16"]), addrs(&["10.1.0.1"]));
    assert_eq!(open_at(&["10.2.0.1/32", "2001:db8::/32"]), addrs(&["10.2.0.1", "2001:db8::1"]));
    assert_eq!(open_at(&["192.0.2.0/24"]), addrs(&[]));
}
