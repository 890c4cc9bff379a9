//! Uplinks that are made of another device: a VLAN and a bond. What reaches a pod and what leaves one passes by the programs on that
//! device.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use skep_abi::{Proto, Scope};
use skep_tests::netns::{NetNs, link};

use crate::namespaces::{ANSWER_TIMEOUT, ask, dial, serve, service};
use crate::node::Node;

/// What is printed where the kernel has both devices.
pub(crate) const BOTH_DEVICES: &str = "the kernel has VLANs and bonds";
const POD: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 9, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 9, 254);
const NODE_PORT: u16 = 30_080;
const VLAN: &str = "7";

/// The device `up0` of the node's above the link `card0`, and the outside's interface that it leads to.
#[derive(Clone, Copy, Debug)]
enum Above {
    Vlan,
    Bond,
}

impl Above {
    /// Fails where the kernel has no such device.
    fn add(self, node: &NetNs) -> Result<()> {
        let kind: &[&str] = match self {
            Above::Vlan => &["link", "add", "link", "card0", "name", "up0", "type", "vlan", "id", VLAN],
            Above::Bond => &["link", "add", "up0", "type", "bond", "mode", "active-backup", "miimon", "100"],
        };
        node.ip(kind)
    }

    fn wire(self, node: &NetNs, outside: &NetNs) -> Result<()> {
        link(node, "card0", outside, "far0")?;
        self.add(node)?;
        let far = match self {
            Above::Vlan => {
                outside.ip(&["link", "add", "link", "far0", "name", "far7", "type", "vlan", "id", VLAN])?;
                outside.ip(&["link", "set", "far7", "up"])?;
                "far7"
            }
            Above::Bond => {
                node.ip(&["link", "set", "card0", "down"])?;
                node.ip(&["link", "set", "card0", "master", "up0"])?;
                "far0"
            }
        };
        node.ip(&["link", "set", "up0", "up"])?;
        node.ip(&["addr", "add", &format!("{NODE}/24"), "dev", "up0"])?;
        outside.ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", far])?;
        node.ip(&["route", "add", "default", "via", &OUTSIDE.to_string()])
    }
}

#[test]
fn a_vlan_and_a_bond_carry_node_ports_in_and_pods_out() -> Result<()> {
    let mut missing = Vec::new();
    for (above, name) in [(Above::Vlan, "skupv"), (Above::Bond, "skupb")] {
        let trial = NetNs::new(&format!("{name}t"))?;
        link(&trial, "card0", &trial, "far0")?;
        match above.add(&trial) {
            Ok(()) => carries(above, name).with_context(|| format!("{above:?}"))?,
            Err(error) => missing.push(format!("{above:?}: {error:#}")),
        }
    }
    println!("{}", if missing.is_empty() { BOTH_DEVICES.to_owned() } else { missing.join("; ") });
    Ok(())
}

fn carries(above: Above, name: &str) -> Result<()> {
    let outside = NetNs::new(&format!("{name}o"))?;
    let mut node = Node::wired(&format!("{name}n"), &[NODE.into()], |node| above.wire(node, &outside))?;
    let (pod, ..) = node.add_pod(&format!("{name}p"), &[POD.into()])?;
    serve(&pod, SocketAddr::from((POD, 8080)), b'p')?;
    node.apply(&service((NODE, NODE_PORT), Proto::TCP, Scope::EXTERNAL, 1, &[(POD, 8080)]))?;
    let mut stream = dial(&outside, (NODE, NODE_PORT), ANSWER_TIMEOUT)?.context("by the node port")?;
    ensure!(ask(&mut stream)? == b'p');
    let listener = outside.run(|| TcpListener::bind((OUTSIDE, 80)))??;
    let out = dial(&pod, (OUTSIDE, 80), ANSWER_TIMEOUT)?.context("from the pod")?;
    let (_, from) = listener.accept()?;
    ensure!(from.ip() == NODE, "the outside saw {from}");
    drop(out);
    node.datapath = None;
    node.open()?;
    ensure!(ask(&mut stream).context("after a restart")? == b'p');
    Ok(())
}
