//! The kernels that Skep runs on: this machine's, and Linux 6.1 under qemu, which runs some of these tests again.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use serde_json::Value;
use skep_datapath::Verified;
use skep_tests::guest;
use skep_tests::netns::NetNs;
use xtask::old_kernel::{self, VERSION};

use crate::bandwidth::PACED;
use crate::namespaces::{ANSWER_TIMEOUT, B, ask, dial, serve, world};
use crate::node::Node;
use crate::truth::KERNELS_SCTP;
use crate::uplinks::BOTH_DEVICES;

/// What the old kernel is asked: by tests of this very program.
const ASKED: [&str; 11] = [
    VERIFIED,
    "bandwidth::what_a_limited_pod_sends_waits_where_the_kernel_has_fq",
    "kernels::each_hook_has_its_program_once_before_and_after_a_restart",
    "namespaces::a_new_process_adopts_the_maps_and_connections_go_on",
    "namespaces::revoking_a_policy_cuts_an_established_connection_and_restoring_it_heals",
    "overlay::a_node_port_leads_through_the_overlay_and_back",
    "packets::service::policy_holds_for_every_way_to_a_pod",
    "truth::every_combination_of_service_and_client_is_as_kubernetes_says",
    "truth::standing::connections_of_every_kind_outlive_restarts_and_changes_of_endpoints",
    "uplinks::a_vlan_and_a_bond_carry_node_ports_in_and_pods_out",
    "xdp::fixtures::a_flow_goes_there_and_back_with_whole_checksums",
];
const VERIFIED: &str = "kernels::the_verifier_takes_every_program_with_room_to_spare";
/// The kernel takes programs of which its verifier sees a million instructions; another kernel's may see twice as many.
const INSTRUCTIONS_MAX: u32 = 500_000;
const GUEST_TIMEOUT: Duration = Duration::from_secs(900);

fn verified() -> Result<Vec<Verified>> {
    let outside = NetNs::new("skkrno")?;
    let node = Node::new("skkrnn", &outside, &[([10, 78, 8, 1].into(), [10, 78, 8, 254].into())])?;
    Ok(node.datapath.as_ref().context("no datapath")?.verified()?)
}

#[test]
fn the_verifier_takes_every_program_with_room_to_spare() -> Result<()> {
    for verified in verified()? {
        println!("{verified}");
        let instructions = verified.instructions.with_context(|| verified.to_string())?;
        ensure!(instructions < INSTRUCTIONS_MAX, "{verified}, of {INSTRUCTIONS_MAX}");
    }
    Ok(())
}

#[test]
fn each_hook_has_its_program_once_before_and_after_a_restart() -> Result<()> {
    let mut world = world("hok")?;
    serve(&world.b, (B, 80).into(), b'b')?;
    for opened in ["first", "second"] {
        for (interface, side, program) in [
            ("up0", TcAttachType::Ingress, "tc_node_ingress"),
            ("up0", TcAttachType::Egress, "tc_node_egress"),
            ("lo", TcAttachType::Egress, "tc_host_egress"),
            ("vskhoka", TcAttachType::Ingress, "tc_pod_egress"),
            ("vskhoka", TcAttachType::Egress, "tc_pod_ingress"),
        ] {
            let found = hooked(&world.node.netns, interface, side)?;
            ensure!(found == [program], "the {opened} time, {interface} {side:?} has {found:?}");
        }
        ensure!(ask(&mut dial(&world.a, (B, 80), ANSWER_TIMEOUT)??)? == b'b');
        world.node.datapath = None;
        world.node.open()?;
    }
    Ok(())
}

/// Programs of the interface: by TCX where the kernel has it, else those of clsact filters.
fn hooked(netns: &NetNs, interface: &str, side: TcAttachType) -> Result<Vec<String>> {
    if KernelVersion::current()? >= KernelVersion::new(6, 6, 0) {
        let (_, programs) = netns.run(|| SchedClassifier::query_tcx(interface, side))??;
        return Ok(programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)).collect());
    }
    let side = format!("{side:?}").to_lowercase();
    let args = ["-netns", netns.name(), "-json", "filter", "show", "dev", interface, &side];
    let output = Command::new("tc").args(args).output().context("run tc (package iproute2)")?;
    let filters: Vec<Value> = serde_json::from_slice(&output.stdout).context("tc's answer")?;
    let named = filters.iter().filter_map(|filter| filter["options"]["bpf_name"].as_str());
    Ok(named.map(str::to_owned).collect())
}

/// Kernels of small boards come without descriptions of their types.
#[test]
fn the_programs_load_where_the_kernel_hides_its_types() -> Result<()> {
    const HIDDEN: &str =
        "mount -t tmpfs none /sys/kernel/btf && test ! -e /sys/kernel/btf/vmlinux && exec \"$@\"";
    const TEST: &str = "namespaces::a_cluster_address_answers_per_packet_and_the_answer_comes_from_it";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", HIDDEN, "sh"]);
    command.arg(std::env::current_exe()?).args(["--exact", "--test-threads=1", TEST]);
    let output = command.output().context("run unshare (package util-linux)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = format!("test {TEST} ... ok");
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(said.lines().any(|line| line == passed), "without types:\n{said}{errors}");
    Ok(())
}

#[test]
fn linux_6_1_does_all_that_this_kernel_does() -> Result<()> {
    let kernel = old_kernel::fetch()?;
    let args = [&["--exact", "--test-threads=1", "--show-output"], ASKED.as_slice()].concat();
    let said = guest::run(&kernel, &std::env::current_exe()?, &args, GUEST_TIMEOUT)?;
    for test in ASKED {
        let passed = format!("test {test} ... ok");
        ensure!(said.lines().any(|line| line == passed), "{test} did not run on Linux {VERSION}:\n{said}");
    }
    for what in [KERNELS_SCTP, PACED, BOTH_DEVICES] {
        ensure!(said.contains(what), "on Linux {VERSION} the guest did not print \"{what}\":\n{said}");
    }
    let there: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(": ")).collect();
    for here in verified()? {
        let there = there.get(here.program.as_str());
        println!("{here}; on Linux {VERSION}: {}", there.context("a program that the guest does not know")?);
    }
    Ok(())
}
