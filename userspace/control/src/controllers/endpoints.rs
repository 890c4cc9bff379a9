//! The backends of a Service: pods and ports. EndpointSlices and Endpoints are both written from them. PURE.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods;
use super::routing::{own_key, versions};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// One port of a Service, as one pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub port: i32,
    pub app_protocol: Option<String>,
}

/// One pod behind a Service.
#[derive(Clone, Debug)]
pub struct Backend<'a> {
    pub pod: &'a Arc<Pod>,
    pub ports: Vec<Port>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hostname: Option<&'a str>,
}

/// The Service's spec, if we write its endpoints.
pub fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let selects = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    (selects && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

pub fn headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Every selected pod that has an address.
pub fn backends<'a>(view: &'a View, service: &Service, spec: &ServiceSpec) -> Vec<Backend<'a>> {
    let Some(selector) = &spec.selector else { return Vec::new() };
    let with_unready = spec.publish_not_ready_addresses == Some(true);
    view.pods
        .in_namespace(meta::namespace(&service.metadata))
        .map(|(_, pod)| pod)
        .filter(|pod| meta::contains_all(selector, pod.metadata.labels.as_ref()))
        .filter(|pod| !pods::finished(pod) && addresses(pod).next().is_some())
        .map(|pod| {
            let (serving, terminating) = (pods::ready(pod), meta::terminating(&pod.metadata));
            Backend {
                pod,
                ports: ports(spec, pod),
                ready: with_unready || (serving && !terminating),
                serving,
                terminating,
                hostname: hostname(pod, service),
            }
        })
        .collect()
}

pub fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let listed =
        status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().filter_map(|p| p.ip.parse().ok());
    let only = status
        .filter(|s| s.pod_ips.as_ref().is_none_or(Vec::is_empty))
        .and_then(|s| s.pod_ip.as_ref()?.parse().ok());
    listed.chain(only)
}

fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let in_service = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.as_deref().filter(|h| in_service && !h.is_empty())
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let of = |p: &ServicePort| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some(Port {
            name: p.name.clone().unwrap_or_default(),
            port: target(p, &protocol, pod)?,
            protocol,
            app_protocol: p.app_protocol.clone(),
        })
    };
    let mut ports: Vec<Port> = spec.ports.iter().flatten().filter_map(of).collect();
    ports.sort();
    ports
}

/// The number of a target port; a named one is looked up in the pod's containers.
fn target(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| {
                    p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|p| p.container_port)
        }
    }
}

/// Services whose endpoints the change may affect.
pub fn services_of(change: &Change, view: &View, keys: &mut Vec<Key>) {
    own_key(change, Kind::Service, keys);
    match change.object() {
        Some(Object::Pod(_)) => versions(change).for_each(|pod| of_pod(pod.meta(), view, keys)),
        Some(Object::Node(node)) => {
            let zone = |o: &Object| meta::label(o.meta(), ZONE).map(str::to_owned);
            if change.old.as_ref().map(zone) != change.new.as_ref().map(zone) {
                let pods = view.pods.indexed(meta::name(&node.metadata));
                pods.for_each(|pod| of_pod(&pod.metadata, view, keys));
            }
        }
        _ => {}
    }
}

pub const ZONE: &str = "topology.kubernetes.io/zone";

fn of_pod(pod: &ObjectMeta, view: &View, keys: &mut Vec<Key>) {
    for (key, service) in view.services.in_namespace(meta::namespace(pod)) {
        let selector = selecting(service).and_then(|s| s.selector.as_ref());
        if selector.is_some_and(|s| meta::contains_all(s, pod.labels.as_ref())) && !keys.contains(key) {
            keys.push(key.clone());
        }
    }
}
