//! hostPorts of this node's pods, as Services with one endpoint: the node's address and port select the pod.
//!
//! In: a Pod with its addresses. Out: [`HostPorts`]. The ports on all addresses of the node are one Service; each hostIP
//! is another Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use skep_abi::{Addr, Proto};
use skep_api::kinds::service::PortRanges;

use super::service::{Forwarding, PortFacts, ServiceFacts, proto};
use super::slice::{EndpointFacts, SliceFacts};

/// Prefix of the keys of such Services; no other Service has it, since namespaces have no colon.
const KEY_PREFIX: &str = "pod:";

pub(crate) fn is_host_port(key: &str) -> bool {
    key.starts_with(KEY_PREFIX)
}

/// A pod's host ports on one address of the node, or on all of them.
pub(crate) struct HostPorts {
    pub(crate) key: Arc<str>,
    pub(crate) service: ServiceFacts,
    /// The IPv4 one, then the IPv6 one.
    pub(crate) slices: [Option<SliceFacts>; 2],
}

/// `addrs` are the pod's; a pod without addresses has no host ports.
pub(crate) fn extract(pod: &Pod, key: &str, addrs: &[Addr]) -> Vec<HostPorts> {
    let mut by_host: BTreeMap<Option<IpAddr>, Vec<(Proto, u16, u16)>> = BTreeMap::new();
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|s| s.init_containers.iter().flatten().filter(is_sidecar).chain(&s.containers));
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        if let Some((host, port)) = parse(port).filter(|_| !addrs.is_empty()) {
            by_host.entry(host).or_default().push(port);
        }
    }
    let of = |(host, ports)| host_ports(key, host, ports, addrs);
    by_host.into_iter().map(of).collect()
}

fn is_sidecar(container: &&k8s_openapi::api::core::v1::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The hostIP, then protocol, host port and container port. `None` or an unspecified hostIP is every address.
fn parse(port: &ContainerPort) -> Option<(Option<IpAddr>, (Proto, u16, u16))> {
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
    let host_port = port.host_port.and_then(number)?;
    let host = match port.host_ip.as_deref() {
        None | Some("") => None,
        // An invalid hostIP has no frontend.
        Some(text) => Some(text.parse::<IpAddr>().ok()?).filter(|ip| !ip.is_unspecified()),
    };
    Some((host, (proto(port.protocol.as_deref())?, host_port, number(port.container_port)?)))
}

fn host_ports(
    key: &str,
    host: Option<IpAddr>,
    mut ports: Vec<(Proto, u16, u16)>,
    addrs: &[Addr],
) -> HostPorts {
    ports.sort_unstable();
    ports.dedup_by_key(|(proto, port, _)| (*proto, *port));
    let key: Arc<str> = match host {
        Some(host) => format!("{KEY_PREFIX}{key}@{host}").into(),
        None => format!("{KEY_PREFIX}{key}").into(),
    };
    let name = |proto: Proto, port: u16| -> Box<str> { format!("{}-{port}", proto.0).into() };
    let facts = ports.iter().map(|(proto, port, _)| PortFacts {
        name: name(*proto, *port),
        proto: *proto,
        port: *port,
        node_port: if host.is_none() { *port } else { 0 },
    });
    let slice = |v4: bool| {
        let endpoints: Box<[EndpointFacts]> = addrs
            .iter()
            .filter(|addr| addr.is_v4() == v4)
            .map(|addr| EndpointFacts { addr: *addr, local: true, ready: true, hints: None })
            .collect();
        let ports = ports.iter().map(|(proto, port, target)| (name(*proto, *port), *proto, *target));
        SliceFacts {
            service: key.clone(),
            v4,
            ports: ports.collect(),
            endpoints,
            weight: 1,
            ready_nodes: Box::default(),
        }
    };
    let slices = [true, false].map(slice).map(|slice| (!slice.endpoints.is_empty()).then_some(slice));
    let service = ServiceFacts {
        affinity: 0,
        internal_local: false,
        // The pod sees the client's address: it is on this node, so replies pass here anyway.
        external_local: true,
        ranges_v4: Box::default(),
        ranges_v6: Box::default(),
        cluster_ips: Box::default(),
        external_ips: host.into_iter().collect(),
        balancer_ips: Box::default(),
        ports: facts.collect(),
        port_ranges: Ok(PortRanges::default()),
        health_check_port: 0,
        addresses_from_pool: false,
        forwarding: Forwarding::Translated,
        of_node: false,
        routes: None,
    };
    HostPorts { key, service, slices }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skep_abi::{Scope, ServiceKey, ServiceValue};

    use super::super::Index;
    use super::*;
    use crate::service::{NodeContext, ServicePlan, compile};

    fn pod(ports: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": phase, "podIPs": [{"ip": "10.1.0.5"}, {"ip": "fd00::5"}]},
        }))
        .unwrap()
    }

    /// External frontends and their backends, as text.
    fn frontends(index: &Index) -> Vec<String> {
        let addrs = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let node = NodeContext { addrs: addrs.into(), ..NodeContext::default() };
        let plans = index.services.iter().map(|(key, facts)| compile(facts, index.slices_of(key), &node));
        let describe = |plan: &ServicePlan, key: &ServiceKey| {
            let frontend = plan.frontends[key];
            assert_eq!(frontend.flags, ServiceValue::KEEP_SOURCE);
            let backends = &plan.sets[frontend.set.unwrap()];
            let ends: Vec<String> =
                backends.iter().map(|b| format!("{} {}", IpAddr::from(b.addr), b.port.get())).collect();
            format!("{} {} {} -> {}", IpAddr::from(key.addr), key.proto.0, key.port.get(), ends.join(" "))
        };
        let mut all: Vec<String> = plans
            .flat_map(|plan| {
                let external = plan.frontends.keys().filter(|key| key.scope == Scope::EXTERNAL);
                external.map(|key| describe(&plan, key)).collect::<Vec<_>>()
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn node_addresses_select_the_pod_by_protocol_and_host_ip() {
        let mut index = Index::new("n1");
        let ports = json!([
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 8080, "protocol": "UDP"},
            {"containerPort": 81, "hostPort": 8081, "hostIP": "192.0.2.7"},
            {"containerPort": 82, "hostPort": 8082, "hostIP": "0.0.0.0"},
            {"containerPort": 90},
        ]);
        index.apply_pod(&pod(ports.clone(), "Running"));
        let wanted = [
            "192.0.2.1 17 8080 -> 10.1.0.5 53",
            "192.0.2.1 6 8080 -> 10.1.0.5 80",
            "192.0.2.1 6 8082 -> 10.1.0.5 82",
            "192.0.2.7 6 8081 -> 10.1.0.5 81",
            "2001:db8::1 17 8080 -> fd00::5 53",
            "2001:db8::1 6 8080 -> fd00::5 80",
            "2001:db8::1 6 8082 -> fd00::5 82",
        ];
        assert_eq!(frontends(&index), wanted);
        // Lists of Services and slices do not contain host ports, and must not delete them.
        index.keep_services(&Default::default());
        index.keep_slices(&Default::default());
        assert_eq!(frontends(&index), wanted);
        index.apply_pod(&pod(json!([{"containerPort": 80, "hostPort": 8080}]), "Running"));
        assert_eq!(frontends(&index), [wanted[1], wanted[5]]);
        index.apply_pod(&pod(ports, "Succeeded"));
        assert!(index.services.is_empty() && index.slices.is_empty());
    }

    #[test]
    fn pods_of_other_nodes_and_host_network_pods_have_none() {
        let mut index = Index::new("n2");
        index.apply_pod(&pod(json!([{"containerPort": 80, "hostPort": 8080}]), "Running"));
        assert!(index.services.is_empty());
        let mut own = pod(json!([{"containerPort": 80, "hostPort": 80}]), "Running");
        own.spec.as_mut().unwrap().host_network = Some(true);
        let mut index = Index::new("n1");
        index.apply_pod(&own);
        assert!(index.services.is_empty());
        index.apply_pod(&pod(json!([{"containerPort": 80, "hostPort": 8080}]), "Running"));
        assert_eq!(frontends(&index).len(), 2);
        index.delete_pod("ns/web");
        assert!(index.services.is_empty() && index.slices.is_empty());
    }
}
