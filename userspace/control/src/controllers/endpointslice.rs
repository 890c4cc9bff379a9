//! EndpointSlices of Services with a selector. PURE.
//! Existing slices are changed as little as possible: an endpoint stays in its slice, gaps are filled before slices are made.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoints::{self, Backend, Port, ZONE};
use super::topology::{self, Shares};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta::{self, Labels};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MOST_IN_A_SLICE: usize = 100;

pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice"
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
        let mut plan = Plan { view, service, spec, context, made: 0, actions: Vec::new() };
        plan.families();
        if meta::terminating(&service.metadata) {
            // The garbage collector takes the slices; new ones would only race with it.
            plan.actions.retain(|action| !matches!(action, Action::Create(_)));
        }
        plan.actions
    }
}

/// Slices of one kind: same family, same ports.
type Group = (&'static str, Vec<Port>);

struct Plan<'a> {
    view: &'a View,
    service: &'a Arc<Service>,
    spec: &'a ServiceSpec,
    context: Context<'a>,
    made: usize,
    actions: Vec<Action>,
}

impl Plan<'_> {
    fn families(&mut self) {
        let backends = endpoints::backends(self.view, self.service, self.spec);
        let nodes = || self.view.nodes.iter().map(|(_, node)| &**node);
        let shares = topology::is_wanted(self.service).then(|| Shares::of(nodes())).flatten();
        let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
        let families = self.spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]);
        for family in ["IPv4", "IPv6"].into_iter().filter(|f| families.iter().any(|x| x == f)) {
            for backend in &backends {
                let mine: Vec<IpAddr> =
                    endpoints::addresses(backend.pod).filter(|a| a.is_ipv4() == (family == "IPv4")).collect();
                if !mine.is_empty() && self.has_node(backend) {
                    let group = wanted.entry((family, backend.ports.clone())).or_default();
                    group.push(self.endpoint(backend, &mine));
                }
            }
            let mut all: Vec<&mut Endpoint> =
                wanted.iter_mut().filter(|((f, _), _)| *f == family).flat_map(|(_, all)| all).collect();
            if let Some(shares) = &shares {
                shares.hint(&mut all);
            }
            if all.is_empty() {
                // A Service without any endpoint still has a slice that says so.
                wanted.insert((family, Vec::new()), Vec::new());
            }
        }
        let mut existing: BTreeMap<Group, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in self.ours() {
            let group = group_of(&slice);
            // A Service that was made anew has nothing to do with the slices of the old one.
            let owned = meta::controller_of(&slice.metadata).is_some_and(|o| o.uid == self.service_uid());
            if owned && wanted.contains_key(&group) {
                existing.entry(group).or_default().push(slice);
            } else {
                self.actions.push(Action::delete(Object::EndpointSlice(slice)));
            }
        }
        // Make and fill before deleting: at no time is an endpoint in no slice.
        let deletes = std::mem::take(&mut self.actions);
        for (group, endpoints) in wanted {
            let slices = existing.remove(&group).unwrap_or_default();
            self.group(&group, endpoints, slices);
        }
        self.actions.extend(deletes);
    }

    fn service_uid(&self) -> &str {
        meta::uid(&self.service.metadata)
    }

    /// A pod whose node is gone cannot be reached, unless the Service wants every pod named.
    fn has_node(&self, backend: &Backend<'_>) -> bool {
        let node = Key::cluster(super::pods::node_name(backend.pod));
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
        let node = super::pods::node_name(backend.pod);
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
        if topology::is_wanted(self.service) {
            // Those depend on what all others are given.
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

    /// Fits the wanted endpoints into the group's slices.
    fn group(&mut self, group: &Group, wanted: Vec<Endpoint>, slices: Vec<Arc<EndpointSlice>>) {
        let identity =
            |e: &Endpoint| (e.target_ref.as_ref().and_then(|r| r.uid.clone()), e.addresses.first().cloned());
        let mut missing: HashMap<_, Endpoint> = HashMap::with_capacity(wanted.len());
        let order: Vec<_> = wanted.iter().map(identity).collect();
        missing.extend(wanted.into_iter().map(|e| (identity(&e), e)));
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = slices
            .into_iter()
            .map(|slice| {
                let stay =
                    slice.endpoints.iter().flatten().filter_map(|e| missing.remove(&identity(e))).collect();
                (slice, stay)
            })
            .collect();
        let mut left: Vec<Endpoint> = order.iter().filter_map(|id| missing.remove(id)).collect();
        fill(&mut kept, &mut left);
        let any_left = kept.iter().any(|(_, e)| !e.is_empty());
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(MOST_IN_A_SLICE));
            self.make(group, std::mem::replace(&mut left, rest));
        }
        let mut spare = None;
        for (slice, endpoints) in kept {
            // One empty slice may stay, and only if nothing else is there.
            if endpoints.is_empty() && (any_left || spare.replace(()).is_some() || self.made > 0) {
                self.actions.push(Action::delete(Object::EndpointSlice(slice)));
            } else {
                self.keep(&slice, endpoints);
            }
        }
        if order.is_empty() && spare.is_none() && !any_left {
            self.make(group, Vec::new());
        }
    }

    fn keep(&mut self, slice: &Arc<EndpointSlice>, endpoints: Vec<Endpoint>) {
        let labels = Some(self.labels());
        if slice.endpoints.as_deref().unwrap_or_default() != endpoints || slice.metadata.labels != labels {
            let mut updated = slice.as_ref().clone();
            updated.endpoints = Some(endpoints);
            updated.metadata.labels = labels;
            self.actions.push(Action::update(updated));
        }
    }

    fn make(&mut self, (family, ports): &Group, endpoints: Vec<Endpoint>) {
        let service = &self.service.metadata;
        let base = format!("{}-", meta::name(service));
        let name = meta::generated_name(&base, self.context.seed, self.made);
        self.made += 1;
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

/// Slices that change anyway are filled first, the fullest before the others. What then would not fill a slice of its
/// own goes whole into one of the others, the one that it fills best.
fn fill(kept: &mut [(Arc<EndpointSlice>, Vec<Endpoint>)], left: &mut Vec<Endpoint>) {
    let changes = |slice: &EndpointSlice, stay: &[Endpoint]| {
        !stay.is_empty() && slice.endpoints.as_deref().unwrap_or_default() != stay
    };
    let mut changing: Vec<&mut Vec<Endpoint>> =
        kept.iter_mut().filter(|(slice, stay)| changes(slice, stay)).map(|(_, stay)| stay).collect();
    changing.sort_by_key(|stay| std::cmp::Reverse(stay.len()));
    for stay in changing {
        let room = MOST_IN_A_SLICE.saturating_sub(stay.len()).min(left.len());
        stay.extend(left.drain(..room));
    }
    let rest = left.len() % MOST_IN_A_SLICE;
    let fits = kept.iter_mut().filter(|(_, stay)| rest > 0 && stay.len() + rest <= MOST_IN_A_SLICE);
    if let Some((_, stay)) = fits.max_by_key(|(_, stay)| stay.len()) {
        stay.extend(left.drain(left.len() - rest..));
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

fn group_of(slice: &EndpointSlice) -> Group {
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::json;

    use super::*;

    fn context() -> Context<'static> {
        Context { now: Timestamp::UNIX_EPOCH, seed: 1, failure: None }
    }

    fn view(spec: serde_json::Value) -> View {
        let mut view = View::default();
        let service = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec});
        view.watched(serde_json::from_value::<Service>(service).unwrap().into(), Timestamp::UNIX_EPOCH);
        let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
        view.watched(serde_json::from_value::<Node>(node).unwrap().into(), Timestamp::UNIX_EPOCH);
        view
    }

    fn pod(view: &mut View, number: u32, port: i32, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {
                "name": format!("p{number}"), "namespace": "ns", "uid": format!("p{number}"), "labels": {"app": "web"},
                "resourceVersion": (number + 1).to_string(),
            },
            "spec": {
                "nodeName": "n1",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}],
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": status}],
                "podIPs": [
                    {"ip": format!("10.0.{}.{}", number / 250, number % 250 + 1)},
                    {"ip": format!("fd00::{:x}", number + 1)},
                ],
            },
        });
        view.watched(serde_json::from_value::<Pod>(pod).unwrap().into(), Timestamp::UNIX_EPOCH);
    }

    /// Reconciles until nothing is left to do; the slices as they then are.
    fn settle(view: &mut View) -> Vec<Arc<EndpointSlice>> {
        for _ in 0..5 {
            for action in EndpointSlices.reconcile(view, &Key::new("ns", "web"), context()) {
                match action {
                    Action::Create(object) | Action::Update { object, .. } => {
                        view.watched(object, Timestamp::UNIX_EPOCH);
                    }
                    Action::Delete(delete) => drop(view.missing(delete.kind, &delete.key)),
                    other => panic!("{other:?}"),
                }
            }
        }
        let rest = EndpointSlices.reconcile(view, &Key::new("ns", "web"), context());
        assert!(rest.is_empty(), "{rest:?}");
        view.slices.iter().map(|(_, s)| s.clone()).collect()
    }

    fn selecting(extra: serde_json::Value) -> serde_json::Value {
        let mut spec =
            json!({"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        let mut sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn no_slice_holds_more_than_a_hundred_and_gaps_are_filled_first() {
        let mut view = view(selecting(json!({})));
        (0..230).for_each(|n| pod(&mut view, n, 8080, true));
        assert_eq!(sizes(&settle(&mut view)), [30, 100, 100]);
        let gone: Vec<Key> = view.pods.iter().take(20).map(|(k, _)| k.clone()).collect();
        gone.iter().for_each(|key| drop(view.missing(Kind::Pod, key)));
        settle(&mut view);
        (300..310).for_each(|n| pod(&mut view, n, 8080, true));
        let slices = settle(&mut view);
        assert_eq!((slices.len(), sizes(&slices).iter().sum::<usize>()), (3, 220));
    }

    #[test]
    fn a_named_port_may_differ_from_pod_to_pod() {
        let mut view = view(selecting(json!({})));
        pod(&mut view, 1, 8080, true);
        pod(&mut view, 2, 9090, true);
        let ports: Vec<_> =
            settle(&mut view).iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
        assert_eq!((ports.len(), ports.iter().sum::<i32>()), (2, 8080 + 9090));
    }

    #[test]
    fn each_family_has_slices_of_its_own() {
        let mut view = view(selecting(json!({"ipFamilies": ["IPv4", "IPv6"]})));
        pod(&mut view, 1, 8080, true);
        let mut types: Vec<_> = settle(&mut view).iter().map(|s| s.address_type.clone()).collect();
        types.sort();
        assert_eq!(types, ["IPv4", "IPv6"]);
    }

    #[test]
    fn unready_pods_are_listed_and_ready_only_where_the_service_wants_it() {
        let ready = |extra| {
            let mut view = view(selecting(extra));
            pod(&mut view, 1, 8080, false);
            let slice = settle(&mut view).pop().unwrap();
            let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
            (conditions.ready, conditions.serving, conditions.terminating)
        };
        assert_eq!(ready(json!({})), (Some(false), Some(false), Some(false)));
        assert_eq!(ready(json!({"publishNotReadyAddresses": true})), (Some(true), Some(false), Some(false)));
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice_that_fills_or_makes_way() {
        let mut view = view(selecting(json!({})));
        assert_eq!(sizes(&settle(&mut view)), [0]);
        pod(&mut view, 1, 8080, true);
        assert_eq!(sizes(&settle(&mut view)), [1]);
        view.missing(Kind::Pod, &Key::new("ns", "p1"));
        assert_eq!(sizes(&settle(&mut view)), [0]);
    }

    #[test]
    fn what_is_added_changes_as_few_slices_as_it_can() {
        let mut view = view(selecting(json!({})));
        (0..250).for_each(|n| pod(&mut view, n, 8080, true));
        settle(&mut view);
        let revisions = |view: &View| -> Vec<usize> {
            view.slices.iter().map(|(_, s)| s.endpoints.iter().flatten().count()).collect()
        };
        let before = revisions(&view);
        // One goes out of a full slice, two come: that slice is full again, the rest goes where it fits.
        let gone =
            view.slices.iter().find(|(_, s)| s.endpoints.iter().flatten().count() == 100).unwrap().1.clone();
        let target = gone.endpoints.as_ref().unwrap()[0].target_ref.clone().unwrap();
        view.missing(Kind::Pod, &Key::new("ns", &target.name.unwrap()));
        (300..302).for_each(|n| pod(&mut view, n, 8080, true));
        settle(&mut view);
        let mut after = revisions(&view);
        assert_eq!(after.iter().sum::<usize>(), 251);
        after.sort_unstable();
        assert_eq!((before.len(), after), (3, vec![51, 100, 100]));
    }

    #[test]
    fn hints_name_the_zone_and_where_it_is_wanted_the_node() {
        let hints = |spec| {
            let mut view = view(selecting(spec));
            pod(&mut view, 1, 8080, true);
            let slice = settle(&mut view).pop().unwrap();
            let hints = slice.endpoints.as_ref().unwrap()[0].hints.clone();
            let zones =
                |h: &EndpointHints| h.for_zones.iter().flatten().map(|z| z.name.clone()).collect::<Vec<_>>();
            let nodes =
                |h: &EndpointHints| h.for_nodes.iter().flatten().map(|n| n.name.clone()).collect::<Vec<_>>();
            hints.map(|h| (zones(&h), nodes(&h)))
        };
        let zone = vec!["z1".to_owned()];
        assert_eq!(hints(json!({})), None);
        for close in ["PreferClose", "PreferSameZone"] {
            assert_eq!(hints(json!({"trafficDistribution": close})), Some((zone.clone(), vec![])));
        }
        assert_eq!(
            hints(json!({"trafficDistribution": "PreferSameNode"})),
            Some((zone, vec!["n1".to_owned()]))
        );
    }

    #[test]
    fn in_topology_mode_auto_zones_have_hints_while_all_nodes_tell_theirs() {
        let mut view = view(selecting(json!({})));
        let mut service = view.services.get(&Key::new("ns", "web")).unwrap().as_ref().clone();
        let annotation = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
        service.metadata.annotations.get_or_insert_default().extend([annotation]);
        view.watched(service.into(), Timestamp::UNIX_EPOCH);
        for number in 1..=4 {
            pod(&mut view, number, 8080, true);
        }
        let mut node = |name: &str, zone: &str, cpu: &str| {
            let node = json!({
                "metadata": {"name": name, "labels": {ZONE: zone}},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]},
            });
            let node = serde_json::from_value::<Node>(node).unwrap().into();
            let change = view.watched(node, Timestamp::UNIX_EPOCH);
            let mut keys = Vec::new();
            change.iter().for_each(|change| EndpointSlices.route(change, &view, &mut keys));
            let slices = settle(&mut view);
            let hint = |e: &Endpoint| Some(e.hints.as_ref()?.for_zones.as_ref()?[0].name.clone());
            let hints: Vec<_> = slices[0].endpoints.iter().flatten().filter_map(hint).collect();
            (!keys.is_empty(), hints.concat())
        };
        assert_eq!(node("n1", "a", "2"), (true, String::new()), "one zone");
        assert_eq!(node("n2", "b", "2"), (true, "aabb".into()));
        assert_eq!(node("n2", "b", "2"), (false, "aabb".into()), "nothing changed");
        assert_eq!(node("n3", "b", "0"), (true, String::new()), "a node that does not say what it has");
    }

    #[test]
    fn a_pod_on_a_node_that_is_gone_is_listed_only_if_every_pod_is_to_be() {
        let listed = |spec| {
            let mut view = view(selecting(spec));
            pod(&mut view, 1, 8080, true);
            view.missing(Kind::Node, &Key::cluster("n1"));
            sizes(&settle(&mut view))
        };
        assert_eq!(listed(json!({})), [0]);
        assert_eq!(listed(json!({"publishNotReadyAddresses": true})), [1]);
    }

    #[test]
    fn slices_of_a_service_of_the_same_name_before_are_replaced() {
        let mut view = view(selecting(json!({})));
        pod(&mut view, 1, 8080, true);
        settle(&mut view);
        let mut again = view.services.get(&Key::new("ns", "web")).unwrap().as_ref().clone();
        again.metadata.uid = Some("other".into());
        view.watched(again.into(), Timestamp::UNIX_EPOCH);
        let slices = settle(&mut view);
        let owner = meta::controller_of(&slices[0].metadata).map(|owner| owner.uid.as_str());
        assert_eq!((sizes(&slices), owner), (vec![1], Some("other")));
    }

    #[test]
    fn services_without_selector_are_left_alone() {
        let mut view = view(json!({"ports": [{"port": 80}]}));
        pod(&mut view, 1, 8080, true);
        assert!(settle(&mut view).is_empty());
    }
}
