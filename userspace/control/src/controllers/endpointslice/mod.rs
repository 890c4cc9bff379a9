//! EndpointSlices of Services with a selector. PURE.
//! Existing slices change as little as possible: an endpoint stays in its slice, and gaps are filled before slices are
//! created.

mod fill;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::fill::{MAX_ENDPOINTS_PER_SLICE, fill};
use super::endpoints::{self, Backend, Port, ZONE};
use super::pods;
use super::topology::{self, Shares};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta::{self, Labels};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn account(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn event_source(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::Node, Kind::EndpointSlice]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        endpoints::services_of(change, view, keys);
        topology::services_of(change, view, keys);
        if let Some(Object::EndpointSlice(slice)) = change.object()
            && let Some(service) = meta::label(&slice.metadata, SERVICE_NAME)
        {
            keys.push(Key::new(meta::namespace(&slice.metadata), service));
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(service) = view.services.get(key) else { return Vec::new() };
        let Some(spec) = endpoints::selecting(service) else { return Vec::new() };
        let mut plan = SlicePlan { view, service, spec, context, created: 0, actions: Vec::new() };
        plan.families();
        if meta::terminating(&service.metadata) {
            // The garbage collector deletes the slices; new ones would race with it.
            plan.actions.retain(|action| !matches!(action, Action::Create(_)));
        }
        plan.actions
    }
}

/// Slices with the same family and ports.
type SliceGroup = (&'static str, Vec<Port>);

struct SlicePlan<'a> {
    view: &'a View,
    service: &'a Arc<Service>,
    spec: &'a ServiceSpec,
    context: Context<'a>,
    /// Slices created by this plan.
    created: usize,
    actions: Vec<Action>,
}

impl SlicePlan<'_> {
    fn families(&mut self) {
        let backends = endpoints::backends(self.view, self.service, self.spec);
        let nodes = || self.view.nodes.iter().map(|(_, node)| &**node);
        let shares = topology::is_enabled(self.service).then(|| Shares::of(nodes())).flatten();
        let mut wanted: BTreeMap<SliceGroup, Vec<Endpoint>> = BTreeMap::new();
        let families = self.spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]);
        for family in ["IPv4", "IPv6"].into_iter().filter(|f| families.iter().any(|x| x == f)) {
            for backend in &backends {
                let addresses: Vec<IpAddr> =
                    endpoints::addresses(backend.pod).filter(|a| a.is_ipv4() == (family == "IPv4")).collect();
                if !addresses.is_empty() && self.has_node(backend) {
                    let group = wanted.entry((family, backend.ports.clone())).or_default();
                    group.push(self.endpoint(backend, &addresses));
                }
            }
            let mut all: Vec<&mut Endpoint> =
                wanted.iter_mut().filter(|((f, _), _)| *f == family).flat_map(|(_, all)| all).collect();
            if let Some(shares) = &shares {
                shares.hint(&mut all);
            }
            if all.is_empty() {
                // A Service without endpoints still has one empty slice.
                wanted.insert((family, Vec::new()), Vec::new());
            }
        }
        let mut existing: BTreeMap<SliceGroup, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in self.ours() {
            let group = group_of(&slice);
            // Slices of an earlier Service of the same name are deleted.
            let owned = meta::controller_of(&slice.metadata).is_some_and(|o| o.uid == self.service_uid());
            if owned && wanted.contains_key(&group) {
                existing.entry(group).or_default().push(slice);
            } else {
                self.actions.push(Action::delete(Object::EndpointSlice(slice)));
            }
        }
        // Create and fill before deleting, so that every endpoint is in a slice at all times.
        let deletes = std::mem::take(&mut self.actions);
        for (group, endpoints) in wanted {
            let slices = existing.remove(&group).unwrap_or_default();
            self.pack(&group, endpoints, slices);
        }
        self.actions.extend(deletes);
    }

    fn service_uid(&self) -> &str {
        meta::uid(&self.service.metadata)
    }

    /// A pod whose node is gone is left out, unless the Service lists every pod.
    fn has_node(&self, backend: &Backend<'_>) -> bool {
        let node = Key::cluster(pods::node_name(backend.pod));
        self.spec.publish_not_ready_addresses == Some(true) || self.view.nodes.get(&node).is_some()
    }

    fn ours(&self) -> Vec<Arc<EndpointSlice>> {
        let namespace = meta::namespace(&self.service.metadata);
        let named = self.view.slices.indexed(meta::name(&self.service.metadata));
        named
            .filter(|s| meta::namespace(&s.metadata) == namespace && !meta::terminating(&s.metadata))
            .filter(|s| meta::label(&s.metadata, MANAGED_BY) == Some(MANAGER))
            .cloned()
            .collect()
    }

    fn endpoint(&self, backend: &Backend<'_>, addresses: &[IpAddr]) -> Endpoint {
        let pod = &backend.pod.metadata;
        let node = pods::node_name(backend.pod);
        let zone = self
            .view
            .nodes
            .get(&Key::cluster(node))
            .and_then(|n| meta::label(&n.metadata, ZONE))
            .map(str::to_owned);
        Endpoint {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            conditions: Some(EndpointConditions {
                ready: Some(backend.ready),
                serving: Some(backend.serving),
                terminating: Some(backend.terminating),
            }),
            hostname: backend.hostname.map(str::to_owned),
            hints: self.hints(backend, node, zone.as_deref()),
            node_name: Some(node.to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                ..Default::default()
            }),
            zone,
            ..Default::default()
        }
    }

    fn hints(&self, backend: &Backend<'_>, node: &str, zone: Option<&str>) -> Option<EndpointHints> {
        if topology::is_enabled(self.service) {
            // Topology hints depend on all endpoints; `Shares::hint` sets them.
            return None;
        }
        let same_node = match self.spec.traffic_distribution.as_deref()? {
            "PreferSameNode" => true,
            "PreferClose" | "PreferSameZone" => false,
            _ => return None,
        };
        let hints = EndpointHints {
            for_zones: zone.map(|z| vec![ForZone { name: z.into() }]),
            for_nodes: (same_node && !node.is_empty()).then(|| vec![ForNode { name: node.into() }]),
        };
        let useful = hints.for_zones.is_some() || hints.for_nodes.is_some();
        (backend.ready && useful).then_some(hints)
    }

    /// Distributes the wanted endpoints over the group's slices.
    fn pack(&mut self, group: &SliceGroup, wanted: Vec<Endpoint>, slices: Vec<Arc<EndpointSlice>>) {
        let identity =
            |e: &Endpoint| (e.target_ref.as_ref().and_then(|r| r.uid.clone()), e.addresses.first().cloned());
        let mut missing: HashMap<_, Endpoint> = HashMap::with_capacity(wanted.len());
        let order: Vec<_> = wanted.iter().map(identity).collect();
        missing.extend(wanted.into_iter().map(|e| (identity(&e), e)));
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = slices
            .into_iter()
            .map(|slice| {
                let kept =
                    slice.endpoints.iter().flatten().filter_map(|e| missing.remove(&identity(e))).collect();
                (slice, kept)
            })
            .collect();
        let mut unplaced: Vec<Endpoint> = order.iter().filter_map(|id| missing.remove(id)).collect();
        fill(&mut kept, &mut unplaced);
        let any_used = kept.iter().any(|(_, e)| !e.is_empty());
        while !unplaced.is_empty() {
            let rest = unplaced.split_off(unplaced.len().min(MAX_ENDPOINTS_PER_SLICE));
            self.create(group, std::mem::replace(&mut unplaced, rest));
        }
        let mut empty = None;
        for (slice, endpoints) in kept {
            // One empty slice may stay, and only if there is no other slice.
            if endpoints.is_empty() && (any_used || empty.replace(()).is_some() || self.created > 0) {
                self.actions.push(Action::delete(Object::EndpointSlice(slice)));
            } else {
                self.update(&slice, endpoints);
            }
        }
        if order.is_empty() && empty.is_none() && !any_used {
            self.create(group, Vec::new());
        }
    }

    fn update(&mut self, slice: &Arc<EndpointSlice>, endpoints: Vec<Endpoint>) {
        let labels = Some(self.labels());
        if slice.endpoints.as_deref().unwrap_or_default() != endpoints || slice.metadata.labels != labels {
            let mut updated = slice.as_ref().clone();
            updated.endpoints = Some(endpoints);
            updated.metadata.labels = labels;
            self.actions.push(Action::update(updated));
        }
    }

    fn create(&mut self, (family, ports): &SliceGroup, endpoints: Vec<Endpoint>) {
        let service = &self.service.metadata;
        let base = format!("{}-", meta::name(service));
        let name = meta::generated_name(&base, self.context.seed, self.created);
        self.created += 1;
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name),
                generate_name: Some(base),
                namespace: service.namespace.clone(),
                labels: Some(self.labels()),
                owner_references: Some(vec![meta::controlled_by(Kind::Service, service)]),
                ..Default::default()
            },
            address_type: (*family).into(),
            endpoints: Some(endpoints),
            ports: Some(ports.iter().map(port).collect()),
        };
        self.actions.push(Action::Create(slice.into()));
    }

    fn labels(&self) -> Labels {
        let mut labels = self.service.metadata.labels.clone().unwrap_or_default();
        labels.remove(HEADLESS);
        if endpoints::headless(self.spec) {
            labels.insert(HEADLESS.into(), String::new());
        }
        labels.insert(SERVICE_NAME.into(), meta::name(&self.service.metadata).into());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        labels
    }
}

fn port(p: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(p.name.clone()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
    }
}

fn group_of(slice: &EndpointSlice) -> SliceGroup {
    let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
    let of = |p: &EndpointPort| Port {
        name: p.name.clone().unwrap_or_default(),
        protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port: p.port.unwrap_or(0),
        app_protocol: p.app_protocol.clone(),
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(of).collect();
    ports.sort();
    (family, ports)
}
