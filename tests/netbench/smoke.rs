//! The benchmark still runs: a quick run measures all that it names, and leaves nothing behind.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Measure, and who is measured by it.
const EXPECTED: [(&str, &[&str]); 13] = [
    (
        "rr",
        &[
            "loopback",
            "spliced",
            "veth",
            "redirect",
            "routed",
            "nftables",
            "iptables",
            "skep",
            "tcp_route",
            "pod",
        ],
    ),
    (
        "crr",
        &[
            "loopback",
            "spliced",
            "veth",
            "redirect",
            "routed",
            "nftables",
            "iptables",
            "skep",
            "tcp_route",
            "pod",
        ],
    ),
    ("sockets_unread", &["loopback", "spliced"]),
    ("iperf_tcp", &["skep"]),
    ("iperf_udp", &["skep"]),
    ("nodeport_pps", &["nftables", "iptables", "skep"]),
    ("map_memory", &["skep"]),
    (
        "prog_ns",
        &["tc_pod_egress", "tc_pod_ingress", "tc_node_ingress", "tc_node_egress", "xdp_node", "xdp_node_v6"],
    ),
    ("policy_networks", &["skep"]),
    ("policy_networks_memory", &["skep"]),
    ("program_all", &["skep"]),
    ("endpoint_change", &["skep"]),
    ("agent_rss", &["skep"]),
];

#[test]
fn a_quick_run_measures_everything_and_leaves_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_netbench"));
    let output = command.args(["run", "--quick", "--folder"]).arg(folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark failed: {said}");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.path().join("net.json"))?)?;
    for (measure, subjects) in EXPECTED {
        for subject in subjects {
            let row = rows.iter().find(|row| row["measure"] == measure && row["subject"] == *subject);
            let row = row.with_context(|| format!("no {measure} of {subject}"))?;
            ensure!(row["median"].as_f64().is_some_and(|median| median > 0.0), "nothing measured: {row}");
            ensure!(row.get("services").is_some() && row.get("policy").is_some(), "no conditions: {row}");
        }
    }
    ensure!(folder.path().join("net.svg").exists(), "no plot");
    nothing_is_left("nb-")
}

/// Of a node of a large cluster.
const SCALE: [&str; 11] = [
    "scale_endpoint_change_p99",
    "scale_cni_add_p99",
    "scale_policy_elsewhere_p99",
    "scale_policy_here_p99",
    "scale_policy_networks",
    "scale_policy_networks_memory",
    "scale_agent_rss",
    "scale_map_memory",
    "scale_restart_open",
    "scale_restart_lists",
    "scale_restart",
];

#[test]
fn a_quick_run_of_scale_measures_everything_beside_the_rows_of_net() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("net.json");
    std::fs::write(&file, r#"[{"bench": "net", "measure": "rr"}]"#)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_netbench"));
    let output = command.args(["scale", "--quick", "--folder"]).arg(folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark failed: {said}");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    for measure in SCALE {
        let row = rows.iter().find(|row| row["bench"] == "scale" && row["measure"] == measure);
        let row = row.with_context(|| format!("no {measure}"))?;
        ensure!(row["median"].as_f64().is_some_and(|median| median > 0.0), "nothing measured: {row}");
    }
    let lost = rows.iter().find(|row| row["measure"] == "scale_restart_lost").context("no lost packets")?;
    ensure!(lost["median"] == 0.0, "packets were lost while the agent restarted: {lost}");
    ensure!(rows.iter().any(|row| row["bench"] == "net"), "the other bench's rows are gone");
    ensure!(folder.path().join("scale.svg").exists(), "no plot");
    nothing_is_left("nc-")
}

fn nothing_is_left(prefix: &str) -> Result<()> {
    let left = Command::new("ip").args(["netns", "list"]).output()?.stdout;
    let left = String::from_utf8_lossy(&left).lines().any(|name| name.starts_with(prefix));
    ensure!(!left, "namespaces are left");
    Ok(())
}
