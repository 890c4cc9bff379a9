//! The node's tunnels to API servers: which servers there are, and what these may reach through this node.
//!
//! In: the EndpointSlices of the `kubernetes` Service. Out: a tunnel to each server that they name.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skep_api::watch::WatchEvent;
use skep_tunnel::{Reach, ServerAddress};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Events, ServerTunnels};
use crate::context::NodeContext;

/// Keeps the tunnels until `stop`. `port` is that of the kubelet API.
pub(crate) async fn run(
    tunnels: ServerTunnels,
    context: Arc<NodeContext>,
    port: u16,
    stop: CancellationToken,
) {
    let ServerTunnels { keeper, slices } = tunnels;
    let (known, servers) = watch::channel(BTreeSet::new());
    let ips = context.node_view.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let reach = Arc::new(OwnAddresses { ips, port, context });
    tokio::join!(keeper.run(servers, reach, stop.clone()), stop.run_until_cancelled(follow(slices, &known)));
}

/// Whether a slice names API servers.
pub fn names_servers(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
    slice.metadata.namespace.as_deref() == Some("default") && service.is_some_and(|name| name == "kubernetes")
}

/// Follows the servers until the informer ends. Those that were known stay while none are.
async fn follow(mut slices: Events<EndpointSlice>, known: &watch::Sender<BTreeSet<ServerAddress>>) {
    let (mut current, mut relisted) = (HashMap::new(), None);
    while let Some(event) = slices.recv().await {
        apply(event, &mut current, &mut relisted);
        if relisted.is_some() {
            continue;
        }
        let servers: BTreeSet<ServerAddress> = current.values().flatten().cloned().collect();
        if !servers.is_empty() {
            known.send_if_modified(|known| {
                let changed = *known != servers;
                *known = servers;
                changed
            });
        }
    }
}

/// The servers by the name of their slice.
type Known = HashMap<String, Vec<ServerAddress>>;

fn apply(event: WatchEvent<Arc<EndpointSlice>>, current: &mut Known, relisted: &mut Option<Known>) {
    let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Init => *relisted = Some(HashMap::new()),
        WatchEvent::InitApply(slice) | WatchEvent::Apply(slice) => {
            let into = relisted.as_mut().unwrap_or(current);
            into.insert(name(&slice), servers_of(&slice));
        }
        WatchEvent::InitKeep(kept) => {
            if let (Some(relisted), Some(known)) = (relisted, current.get(&kept.name)) {
                relisted.insert(kept.name, known.clone());
            }
        }
        WatchEvent::InitDone => {
            if let Some(all) = relisted.take() {
                *current = all;
            }
        }
        WatchEvent::Delete(slice) => drop(current.remove(&name(&slice))),
        WatchEvent::DeleteUnreadable(gone) if gone.namespace == "default" => drop(current.remove(&gone.name)),
        WatchEvent::DeleteUnreadable(_) => {}
    }
}

fn servers_of(slice: &EndpointSlice) -> Vec<ServerAddress> {
    let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    let port = ports.into_iter().next();
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let hosts = ready.flat_map(|endpoint| endpoint.addresses.iter());
    hosts.filter_map(|host| Some(ServerAddress { host: host.clone(), port: port? })).collect()
}

/// The kubelet API, the pods of the node, and what pods in the node's own network say that they serve.
struct OwnAddresses {
    ips: Vec<IpAddr>,
    port: u16,
    context: Arc<NodeContext>,
}

impl Reach for OwnAddresses {
    fn permits(&self, address: SocketAddr) -> bool {
        if !self.ips.contains(&address.ip()) {
            return self.context.has_pod(|pod| has_address(pod, address.ip()));
        }
        address.port() == self.port || self.context.has_pod(|pod| serves_in_host_network(pod, address.port()))
    }
}

/// The address of a pod that has ended may be another's.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    let all = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    let mut all = all.into_iter().flatten().filter_map(|each| each.ip.parse::<IpAddr>().ok());
    !has_ended(pod) && all.any(|own| own == ip)
}

/// Ports need not be declared: a pod that declares none may serve at any.
fn serves_in_host_network(pod: &Pod, port: u16) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network == Some(true)) else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten()).peekable();
    let serves = ports.peek().is_none() || ports.any(|declared| declared.container_port == i32::from(port));
    serves && !has_ended(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value, status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_pods_address_is_its_own_until_it_ends() {
        let ips = json!([{"ip": "10.0.1.5"}, {"ip": "fd00::5"}]);
        let running = pod(json!({"containers": []}), json!({"phase": "Running", "podIPs": ips}));
        let ended = pod(json!({"containers": []}), json!({"phase": "Failed", "podIPs": ips}));
        let has = |pod: &Pod, ip: &str| has_address(pod, ip.parse().unwrap());
        assert!(has(&running, "10.0.1.5") && has(&running, "fd00::5") && !has(&running, "10.0.1.6"));
        assert!(!has(&ended, "10.0.1.5"));
    }

    #[test]
    fn the_nodes_own_ports_are_those_of_pods_in_its_network() {
        let containers = json!([{"name": "c", "ports": [{"containerPort": 9100}]}]);
        let in_host =
            pod(json!({"hostNetwork": true, "containers": containers}), json!({"phase": "Running"}));
        let apart = pod(json!({"containers": containers}), json!({"phase": "Running"}));
        assert!(serves_in_host_network(&in_host, 9100) && !serves_in_host_network(&in_host, 22));
        assert!(!serves_in_host_network(&apart, 9100));
        let silent = json!({"hostNetwork": true, "containers": [{"name": "c"}]});
        assert!(serves_in_host_network(&pod(silent.clone(), json!({"phase": "Running"})), 9100));
        assert!(!serves_in_host_network(&pod(silent, json!({"phase": "Failed"})), 9100));
    }

    #[tokio::test]
    async fn the_servers_are_those_of_all_slices_and_the_last_ones_while_there_is_none() {
        let slice = |name: &str, host: &str| {
            let slice = json!({
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4", "endpoints": [{"addresses": [host]}], "ports": [{"port": 6443}],
            });
            Arc::new(serde_json::from_value::<EndpointSlice>(slice).unwrap())
        };
        assert!(names_servers(&slice("a", "192.0.2.1")));
        let (events, receiver) = tokio::sync::mpsc::channel(16);
        let (known, servers) = watch::channel(BTreeSet::new());
        for event in [
            WatchEvent::Init,
            WatchEvent::InitApply(slice("a", "192.0.2.1")),
            WatchEvent::InitDone,
            WatchEvent::Apply(slice("b", "192.0.2.2")),
        ] {
            events.send(event).await.unwrap();
        }
        let both = async {
            let mut servers = servers.clone();
            let found = servers.wait_for(|servers| servers.len() == 2).await.unwrap().clone();
            events.send(WatchEvent::Delete(slice("a", "192.0.2.1"))).await.unwrap();
            servers.wait_for(|servers| servers.len() == 1).await.unwrap();
            events.send(WatchEvent::Delete(slice("b", "192.0.2.2"))).await.unwrap();
            drop(events);
            found
        };
        let (found, ()) = tokio::join!(both, follow(receiver, &known));
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["192.0.2.1:6443", "192.0.2.2:6443"]);
        assert_eq!(servers.borrow().iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.2:6443"]);
    }
}
