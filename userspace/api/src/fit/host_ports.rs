//! Ports of a node that pods use.

use k8s_openapi::api::core::v1::Pod;

/// Protocol, address and number. The empty address stands for every address.
pub type HostPort = (String, String, i32);

/// The node's ports that the pod's containers use.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            // With host networking a container port is a port of the node.
            let on_host = spec.host_network == Some(true);
            let number = port.host_port.filter(|n| *n > 0).or(on_host.then_some(port.container_port))?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some((protocol, ip, number))
        })
        .collect()
}

/// Whether two pods cannot have both ports.
pub fn conflicts(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1.is_empty() || b.1.is_empty())
}
