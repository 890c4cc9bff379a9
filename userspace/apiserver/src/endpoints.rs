//! The endpoints of a Service, from its EndpointSlices in the cache.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use rand::seq::SliceRandom as _;
use serde_json::Value;
use skep_api::selector::Labels as _;
use skep_api::{find, meta};

use crate::cache::Caches;
use crate::dial::Directory;
use crate::object::{Object, prefix};
use crate::remote_address::RemoteAddress;

/// The EndpointSlices of a Service.
pub(crate) fn slices_of(caches: &Caches, namespace: &str, service: &str) -> Vec<Arc<Object>> {
    let Some(kind) = find("discovery.k8s.io", "v1", "endpointslices") else { return Vec::new() };
    let all = caches.of(kind).map(|slices| slices.list(&format!("{}{namespace}/", prefix(kind))));
    let ours = |slice: &Arc<Object>| slice.selectable.label("kubernetes.io/service-name") == Some(service);
    all.into_iter().flatten().filter(ours).collect()
}

/// The ready endpoints of a port in random order. `wanted` is the port's name or number; empty for the first port.
pub(crate) fn ready_endpoints(caches: &Caches, service: &Value, wanted: &str) -> Vec<RemoteAddress> {
    endpoints_of(caches, service, wanted, |_| true)
}

/// As [`ready_endpoints`], of pods only: those whose address is that of the pod of the service's namespace that they name.
pub(crate) fn ready_pods(caches: &Caches, service: &Value, wanted: &str) -> Vec<RemoteAddress> {
    let Some(pods) = find("", "v1", "pods") else { return Vec::new() };
    let namespace = meta::namespace(service);
    endpoints_of(caches, service, wanted, |endpoint| {
        let target = &endpoint["targetRef"];
        let name = target["name"].as_str().unwrap_or_default();
        let is_ours = target["kind"] == "Pod" && target["namespace"] == namespace;
        let pod = caches.get_or_404(pods, namespace, name).ok().filter(|_| is_ours);
        pod.zip(address_of(endpoint)).is_some_and(|(pod, ip)| is_address_of_pod(caches, &pod.value(), ip))
    })
}

/// Whether a pod has this address, as far as its node may say so: it is of the node's range for pods, or the node's own.
pub(crate) fn is_address_of_pod(caches: &Caches, pod: &Value, ip: IpAddr) -> bool {
    let is = |text: &Value| text.as_str().and_then(|text| text.parse().ok()) == Some(ip);
    let reported = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|each| &each["ip"]);
    if !reported.chain([&pod["status"]["podIP"]]).any(is) {
        return false;
    }
    let node = find("", "v1", "nodes").zip(pod["spec"]["nodeName"].as_str());
    let node = node.and_then(|(kind, name)| caches.get_or_404(kind, "", name).ok());
    let Some(node) = node.map(|node| node.value()) else { return true };
    let mut ranges = pod_ranges(&node).peekable();
    let mut own = node["status"]["addresses"].as_array().into_iter().flatten();
    ranges.peek().is_none() || ranges.any(|range| range.contains(ip)) || own.any(|own| is(&own["address"]))
}

fn endpoints_of(
    caches: &Caches,
    service: &Value,
    wanted: &str,
    is_allowed: impl Fn(&Value) -> bool,
) -> Vec<RemoteAddress> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| {
        wanted.is_empty() || port["name"] == wanted || port["port"].as_u64() == wanted.parse().ok()
    });
    let Some(port) = port else { return Vec::new() };
    let mut found = Vec::new();
    for slice in slices_of(caches, meta::namespace(service), meta::name(service)) {
        let slice = slice.value();
        let Some(port) = number_of(&slice, port["name"].as_str()) else { continue };
        let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] != false && is_allowed(endpoint);
        let endpoints = slice["endpoints"].as_array().into_iter().flatten().filter(ready);
        found.extend(endpoints.filter_map(|endpoint| {
            let address = SocketAddr::new(address_of(endpoint)?, port);
            let node = node_of(caches, endpoint, meta::namespace(&slice));
            Some(RemoteAddress::new(address).ok()?.of_node(&node))
        }));
    }
    found.shuffle(&mut rand::rng());
    found
}

/// The node of an endpoint; empty if it is outside of the cluster, as far as is said.
fn node_of(caches: &Caches, endpoint: &Value, namespace: &str) -> String {
    if let Some(node) = endpoint["nodeName"].as_str() {
        return node.to_owned();
    }
    let target = &endpoint["targetRef"];
    let name = target["name"].as_str().filter(|_| target["kind"] == "Pod");
    let pod = find("", "v1", "pods").zip(name);
    let pod = pod.and_then(|(kind, name)| caches.get_or_404(kind, namespace, name).ok());
    pod.and_then(|pod| pod.value()["spec"]["nodeName"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// What the caches say about addresses for which no object names a node.
impl Directory for Caches {
    fn node_of(&self, ip: IpAddr) -> Option<Arc<str>> {
        let kind = find("", "v1", "nodes")?;
        let nodes = self.of(kind)?.list(&prefix(kind));
        let mut nodes = nodes.iter().map(|node| node.value());
        let node = nodes.find(|node| pod_ranges(node).any(|range| range.contains(ip)))?;
        Some(meta::name(&node).into())
    }

    fn endpoint_of(&self, service: SocketAddr) -> Option<RemoteAddress> {
        let kind = find("", "v1", "services")?;
        let services = self.of(kind)?.list(&prefix(kind));
        let ip = service.ip().to_string();
        let mut services = services.iter().map(|service| service.value());
        let found = services.find(|found| {
            let mut all = found["spec"]["clusterIPs"].as_array().into_iter().flatten();
            all.any(|one| *one == ip)
        })?;
        ready_endpoints(self, &found, &service.port().to_string()).into_iter().next()
    }
}

fn pod_ranges(node: &Value) -> impl Iterator<Item = IpNetwork> {
    let ranges = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    ranges.filter_map(|range| range.as_str()?.parse::<IpNetwork>().ok())
}

/// The number of a named port.
fn number_of(slice: &Value, name: Option<&str>) -> Option<u16> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == name.unwrap_or_default())?;
    u16::try_from(port["port"].as_u64()?).ok()
}

fn address_of(endpoint: &Value) -> Option<IpAddr> {
    endpoint["addresses"][0].as_str()?.parse().ok()
}
