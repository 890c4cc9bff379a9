//! Pods' links: no pod sends frames with a VLAN tag, or is its node's router.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use skep_abi::{Addr, DropReason};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::namespaces::{A, ANSWER_TIMEOUT, world};
use crate::node::Node;

/// A pod of another node.
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 9);
const TAGGED: u64 = 20;

#[test]
fn a_frame_with_a_vlan_tag_leaves_no_pod() -> Result<()> {
    let mut world = world("vln")?;
    let remote = Addr::from(IpAddr::from([10, 79, 0, 0]));
    world.node.apply(&[Write::PutCluster { prefix_bits: 96 + 16, addr: remote }])?;
    world.outside.ip(&["addr", "add", &format!("{REMOTE}/32"), "dev", "lo"])?;
    let server = world.outside.run(|| UdpSocket::bind((REMOTE, 9)))??;
    server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let client = world.a.run(|| UdpSocket::bind((A, 0)))??;
    client.send_to(b"plain", (REMOTE, 9))?;
    ensure!(server.recv(&mut [0; 16])? == 5);
    let before = received(&world.outside, "to-skvlnn")?;
    let _tagging = tag_frames(&world.a)?;
    for _ in 0..TAGGED {
        client.send_to(&[7; 1000], (REMOTE, 9))?;
    }
    let drops = world.node.datapath.as_ref().context("no datapath")?.counters()?.drops()?;
    let counted = drops.iter().find(|drop| drop.reason == DropReason::Frame).map(|drop| drop.packets);
    ensure!(counted.is_some_and(|packets| packets >= TAGGED), "{drops:?}");
    let bytes = received(&world.outside, "to-skvlnn")? - before;
    ensure!(bytes < 1000, "{bytes} bytes in frames with a tag left the pod");
    Ok(())
}

/// Has the frames that leave the pod be tagged, as a VLAN interface in it would do, while the object is loaded.
fn tag_frames(pod: &NetNs) -> Result<Ebpf> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/skep-bench-programs.o");
    let mut ebpf = Ebpf::load_file(object)?;
    let program: &mut SchedClassifier = ebpf.program_mut("tag_tc").context("no program")?.try_into()?;
    program.load()?;
    let _ = pod.run(|| aya::programs::tc::qdisc_add_clsact("eth0"))?;
    let options = TcAttachOptions::Netlink(NlOptions::default());
    pod.run(|| program.attach_with_options("eth0", TcAttachType::Egress, options))??;
    Ok(ebpf)
}

/// Bytes that came to the interface.
fn received(netns: &NetNs, interface: &str) -> Result<u64> {
    let output = netns.command("ip").args(["-json", "-s", "link", "show", interface]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    links[0]["stats64"]["rx"]["bytes"].as_u64().context("no statistics")
}

#[test]
fn a_node_is_configured_by_no_pod() -> Result<()> {
    let outside = NetNs::new("skrtao")?;
    let addrs = [([10, 78, 7, 1].into(), [10, 78, 7, 254].into())];
    let mut node = Node::new("skrtan", &outside, &addrs)?;
    let v6: IpAddr = "fd00:77::2".parse()?;
    for (name, addrs, disabled) in
        [("skrtaa", &[[10, 77, 7, 2].into()][..], "1"), ("skrtab", &[[10, 77, 7, 3].into(), v6], "0")]
    {
        node.add_pod(name, addrs)?;
        let value = |family: &str, of: &str| {
            let path = format!("/proc/sys/net/{family}/conf/v{name}/{of}");
            let read = node.netns.run(|| std::fs::read_to_string(&path))?;
            anyhow::Ok(read.with_context(|| path.clone())?.trim().to_owned())
        };
        for (family, of, wanted) in [
            ("ipv4", "accept_redirects", "0"),
            ("ipv6", "accept_redirects", "0"),
            ("ipv6", "accept_ra", "0"),
            ("ipv6", "disable_ipv6", disabled),
        ] {
            let found = value(family, of)?;
            ensure!(found == wanted, "{name}: {family} {of} is {found}");
        }
    }
    Ok(())
}
