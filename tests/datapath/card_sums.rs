//! The card's sum over a packet (CHECKSUM_COMPLETE) stays right when addresses and ports of the packet change. No virtual link has such
//! a sum; what comes out of VXLAN has one, if the outer packet's checksum was complete and was verified.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{SchedClassifier, TcAttachType};
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::{NetNs, link};
use xtask::build_ebpf::bench_object;

use crate::namespaces::{ANSWER_TIMEOUT, ask, dial_to, serve};
use crate::node::Node;
use crate::xdp::world::ethtool;

/// Of the node, the outside and the pod. The sums of the node's and of the pod's address differ.
const ENDS: [[IpAddr; 3]; 2] =
    [[v4(78, 1), v4(78, 254), v4(77, 9)], [v6(0xfd78, 1), v6(0xfd78, 254), v6(0xfd77, 9)]];
const NODE_PORT: u16 = 30_080;
const PORT: u16 = 8_080;
/// Of the outer packets.
const CARDS: [&str; 2] = ["192.168.9.1", "192.168.9.2"];
const SERVICE: u32 = 1;

const fn v4(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 19, host))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(net, 0, 0, 19, 0, 0, 0, host))
}

/// `up0` of the node and of the outside: VXLAN over links that complete and verify no checksum.
fn wire(node: &NetNs, outside: &NetNs) -> Result<()> {
    link(node, "card0", outside, "card1")?;
    for (netns, card, end, at) in [(node, "card0", 0, 0), (outside, "card1", 1, 1)] {
        ethtool(netns, &["-K", card, "tx", "off", "rx", "off"])?;
        netns.ip(&["addr", "add", &format!("{}/24", CARDS[at]), "dev", card])?;
        netns.ip(&[
            "link",
            "add",
            "up0",
            "type",
            "vxlan",
            "id",
            "9",
            "local",
            CARDS[at],
            "remote",
            CARDS[1 - at],
            "dstport",
            "4790",
            "udpcsum",
        ])?;
        // Segments that the device would cut up have no checksum of their own.
        ethtool(netns, &["-K", "up0", "tx", "off", "gro", "off"])?;
        netns.ip(&["link", "set", "up0", "up"])?;
        for [addrs @ .., _] in ENDS {
            let bits = if addrs[end].is_ipv4() { 24 } else { 64 };
            let addr = format!("{}/{bits}", addrs[end]);
            netns.ip(&["addr", "add", &addr, "dev", "up0"])?;
        }
    }
    ENDS.iter().try_for_each(|[_, outside, _]| {
        let family = if outside.is_ipv4() { "-4" } else { "-6" };
        node.ip(&[family, "route", "add", "default", "via", &outside.to_string()])
    })
}

fn node_port(node: IpAddr, pod: IpAddr, proto: Proto) -> Vec<Write> {
    let set = SERVICE + u32::from(pod.is_ipv6());
    let backend = Backend { addr: pod.into(), port: Be16::new(PORT), reserved: 0 };
    let mut writes: Vec<Write> = Write::backend_set(set, &[backend]).collect();
    let key =
        ServiceKey { addr: Addr::from(node), port: Be16::new(NODE_PORT), proto, scope: Scope::EXTERNAL };
    let value = ServiceValue { set, count: 1, service: set, ..ServiceValue::default() };
    writes.push(Write::PutService(key, value));
    writes
}

#[test]
fn the_cards_sum_follows_what_is_rewritten() -> Result<()> {
    let outside = NetNs::new("skcso")?;
    let addrs: Vec<IpAddr> = ENDS.iter().map(|[node, ..]| *node).collect();
    let mut node = Node::wired("skcsn", &addrs, |node| wire(node, &outside))?;
    let pods: Vec<IpAddr> = ENDS.iter().map(|[.., pod]| *pod).collect();
    let (pod, ..) = node.add_pod("skcsp", &pods)?;
    let mut ebpf = Ebpf::load_file(bench_object())?;
    let program: &mut SchedClassifier = ebpf.program_mut("sum_tc").context("no sum_tc")?.try_into()?;
    program.load()?;
    pod.run(|| program.attach("eth0", TcAttachType::Ingress))??;
    for [own, _, at] in ENDS {
        for proto in [Proto::TCP, Proto::UDP] {
            node.apply(&node_port(own, at, proto))?;
        }
        serve(&pod, SocketAddr::new(at, PORT), b'p')?;
        let mut stream = dial_to(&outside, SocketAddr::new(own, NODE_PORT), ANSWER_TIMEOUT)??;
        ensure!(ask(&mut stream)? == b'p');
        let server = pod.run(|| UdpSocket::bind((at, PORT)))??;
        server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let any: IpAddr =
            if own.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = outside.run(|| UdpSocket::bind((any, 0)))??;
        // An odd length, and one that the kernel verifies at once with the outer packet.
        for length in [301, 8] {
            client.send_to(&vec![b'x'; length], (own, NODE_PORT))?;
            let (received, _) = server.recv_from(&mut [0; 512])?;
            ensure!(received == length, "{received} bytes of {length}");
        }
    }
    let sums: Array<_, u64> = ebpf.map("SUMS").context("no SUMS")?.try_into()?;
    let [right, wrong, none] = [0, 1, 2].map(|index| sums.get(&index, 0));
    let (right, wrong, none) = (right?, wrong?, none?);
    // Of each family: SYN, its ACK, a byte, and two datagrams.
    ensure!(wrong == 0 && right >= 10, "sums: {right} right, {wrong} wrong, {none} packets without");
    Ok(())
}
