//! Random changes, in any order and interrupted anywhere: after every single write each lookup has the complete answer of
//! the old or of the new state, and in the end the maps are those of a fresh start.

mod frontend;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use frontend::{Resolved, pages_in_use, resolve};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use skep_abi::{
    Addr, BACKEND_SLOTS, Be16, CLASS_ANY, CLASS_OTHER, Direction, Pod, Proto, Scope, ServiceKey, VerdictKey,
    isolated_bit, open_bit, table_of, verdicts_index,
};
use skep_netplan::{Observed, Owner, Planner, Unit, VerdictEntry, VerdictMapId, Write};

const NODE: &str = "node-a";

#[derive(Clone, Debug)]
enum Event {
    Service {
        name: usize,
        affinity: bool,
        node_port: bool,
        local: bool,
        ip: u8,
        ranges: &'static [&'static str],
        /// The annotation for further ports; empty: none.
        ports: &'static str,
    },
    DeleteService(usize),
    Slice {
        service: usize,
        endpoints: Vec<(u8, bool)>,
    },
    DeleteSlice(usize),
    RemotePod {
        n: u8,
        app: &'static str,
    },
    DeleteRemotePod(u8),
    LocalPod {
        n: u8,
        app: &'static str,
    },
    Attach(u8),
    Detach(u8),
    Policy {
        name: usize,
        app: Option<&'static str>,
        from: Value,
        port: u16,
    },
    DeletePolicy(usize),
    Namespace {
        team: &'static str,
    },
    Node {
        n: u8,
        present: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let app = || select(vec!["x", "y"]);
    let from = select(vec![
        json!({"podSelector": {"matchLabels": {"app": "x"}}}),
        json!({"podSelector": {}}),
        json!({"namespaceSelector": {"matchLabels": {"team": "red"}}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/28"]}}),
        json!({"ipBlock": {"cidr": "10.0.0.3/32"}}),
        // Anyone.
        json!(null),
    ]);
    let ranges = select(vec![
        &[][..],
        &["10.1.0.0/16"],
        &["10.1.0.0/16", "10.2.0.0/16"],
        &["10.0.0.0/8", "0.0.0.0/0"],
        &["2001:db8::/32"],
    ]);
    let ports = select(vec!["", "", "8000-8033", "8016-8300,80", "all", "no ports"]);
    let endpoint = subsequence((0u8..6).collect::<Vec<_>>(), 0..4)
        .prop_flat_map(|ns| ns.into_iter().map(|n| (Just(n), any::<bool>())).collect::<Vec<_>>());
    prop_oneof![
        3 => (0usize..3, any::<(bool, bool, bool)>(), 0u8..3, ranges, ports)
            .prop_map(|(name, (affinity, node_port, local), ip, ranges, ports)| {
                Event::Service { name, affinity, node_port, local, ip, ranges, ports }
            }),
        1 => (0usize..3).prop_map(Event::DeleteService),
        4 => (0usize..3, endpoint).prop_map(|(service, endpoints)| Event::Slice { service, endpoints }),
        1 => (0usize..3).prop_map(Event::DeleteSlice),
        3 => (0u8..6, app()).prop_map(|(n, app)| Event::RemotePod { n, app }),
        1 => (0u8..6).prop_map(Event::DeleteRemotePod),
        2 => (0u8..3, app()).prop_map(|(n, app)| Event::LocalPod { n, app }),
        3 => (0u8..3).prop_map(Event::Attach),
        1 => (0u8..3).prop_map(Event::Detach),
        4 => (0usize..3, proptest::option::of(app()), from, 80u16..82)
            .prop_map(|(name, app, from, port)| Event::Policy { name, app, from, port }),
        1 => (0usize..3).prop_map(Event::DeletePolicy),
        1 => select(vec!["red", "blue"]).prop_map(|team| Event::Namespace { team }),
        2 => (0u8..3, any::<bool>()).prop_map(|(n, present)| Event::Node { n, present }),
    ]
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, app: &str, node: &str, ip: Option<String>) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIPs": ip.map(|ip| vec![json!({"ip": ip})])},
    })
}

fn perform(planner: &mut Planner, event: &Event) {
    let index = &mut planner.index;
    match event {
        Event::Service { .. } => index.apply_service(&object(service(event))),
        Event::DeleteService(name) => index.delete_service(&format!("ns/s{name}")),
        Event::Slice { service, endpoints } => index.apply_slice(&object(slice(*service, endpoints))),
        Event::DeleteSlice(service) => index.delete_slice(&format!("ns/s{service}-1")),
        Event::RemotePod { n, app } => {
            index.apply_pod(&object(pod(&format!("r{n}"), app, "node-b", Some(format!("10.0.0.{n}")))));
        }
        Event::DeleteRemotePod(n) => index.delete_pod(&format!("ns/r{n}")),
        Event::LocalPod { n, app } => index.apply_pod(&object(pod(&format!("l{n}"), app, NODE, None))),
        Event::Attach(n) => {
            let slot = planner.attached(&format!("sandbox-{n}")).map(|pod| pod.slot);
            let slot = slot.or_else(|| planner.free_slot()).unwrap();
            attach(planner, *n, Pod { ifindex: u32::from(*n) + 1, slot, ..Pod::default() });
        }
        Event::Detach(n) => planner.detach(&format!("sandbox-{n}")),
        Event::Policy { name, app, from, port } => {
            let selector = app.map_or(json!({}), |app| json!({"matchLabels": {"app": app}}));
            let mut rule = json!({"ports": [{"port": port}]});
            if !from.is_null() {
                rule["from"] = json!([from]);
            }
            index.apply_policy(&object(json!({
                "metadata": {"namespace": "ns", "name": format!("p{name}")},
                "spec": {"podSelector": selector, "ingress": [rule]},
            })));
        }
        Event::DeletePolicy(name) => index.delete_policy(&format!("ns/p{name}")),
        Event::Namespace { team } => {
            index.apply_namespace(&object(json!({"metadata": {"name": "ns", "labels": {"team": team}}})));
        }
        Event::Node { n, present: false } => index.delete_node(&format!("node-{n}")),
        Event::Node { n, present: true } => index.apply_node(&object(json!({
            "metadata": {"name": format!("node-{n}")},
            "spec": {"podCIDR": format!("10.244.{n}.0/24")},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("10.86.0.{n}")}]},
        }))),
    }
}

fn service(event: &Event) -> Value {
    let Event::Service { name, affinity, node_port, local, ip, ranges, ports } = event else {
        panic!("not a service: {event:?}")
    };
    // With dsr a service has node ports at other nodes' addresses too.
    let mut annotations = json!({"skep.io/forwarding": if ip % 2 == 0 { "snat" } else { "dsr" }});
    if !ports.is_empty() {
        annotations["skep.io/ports"] = json!(ports);
    }
    json!({
        "metadata": {"namespace": "ns", "name": format!("s{name}"), "annotations": annotations},
        "spec": {
            "type": if *node_port { "LoadBalancer" } else { "ClusterIP" },
            "loadBalancerSourceRanges": ranges,
            "clusterIP": format!("10.96.0.{}", name + 1),
            // Shared between services, so that they contend for it.
            "externalIPs": if *node_port { vec![] } else { vec![format!("192.0.2.{ip}")] },
            "sessionAffinity": if *affinity { "ClientIP" } else { "None" },
            "externalTrafficPolicy": if *local { "Local" } else { "Cluster" },
            "ports": [{"port": 80, "nodePort": node_port.then_some(30000 + name)}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{ip}")}]}},
    })
}

fn slice(service: usize, endpoints: &[(u8, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(n, ready)| {
            json!({"addresses": [format!("10.0.1.{n}")], "conditions": {"ready": ready},
                   "nodeName": if n % 2 == 0 { NODE } else { "node-b" }})
        })
        .collect();
    json!({
        "metadata": {"namespace": "ns", "name": format!("s{service}-1"),
                     "labels": {"kubernetes.io/service-name": format!("s{service}")}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    })
}

fn attach(planner: &mut Planner, n: u8, pod: Pod) {
    let owner = Owner { namespace: "ns".into(), name: format!("l{n}"), uid: String::new() };
    planner.attach(&format!("sandbox-{n}"), &owner, &[local_addr(n)], pod);
}

fn local_addr(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 2, n])
}

fn class_of(maps: &Observed, addr: Addr) -> u32 {
    let bits = u128::from_be_bytes(addr.octets());
    let classes = &maps.classes[table_of(maps.generation) as usize];
    let at = |length: u32| {
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        classes.get(&(length, Addr::from_octets((bits & mask).to_be_bytes()))).copied()
    };
    (0..=128).rev().find_map(at).unwrap_or(CLASS_OTHER)
}

fn bytes(key: &VerdictKey) -> u128 {
    let [a, b, c, d] = key.class;
    let [p, q] = key.port.0.to_ne_bytes();
    u128::from_be_bytes([key.direction.0, 0, 0, 0, a, b, c, d, 0, key.proto.0, p, q, 0, 0, 0, 0])
}

fn lookup(map: &[VerdictEntry], key: VerdictKey) -> Option<u32> {
    let matching = map.iter().filter(|(bits, entry, _)| {
        let mask = u128::MAX << (128 - bits);
        bytes(entry) & mask == bytes(&key) & mask
    });
    matching.max_by_key(|(bits, _, _)| *bits).map(|(_, _, verdict)| verdict.allow)
}

/// `None`: the address is not a pod's of this node. `Some(None)`: an entry is missing in the maps.
fn verdict(maps: &Observed, pod: Addr, peer: Addr, port: u16) -> Option<Option<u32>> {
    let pod = maps.pods.get(&pod)?;
    let is_isolated = pod.isolated & isolated_bit(maps.generation) != 0;
    let is_open = pod.isolated & open_bit(maps.generation, Direction::INGRESS) != 0;
    let Some(id) = maps.verdicts.get(&verdicts_index(pod.slot, maps.generation)) else {
        return Some((!is_isolated && is_open).then_some(1));
    };
    if !is_isolated {
        return Some(None);
    }
    if is_open {
        return Some(Some(1));
    }
    let key = |class| VerdictKey::new(Direction::INGRESS, class, Proto::TCP, Be16::new(port));
    let answer = |class| maps.verdict_maps.get(id).and_then(|map| lookup(map, key(class)));
    let of_class = answer(class_of(maps, peer));
    Some(if of_class == Some(0) { answer(CLASS_ANY) } else { of_class })
}

type Services = BTreeMap<ServiceKey, Option<Resolved>>;
type Verdicts = BTreeMap<(Addr, Addr, u16), Option<Option<u32>>>;

fn answers(maps: &Observed, frontends: &BTreeSet<ServiceKey>) -> (Services, Verdicts) {
    let services = frontends.iter().map(|key| (*key, resolve(maps, key))).collect();
    let locals = (0..3).map(|n| Addr::from(local_addr(n)));
    let peers = (0..6u8).map(|n| IpAddr::from([10, 0, 0, n])).chain((0..3).map(local_addr));
    let peers: Vec<Addr> = peers.chain([IpAddr::from([10, 9, 9, 9])]).map(Addr::from).collect();
    let mut verdicts = Verdicts::new();
    for pod in locals {
        for peer in &peers {
            for port in 80..82 {
                verdicts.insert((pod, *peer, port), verdict(maps, pod, *peer, port));
            }
        }
    }
    (services, verdicts)
}

fn frontends() -> BTreeSet<ServiceKey> {
    let mut keys = BTreeSet::new();
    let mut add = |addr: [u8; 4], port| {
        for scope in [Scope::INTERNAL, Scope::EXTERNAL] {
            keys.insert(ServiceKey {
                addr: IpAddr::from(addr).into(),
                port: Be16::new(port),
                proto: Proto::TCP,
                scope,
            });
        }
    };
    for n in 0..3u8 {
        for port in [80, 8000, 8020, 8033, 8200, 9000] {
            add([10, 96, 0, n + 1], port);
            add([192, 0, 2, n], port);
        }
        add([10, 86, 0, 100], 30000 + u16::from(n));
    }
    keys
}

fn planner(observed: Observed) -> Planner {
    Planner::new(NODE, vec!["10.86.0.100".parse().unwrap()], observed)
}

/// Performs the plan's writes one by one up to `limit`, and fails the others; `check` gets the maps after each.
fn carry_out(planner: &mut Planner, limit: usize, mut check: impl FnMut(&Observed, &Write)) {
    let mut left = limit;
    let fails = |_: &Write| {
        let is_over = left == 0;
        left = left.saturating_sub(1);
        is_over
    };
    carry_out_except(planner, fails, &mut check);
}

/// Performs the plan's writes one by one but for those that fail; `check` gets the maps after each. What failed before is
/// tried again.
fn carry_out_except(
    planner: &mut Planner,
    mut fails: impl FnMut(&Write) -> bool,
    mut check: impl FnMut(&Observed, &Write),
) {
    let failed: Vec<Unit> = planner.failures().map(|(unit, _)| unit.clone()).collect();
    failed.iter().for_each(|unit| planner.retry(unit));
    let mut plan = planner.plan();
    let mut maps = planner.kernel().clone();
    while let Some(write) = plan.pending(1).first().cloned() {
        if fails(&write) {
            plan.failed("the test refuses it");
            continue;
        }
        maps.apply(&write);
        check(&maps, &write);
        plan.done(1);
    }
    planner.commit(plan);
    assert_eq!(&maps, planner.kernel());
}

/// Performs two rounds of garbage collection, then what they made room for.
fn collect(planner: &mut Planner, mut fails: impl FnMut(&Write) -> bool) {
    for _ in 0..2 {
        let mut plan = planner.collect();
        while let Some(write) = plan.pending(1).first().cloned() {
            match fails(&write) {
                true => plan.failed("the test refuses it"),
                false => plan.done(1),
            }
        }
        planner.commit(plan);
    }
    carry_out_except(planner, fails, |_, _| {});
}

/// Everything except numbers that depend on history: set numbers, slots of pods, the generation.
fn content(maps: &Observed) -> (Services, Verdicts, usize, usize) {
    let keys: BTreeSet<ServiceKey> = maps.services.keys().copied().collect();
    let (services, verdicts) = answers(maps, &keys);
    (services, verdicts, maps.routes.len(), maps.cluster.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn each_lookup_is_wholly_old_or_wholly_new(
        rounds in vec((vec(event(), 1..6), 0usize..60, any::<bool>()), 1..10)
    ) {
        let frontends = frontends();
        let mut planner = planner(Observed::default());
        planner.synced();
        for (events, stop, collect) in rounds {
            events.iter().for_each(|event| perform(&mut planner, event));
            let before = planner.kernel().clone();
            let mut states = Vec::new();
            // Some rounds stop in the middle, as if a write failed.
            carry_out(&mut planner, stop, |maps, write| states.push((maps.clone(), write.clone())));
            carry_out(&mut planner, usize::MAX, |maps, write| states.push((maps.clone(), write.clone())));
            if collect {
                for _ in 0..2 {
                    let mut plan = planner.collect();
                    let mut maps = planner.kernel().clone();
                    for write in &plan.writes {
                        maps.apply(write);
                        states.push((maps.clone(), write.clone()));
                    }
                    plan.done(plan.writes.len());
                    planner.commit(plan);
                }
            }
            let (old, new) = (State::new(&before, &frontends), State::new(planner.kernel(), &frontends));
            for (maps, write) in states {
                check_lookups(&State::new(&maps, &frontends), &write, &old, &new)?;
            }
            for got in planner.kernel().verdicts.values() {
                prop_assert!(planner.kernel().verdict_maps.contains_key(got));
            }
            prop_assert!(planner.plan().writes.is_empty());
        }
    }

    #[test]
    fn history_leaves_nothing_that_a_fresh_start_would_not_write(
        rounds in vec((vec(event(), 1..6), 0usize..60), 1..8)
    ) {
        let mut old = planner(Observed::default());
        let mut fresh = planner(Observed::default());
        old.synced();
        for (events, stop) in &rounds {
            events.iter().for_each(|event| perform(&mut old, event));
            carry_out(&mut old, *stop, |_, _| {});
        }
        carry_out(&mut old, usize::MAX, |_, _| {});
        rounds.iter().flat_map(|(events, _)| events).for_each(|event| perform(&mut fresh, event));
        fresh.synced();
        carry_out(&mut fresh, usize::MAX, |_, _| {});
        for planner in [&mut old, &mut fresh] {
            for _ in 0..2 {
                collect(planner, |_| false);
            }
            prop_assert!(!planner.has_garbage());
            let services = planner.kernel().services.values();
            let sets: BTreeSet<(u32, u32)> = services.map(|value| (value.set, value.count)).collect();
            let pages: u32 = sets.iter().map(|(_, count)| count.div_ceil(BACKEND_SLOTS)).sum();
            prop_assert_eq!(pages as usize, planner.kernel().backends.len());
            let used: BTreeSet<u32> = planner.kernel().services.values().map(|value| value.ranges).collect();
            let unused = planner.kernel().ranges.iter().find(|(list, _)| !used.contains(list));
            prop_assert_eq!(unused, None);
            prop_assert_eq!(pages_in_use(planner.kernel()), planner.kernel().maglev.len());
        }
        if old.problems().is_empty() {
            prop_assert_eq!(content(old.kernel()), content(fresh.kernel()));
        }
    }

    #[test]
    fn successor_adopts_the_maps_and_writes_nothing(events in vec(event(), 1..30)) {
        let first = predecessor(&events);
        let mut second = successor(&first, first.kernel().clone(), &events);
        prop_assert!(second.plan().writes.is_empty(), "nothing is planned before synced");
        second.synced();
        let writes = second.plan().writes;
        if first.problems().is_empty() {
            prop_assert_eq!(writes, vec![]);
        }
    }

    /// As after an upgrade to a version that makes its identities otherwise.
    #[test]
    fn successor_replaces_unknown_identities_and_no_lookup_changes(events in vec(event(), 1..30)) {
        let first = predecessor(&events);
        let observed = with_other_identities(first.kernel());
        let frontends = frontends();
        let before = answers(&observed, &frontends);
        let mut second = successor(&first, observed, &events);
        second.synced();
        if first.problems().is_empty() {
            carry_out(&mut second, usize::MAX, |maps, _| assert_eq!(answers(maps, &frontends), before));
            prop_assert!(second.plan().writes.is_empty());
            let services = |maps: &Observed| maps.services.values().map(|value| value.service).collect::<Vec<_>>();
            prop_assert_eq!(services(second.kernel()), services(first.kernel()));
        }
    }
}

/// A planner after the events, all of them carried out one by one.
fn predecessor(events: &[Event]) -> Planner {
    let mut first = planner(Observed::default());
    first.synced();
    for event in events {
        perform(&mut first, event);
        carry_out(&mut first, usize::MAX, |_, _| {});
    }
    // A successor compiles from scratch. So does the first planner, once, to drop classes that only history has.
    for port in [1, 2] {
        perform(&mut first, &last_policy(port));
        carry_out(&mut first, usize::MAX, |_, _| {});
    }
    first
}

fn last_policy(port: u16) -> Event {
    Event::Policy { name: 9, app: Some("none"), from: json!({"podSelector": {}}), port }
}

/// A planner that starts with the maps, the objects and the attachments of the first one; not synced.
fn successor(first: &Planner, observed: Observed, events: &[Event]) -> Planner {
    let mut second = planner(observed);
    for event in events {
        match event {
            Event::Attach(n) | Event::Detach(n) => second.detach(&format!("sandbox-{n}")),
            _ => perform(&mut second, event),
        }
    }
    perform(&mut second, &last_policy(2));
    for n in 0..3 {
        if let Some(pod) = first.kernel().pods.get(&Addr::from(local_addr(n))) {
            attach(&mut second, n, *pod);
        }
    }
    second
}

/// The same maps with other numbers for services, classes and verdict maps.
fn with_other_identities(maps: &Observed) -> Observed {
    let mut maps = maps.clone();
    let other_class = |class: u32| match class {
        CLASS_OTHER | CLASS_ANY => class,
        class => class ^ 0x5a5a_5a5a,
    };
    let other_id = |id: VerdictMapId| VerdictMapId(id.0 ^ 1 << 40);
    maps.services.values_mut().for_each(|value| value.service ^= 0x5a5a_5a5a);
    maps.classes
        .iter_mut()
        .flat_map(|table| table.values_mut())
        .for_each(|class| *class = other_class(*class));
    maps.verdicts.values_mut().for_each(|id| *id = other_id(*id));
    let verdict_maps = maps.verdict_maps.iter().map(|(id, entries)| {
        let entries = entries.iter().map(|(bits, key, verdict)| {
            let class = other_class(u32::from_be_bytes(key.class)).to_be_bytes();
            (*bits, VerdictKey { class, ..*key }, *verdict)
        });
        (other_id(*id), entries.collect())
    });
    maps.verdict_maps = verdict_maps.collect();
    maps
}

/// Maps and the answers of their lookups.
struct State<'m> {
    maps: &'m Observed,
    services: Services,
    verdicts: Verdicts,
}

impl<'m> State<'m> {
    fn new(maps: &'m Observed, frontends: &BTreeSet<ServiceKey>) -> Self {
        let (services, verdicts) = answers(maps, frontends);
        State { maps, services, verdicts }
    }
}

/// After the write, each lookup has the answer of the old or of the new state.
fn check_lookups(
    now: &State<'_>,
    write: &Write,
    old: &State<'_>,
    new: &State<'_>,
) -> Result<(), TestCaseError> {
    for (key, got) in &now.services {
        let (was, will_be) = (&old.services[key], &new.services[key]);
        let is_whole = got == was || got == will_be;
        prop_assert!(is_whole, "after {write:?}: {key:?} is {got:?}, was {was:?}, will be {will_be:?}");
        let has_whole_table = got.as_ref().is_none_or(|got| got.has_whole_table);
        prop_assert!(has_whole_table, "after {write:?}: {key:?} has an incomplete table");
    }
    for (key, got) in &now.verdicts {
        let (was, will_be) = (&old.verdicts[key], &new.verdicts[key]);
        // While an address moves between sandboxes, it may have no pod.
        let slot = |maps: &Observed| maps.pods.get(&key.0).map(|pod| pod.slot);
        let is_vacant = got.is_none() && slot(old.maps) != slot(new.maps);
        let is_whole = is_vacant || got == was || got == will_be;
        prop_assert!(is_whole, "after {write:?}: {key:?} is {got:?}, was {was:?}, will be {will_be:?}");
    }
    Ok(())
}
