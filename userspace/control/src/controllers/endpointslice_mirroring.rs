//! EndpointSlices of Endpoints that users write for Services without a selector. PURE.
//! One slice for each subset and family, so that readers of slices see every Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as OldPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpointslice::{MANAGED_BY, SERVICE_NAME};
use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta::{self, Labels};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that concern only the Endpoints.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Limit of mirrored addresses of a subset.
const MAX_ADDRESSES: usize = 1000;

pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring"
    }

    fn account(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Endpoints, Kind::Service, Kind::EndpointSlice]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Endpoints, keys);
        own_key(change, Kind::Service, keys);
        if let Some(Object::EndpointSlice(slice)) = change.object()
            && meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
            && let Some(service) = meta::label(&slice.metadata, SERVICE_NAME)
        {
            keys.push(Key::new(meta::namespace(&slice.metadata), service));
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let existing: Vec<&Arc<EndpointSlice>> = view
            .slices
            .indexed(&key.name)
            .filter(|s| *meta::namespace(&s.metadata) == *key.namespace && !meta::terminating(&s.metadata))
            .filter(|s| meta::label(&s.metadata, MANAGED_BY) == Some(MANAGER))
            .collect();
        let Some(endpoints) = mirrored(view, key) else {
            return existing.into_iter().map(|s| Action::delete(Object::EndpointSlice(s.clone()))).collect();
        };
        let (wanted, mut actions) = wanted(endpoints);
        actions.extend(fit(endpoints, wanted, existing, context));
        actions
    }
}

/// The Endpoints, if no other controller writes slices for their Service.
fn mirrored<'a>(view: &'a View, key: &Key) -> Option<&'a Arc<Endpoints>> {
    let endpoints = view.endpoints.get(key)?;
    let skipped = meta::label(&endpoints.metadata, SKIP) == Some("true")
        || meta::annotation(&endpoints.metadata, LEADER).is_some();
    let selects = view.services.get(key)?.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    (!skipped && !selects).then_some(endpoints)
}

/// Ports by name, protocol, number and application protocol.
type Ports = Vec<(String, String, i32, Option<String>)>;
/// Whether IPv4, and the ports.
type MirrorGroup = (bool, Ports);

/// Endpoints by group, and Events for what cannot be mirrored.
fn wanted(endpoints: &Arc<Endpoints>) -> (BTreeMap<MirrorGroup, BTreeMap<IpAddr, Endpoint>>, Vec<Action>) {
    let mut wanted: BTreeMap<MirrorGroup, BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
    let (mut invalid, mut skipped) = (0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Ports = subset.ports.iter().flatten().map(port).collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut added = 0;
        for (address, ready) in ready.chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            if added == MAX_ADDRESSES {
                skipped += 1;
                continue;
            }
            added += 1;
            wanted
                .entry((ip.is_ipv4(), ports.clone()))
                .or_default()
                .entry(ip)
                .or_insert_with(|| endpoint(address, ip, ready));
        }
    }
    let record =
        |reason, message| Action::record(&Object::Endpoints(endpoints.clone()), true, reason, message);
    let bad = (invalid > 0).then(|| {
        record(
            "InvalidIPAddress",
            format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"),
        )
    });
    let many = (skipped > 0).then(|| {
        let message = format!(
            "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        record("TooManyAddressesToMirror", message)
    });
    (wanted, bad.into_iter().chain(many).collect())
}

fn port(port: &OldPort) -> (String, String, i32, Option<String>) {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    (port.name.clone().unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

/// One slice for each group: an existing one of the family if there is one, even if its ports change.
fn fit(
    endpoints: &Arc<Endpoints>,
    wanted: BTreeMap<MirrorGroup, BTreeMap<IpAddr, Endpoint>>,
    existing: Vec<&Arc<EndpointSlice>>,
    context: Context<'_>,
) -> Vec<Action> {
    let mut spare: Vec<&Arc<EndpointSlice>> = existing;
    let mut take = |found: &dyn Fn(&EndpointSlice) -> bool| {
        spare.iter().position(|slice| found(slice)).map(|at| spare.swap_remove(at).clone())
    };
    let mut placed: Vec<(EndpointSlice, Option<Arc<EndpointSlice>>)> = Vec::new();
    for (group, all) in wanted {
        let slice = slice(endpoints, &group, all.into_values().collect());
        let same = take(&|old| old.address_type == slice.address_type && same_ports(old, &slice));
        placed.push((slice, same));
    }
    let (mut actions, mut made) = (Vec::new(), 0);
    for (mut slice, same) in placed {
        let old = same.or_else(|| take(&|old| old.address_type == slice.address_type));
        let Some(old) = old else {
            let base = format!("{}-", meta::name(&endpoints.metadata));
            slice.metadata.name = Some(meta::generated_name(&base, context.seed, made));
            slice.metadata.generate_name = Some(base);
            made += 1;
            actions.push(Action::Create(slice.into()));
            continue;
        };
        let mut new = old.as_ref().clone();
        (new.endpoints, new.ports) = (slice.endpoints, slice.ports);
        (new.metadata.labels, new.metadata.annotations) = (slice.metadata.labels, slice.metadata.annotations);
        new.metadata.owner_references = slice.metadata.owner_references;
        if new != *old {
            actions.push(Action::update(new));
        }
    }
    actions.extend(spare.into_iter().map(|slice| Action::delete(Object::EndpointSlice(slice.clone()))));
    actions
}

fn same_ports(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
}

fn slice(endpoints: &Endpoints, (v4, ports): &MirrorGroup, all: Vec<Endpoint>) -> EndpointSlice {
    let old = &endpoints.metadata;
    let mut labels: Labels = old.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), meta::name(old).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = old.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    let ports = ports.iter().map(|(name, protocol, port, app_protocol)| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: old.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|all| !all.is_empty()),
            owner_references: Some(vec![meta::controlled_by(Kind::Endpoints, old)]),
            ..Default::default()
        },
        address_type: if *v4 { "IPv4" } else { "IPv6" }.into(),
        endpoints: Some(all),
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;

    fn view(selector: Value, subsets: Value) -> View {
        let mut view = View::default();
        let service = json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {"selector": selector}});
        view.watched(serde_json::from_value::<Service>(service).unwrap().into(), Timestamp::UNIX_EPOCH);
        put(&mut view, subsets, json!({}));
        view
    }

    fn put(view: &mut View, subsets: Value, labels: Value) {
        let endpoints = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": labels}, "subsets": subsets});
        view.watched(serde_json::from_value::<Endpoints>(endpoints).unwrap().into(), Timestamp::UNIX_EPOCH);
    }

    /// Family, addresses with readiness, port.
    type MirroredSlice = (String, Vec<(String, bool)>, i32);

    /// Reconciles until nothing is left to do; returns the slices, and the reasons of Events.
    fn settle(view: &mut View) -> (Vec<MirroredSlice>, Vec<&'static str>) {
        let mut events = Vec::new();
        for round in 0.. {
            assert!(round < 5);
            let context =
                Context { now: Timestamp::UNIX_EPOCH, steady: Timestamp::UNIX_EPOCH, seed: 1, failure: None };
            let mut quiet = true;
            for action in EndpointSliceMirroring.reconcile(view, &Key::new("ns", "db"), context) {
                quiet &= matches!(action, Action::Record(_));
                match action {
                    Action::Create(object) | Action::Update { object, .. } => {
                        drop(view.watched(object, Timestamp::UNIX_EPOCH))
                    }
                    Action::Delete(delete) => drop(view.missing(delete.kind, &delete.key)),
                    Action::Record(record) if round == 0 => events.push(record.reason),
                    Action::Record(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            if quiet {
                break;
            }
        }
        let of = |slice: &EndpointSlice| {
            let all = slice
                .endpoints
                .iter()
                .flatten()
                .map(|e| (e.addresses[0].clone(), e.conditions.as_ref().unwrap().ready.unwrap()));
            (slice.address_type.clone(), all.collect(), slice.ports.as_ref().unwrap()[0].port.unwrap())
        };
        let mut all: Vec<_> = view.slices.iter().map(|(_, slice)| of(slice)).collect();
        all.sort();
        (all, events)
    }

    #[test]
    fn each_family_and_set_of_ports_has_a_slice() {
        let subsets = json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "x"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]},
        ]);
        let mut view = view(Value::Null, subsets);
        let (slices, events) = settle(&mut view);
        let one = |ip: &str, ready| (ip.to_owned(), ready);
        assert_eq!(
            slices,
            [
                ("IPv4".into(), vec![one("10.0.0.1", true)], 81),
                ("IPv4".into(), vec![one("10.0.0.1", true), one("10.0.0.2", false)], 80),
                ("IPv6".into(), vec![one("fd00::1", true)], 80),
            ]
        );
        assert_eq!(events, ["InvalidIPAddress"]);
        // With other ports the existing slice is used.
        let names = |view: &View| view.slices.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        put(&mut view, json!([{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 82}]}]), json!({}));
        let before = names(&view);
        assert_eq!(settle(&mut view).0, [("IPv4".into(), vec![one("10.0.0.9", true)], 82)]);
        assert!(before.contains(&names(&view)[0]));
    }

    #[test]
    fn endpoints_with_other_slices_are_not_mirrored() {
        let subsets = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]);
        assert!(settle(&mut view(json!({"a": "b"}), subsets.clone())).0.is_empty());
        let mut view = view(Value::Null, subsets.clone());
        assert_eq!(settle(&mut view).0.len(), 1);
        put(&mut view, subsets, json!({SKIP: "true"}));
        assert!(settle(&mut view).0.is_empty());
    }

    #[test]
    fn a_thousand_addresses_are_mirrored_and_an_event_names_the_rest() {
        let many: Vec<Value> =
            (0..1003).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        let (slices, events) =
            settle(&mut view(Value::Null, json!([{"addresses": many, "ports": [{"port": 80}]}])));
        assert_eq!((slices[0].1.len(), events), (1000, vec!["TooManyAddressesToMirror"]));
    }
}
