//! The legacy Endpoints object of each Service with a selector: first family only, at most 1000 addresses. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoints::{self, Backend, Port};
use super::pods;
use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta::{self, Labels};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

pub struct EndpointsObjects;

impl Controller for EndpointsObjects {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn account(&self) -> &'static str {
        "endpoint-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::Endpoints]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        endpoints::services_of(change, view, keys);
        own_key(change, Kind::Endpoints, keys);
    }

    fn reconcile(&self, view: &View, key: &Key, _: Context<'_>) -> Vec<Action> {
        let existing = view.endpoints.get(key);
        let Some(service) = view.services.get(key) else {
            // Endpoints that a user wrote outlive their Service.
            let ours = existing.filter(|e| meta::label(&e.metadata, MANAGED_BY) == Some(MANAGER));
            return ours.into_iter().map(|e| Action::delete(Object::Endpoints(e.clone()))).collect();
        };
        let Some(spec) = endpoints::selecting(service) else { return Vec::new() };
        wanted(view, service, spec, existing).into_iter().collect()
    }
}

fn wanted(
    view: &View,
    service: &Service,
    spec: &ServiceSpec,
    existing: Option<&Arc<Endpoints>>,
) -> Option<Action> {
    let (subsets, over) = subsets(view, service, spec);
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if endpoints::headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut new = existing.map(|e| e.as_ref().clone()).unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        subsets: None,
    });
    let mut annotations = new.metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    new.metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    new.metadata.labels = Some(labels);
    new.subsets = Some(subsets).filter(|s| !s.is_empty());
    match existing {
        Some(old) => {
            let unchanged = old.subsets.as_deref().unwrap_or_default()
                == new.subsets.as_deref().unwrap_or_default()
                && old.metadata.labels == new.metadata.labels
                && old.metadata.annotations.clone().unwrap_or_default()
                    == new.metadata.annotations.clone().unwrap_or_default();
            (!unchanged).then(|| Action::update(new))
        }
        None => Some(Action::Create(new.into())),
    }
}

fn subsets(view: &View, service: &Service, spec: &ServiceSpec) -> (Vec<EndpointSubset>, bool) {
    let v6 = spec.ip_families.iter().flatten().next().is_some_and(|f| f == "IPv6");
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut backends: Vec<Backend<'_>> = endpoints::backends(view, service, spec);
    backends.retain(|b| !b.terminating || spec.publish_not_ready_addresses == Some(true));
    // Ready backends come first, so that they stay when there are too many.
    backends.sort_by_key(|b| !b.ready);
    let mut count = 0;
    for backend in backends {
        let Some(ip) = endpoints::addresses(backend.pod).find(|a| a.is_ipv6() == v6) else { continue };
        count += 1;
        if count > MAX_ADDRESSES {
            break;
        }
        let address = address(&backend, ip.to_string());
        let (ready, unready) = groups.entry(backend.ports).or_default();
        if backend.ready { ready.push(address) } else { unready.push(address) }
    }
    let subsets = groups.into_iter().map(|(ports, (ready, unready))| EndpointSubset {
        addresses: sorted(ready),
        not_ready_addresses: sorted(unready),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
    });
    (subsets.collect(), count > MAX_ADDRESSES)
}

fn sorted(mut addresses: Vec<EndpointAddress>) -> Option<Vec<EndpointAddress>> {
    addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
    Some(addresses).filter(|a| !a.is_empty())
}

fn address(backend: &Backend<'_>, ip: String) -> EndpointAddress {
    let pod = &backend.pod.metadata;
    EndpointAddress {
        ip,
        hostname: backend.hostname.map(str::to_owned),
        node_name: Some(pods::node_name(backend.pod).to_owned()).filter(|n| !n.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            ..Default::default()
        }),
    }
}

fn port(p: Port) -> EndpointPort {
    EndpointPort {
        name: Some(p.name).filter(|n| !n.is_empty()),
        port: p.port,
        protocol: Some(p.protocol),
        app_protocol: p.app_protocol,
    }
}
