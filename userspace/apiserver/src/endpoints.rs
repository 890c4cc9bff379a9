//! The endpoints of a Service, from its EndpointSlices in the cache.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::seq::SliceRandom as _;
use serde_json::Value;
use skep_api::selector::Labels as _;
use skep_api::{find, meta};

use crate::cache::Caches;
use crate::object::{Object, prefix};

/// The EndpointSlices of a Service.
pub(crate) fn slices_of(caches: &Caches, namespace: &str, service: &str) -> Vec<Arc<Object>> {
    let Some(kind) = find("discovery.k8s.io", "v1", "endpointslices") else { return Vec::new() };
    let all = caches.of(kind).map(|slices| slices.list(&format!("{}{namespace}/", prefix(kind))));
    let ours = |slice: &Arc<Object>| slice.selectable.label("kubernetes.io/service-name") == Some(service);
    all.into_iter().flatten().filter(ours).collect()
}

/// The ready endpoints of a port in random order. `wanted` is the port's name or number; empty for the first port.
pub(crate) fn ready_endpoints(caches: &Caches, service: &Value, wanted: &str) -> Vec<SocketAddr> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| {
        wanted.is_empty() || port["name"] == wanted || port["port"].as_u64() == wanted.parse().ok()
    });
    let Some(port) = port else { return Vec::new() };
    let slices = slices_of(caches, meta::namespace(service), meta::name(service));
    let mut found: Vec<SocketAddr> =
        slices.iter().flat_map(|slice| of_slice(&slice.value(), port["name"].as_str())).collect();
    found.shuffle(&mut rand::rng());
    found
}

fn of_slice(slice: &Value, port_name: Option<&str>) -> Vec<SocketAddr> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let of_name = |port: &&Value| port["name"].as_str().unwrap_or_default() == port_name.unwrap_or_default();
    let port = ports.find(of_name).and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] != false;
    let address = |endpoint: &Value| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok();
    let endpoints = slice["endpoints"].as_array().into_iter().flatten().filter(ready);
    endpoints.filter_map(address).map(|ip| SocketAddr::new(ip, port)).collect()
}
