//! Nanoseconds a packet of established flows, by BPF_PROG_TEST_RUN. The bound catches a regression by a multiple; figures come
//! from `cargo xtask bench net`.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use skep_abi::{Addr, Backend, Be16, Pod, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::node::Node;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 3);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 200, 9, 9);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 9, 9);
const REPEAT: u32 = 200_000;
const MAX_ADDED_NANOSECONDS: u64 = 2_000;
const ROUNDS: usize = 5;

fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

fn tcp(from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from.octets(), to.octets(), 64)
        .tcp(40000, 80, 1, 1024)
        .ack(1);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"payload of some bytes")?;
    Ok(packet)
}

/// The minimum of some rounds: disturbances only add time.
fn measure(node: &mut Node, program: &str, packet: &[u8]) -> Result<u64> {
    let datapath = node.datapath.as_mut().context("no datapath")?;
    let mut best = u64::MAX;
    for _ in 0..ROUNDS {
        let (_, _, ns) = node.netns.run(|| datapath.test_run(program, packet, REPEAT))??;
        best = best.min(ns);
    }
    Ok(best)
}

#[test]
fn an_established_flow_stays_within_two_microseconds_of_a_packet_that_is_not_ip() -> Result<()> {
    let outside = NetNs::new("skcsto")?;
    let addrs = [1, 254].map(|last| IpAddr::from([10, 78, 9, last]));
    let mut node = Node::new("skcstn", &outside, &[(addrs[0], addrs[1])])?;
    // A test run comes from the loopback interface, number 1.
    let pod = |slot| Pod { ifindex: 1, slot, ..Pod::default() };
    let key = ServiceKey { addr: addr(VIP), port: Be16::new(80), proto: Proto::TCP, scope: Scope::INTERNAL };
    let backend = Backend { addr: addr(B), port: Be16::new(8080), reserved: 0 };
    node.apply(&Write::backend_set(1, &[backend]).collect::<Vec<_>>())?;
    node.apply(&[
        Write::PutPod(addr(A), pod(0)),
        Write::PutPod(addr(B), pod(1)),
        Write::PutService(key, ServiceValue { set: 1, count: 1, service: 1, ..ServiceValue::default() }),
    ])?;
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for program in node.datapath.as_ref().context("no datapath")?.verified()? {
        println!("{program}");
    }
    let empty = measure(&mut node, "tc_pod_egress", &arp)?;
    let direct = measure(&mut node, "tc_pod_egress", &tcp(A, B)?)?;
    let ingress = measure(&mut node, "tc_pod_ingress", &tcp(A, B)?)?;
    let uplink = measure(&mut node, "tc_node_ingress", &tcp(OUTSIDE, B)?)?;
    println!("not IP {empty} ns; established: from pod {direct}, to pod {ingress}, from uplink {uplink} ns");
    ensure!(
        direct < empty + MAX_ADDED_NANOSECONDS,
        "a known flow takes {direct} ns, a packet that is not IP {empty}"
    );
    Ok(())
}
