//! Metrics of the nodes' tunnels.

use skep_tunnel::ServerCounts;

use super::family::family;

pub(super) fn write(counts: &ServerCounts, out: &mut String) {
    let ServerCounts { nodes, open, opened, streams, dialled, failed, sent, received } = *counts;
    for (name, kind, help, value) in [
        ("skep_tunnel_nodes", "gauge", "Nodes with a tunnel to this server", nodes),
        ("skep_tunnels_open", "gauge", "Tunnels that are open", open),
        ("skep_tunnels_opened_total", "counter", "Tunnels that nodes opened", opened),
        ("skep_tunnel_streams", "gauge", "Connections through tunnels that are open", streams),
        ("skep_tunnel_dials_total", "counter", "Connections that were opened through tunnels", dialled),
        ("skep_tunnel_dial_failures_total", "counter", "Connections through tunnels that failed", failed),
        ("skep_tunnel_sent_bytes_total", "counter", "Bytes sent through tunnels to nodes", sent),
        (
            "skep_tunnel_received_bytes_total",
            "counter",
            "Bytes received through tunnels from nodes",
            received,
        ),
    ] {
        family(out, name, kind, help, [(String::new(), value as f64)].into_iter());
    }
}
