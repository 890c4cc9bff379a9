//! /metrics: how the agent does.

use std::fmt::Write;
use std::sync::Arc;

use http::Response;
use skep_tunnel::AgentCounts;

use super::answer::{Body, exposition};
use crate::context::NodeContext;

/// The agent's metrics in Prometheus' text format.
pub(super) fn metrics(context: &Arc<NodeContext>) -> Response<Body> {
    let pods = context.pods();
    let running = |pod: &&k8s_openapi::api::core::v1::Pod| {
        pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
    };
    let statuses = pods.iter().filter_map(|p| p.status.as_ref()?.container_statuses.as_ref()).flatten();
    let containers = statuses.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some())).count();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: i64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    gauge("kubelet_running_pods", "Pods that run on this node", count(pods.iter().filter(running).count()));
    gauge("kubelet_running_containers", "Containers that run on this node", count(containers));
    gauge("process_resident_memory_bytes", "Resident memory of the agent in bytes", own_memory());
    let panics = context.panics.load(std::sync::atomic::Ordering::Relaxed);
    let name = "skep_agent_pod_worker_panics_total";
    let help = "Panics of pods' workers and their actions";
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {panics}");
    if let Some(keeper) = &context.tunnels {
        write_tunnels(&keeper.counts(), &mut out);
    }
    context.others.metrics.iter().for_each(|write| write(&mut out));
    exposition(out)
}

fn write_tunnels(counts: &AgentCounts, out: &mut String) {
    let AgentCounts { open, opened, streams, dialled, failed, refused, sent, received } = *counts;
    for (name, kind, help, value) in [
        ("skep_agent_tunnels_open", "gauge", "Tunnels to API servers that are open", open),
        ("skep_agent_tunnels_opened_total", "counter", "Tunnels that were opened", opened),
        ("skep_agent_tunnel_streams", "gauge", "Connections for API servers that are open", streams),
        ("skep_agent_tunnel_dials_total", "counter", "Connections that were opened for API servers", dialled),
        (
            "skep_agent_tunnel_dial_failures_total",
            "counter",
            "Connections for API servers that failed",
            failed,
        ),
        (
            "skep_agent_tunnel_refusals_total",
            "counter",
            "Connections to addresses that are not the node's",
            refused,
        ),
        ("skep_agent_tunnel_sent_bytes_total", "counter", "Bytes sent to API servers", sent),
        ("skep_agent_tunnel_received_bytes_total", "counter", "Bytes received from API servers", received),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

fn own_memory() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}
