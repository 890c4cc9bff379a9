//! For random worlds and packets, compiled entries give the same verdict as the reference evaluation.
//!
//! Entries are looked up as the kernel does it: longest prefix first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use skep_abi::{Addr, Be16, CLASS_ANY, CLASS_OTHER, Direction, Proto, VERDICTS_MAX, VerdictKey};
use skep_policy::evaluate::{LabelMap, Packet, Pod, World, allows};
use skep_policy::{
    Compiled, Endpoint, Labels, Local, NamedPort, Policy, PolicyKey, Prefix, VerdictEntry, compile,
};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
/// Networks, each with what may be excepted from it.
const BLOCKS: [(&str, &[&str]); 8] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "10.0.1.0/24"]),
    ("10.0.0.0/8", &["10.0.0.0/24", "10.0.0.4/30", "10.0.1.3/32"]),
    ("10.0.0.0/24", &["10.0.0.0/29", "10.0.0.2/32"]),
    ("10.0.0.4/30", &["10.0.0.5/32"]),
    ("10.0.1.3/32", &[]),
    ("::/0", &["fd00::/16", "fd00::4/126"]),
    ("fd00::/64", &["fd00::4/126", "fd00::2/128"]),
    ("fd00::2/128", &[]),
];

fn labels() -> impl Strategy<Value = LabelMap> {
    let value = |key: &'static str| select(vec![None, Some("x"), Some("y")]).prop_map(move |v| (key, v));
    (value("app"), value("tier")).prop_map(|(app, tier)| {
        let pairs = [app, tier].into_iter();
        pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let key = || select(vec!["app", "tier"]);
    let value = || select(vec!["x", "y"]);
    prop_oneof![
        2 => Just(json!({})),
        4 => (key(), value()).prop_map(|(k, v)| json!({"matchLabels": {k: v}})),
        1 => (key(), select(vec!["In", "NotIn"]), subsequence(vec!["x", "y"], 1..=2))
            .prop_map(|(k, op, v)| json!({"matchExpressions": [{"key": k, "operator": op, "values": v}]})),
        1 => (key(), select(vec!["Exists", "DoesNotExist"]))
            .prop_map(|(k, op)| json!({"matchExpressions": [{"key": k, "operator": op}]})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let block = select(BLOCKS.to_vec()).prop_flat_map(|(cidr, inner)| {
        subsequence(inner.to_vec(), 0..=inner.len())
            .prop_map(move |except| json!({"ipBlock": {"cidr": cidr, "except": except}}))
    });
    prop_oneof![
        block,
        selector().prop_map(|s| json!({"podSelector": s})),
        selector().prop_map(|s| json!({"namespaceSelector": s})),
        (selector(), selector()).prop_map(|(n, p)| json!({"namespaceSelector": n, "podSelector": p})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let proto = || select(vec!["TCP", "UDP", "SCTP"]);
    prop_oneof![
        1 => proto().prop_map(|p| json!({"protocol": p})),
        1 => Just(json!({"port": 80})),
        2 => (proto(), 75u16..90).prop_map(|(p, n)| json!({"protocol": p, "port": n})),
        2 => (proto(), 70u16..85, 0u16..20).prop_map(|(p, n, m)| json!({"protocol": p, "port": n, "endPort": n + m})),
        2 => (proto(), select(vec!["http", "dns"])).prop_map(|(p, n)| json!({"protocol": p, "port": n})),
    ]
}

fn rule(side: &'static str) -> impl Strategy<Value = Value> {
    let peers = proptest::option::of(proptest::collection::vec(peer(), 0..3));
    let ports = proptest::option::of(proptest::collection::vec(port(), 0..3));
    (peers, ports).prop_map(move |(peers, ports)| {
        let mut rule = json!({});
        if let Some(peers) = peers {
            rule[side] = json!(peers);
        }
        if let Some(ports) = ports {
            rule["ports"] = json!(ports);
        }
        rule
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let types =
        select(vec![None, Some(vec!["Ingress"]), Some(vec!["Egress"]), Some(vec!["Ingress", "Egress"])]);
    let rules = |side| proptest::collection::vec(rule(side), 0..3);
    (select(NAMESPACES.to_vec()), selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods, "ingress": ingress, "egress": egress});
            if let Some(types) = types {
                spec["policyTypes"] = json!(types);
            }
            json!({"metadata": {"namespace": namespace}, "spec": spec})
        },
    )
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let named = (select(vec!["http", "dns"]), select(vec![Proto::TCP, Proto::UDP]), 75u16..90)
        .prop_map(|(name, proto, port)| (name.to_owned(), proto, port));
    let pod = (select(NAMESPACES.to_vec()), labels(), proptest::collection::vec(named, 0..3));
    proptest::collection::vec(pod, 1..8).prop_map(|pods| {
        let pods = pods.into_iter().enumerate();
        pods.map(|(n, (namespace, labels, ports))| {
            let (v4, v6) = (format!("10.0.{}.{}", n % 2, n), format!("fd00::{n}"));
            let addrs = vec![v4.parse().unwrap(), v6.parse().unwrap()];
            Pod { namespace: namespace.to_owned(), labels, ports, addrs }
        })
        .collect()
    })
}

fn world() -> impl Strategy<Value = World> {
    let policies = proptest::collection::vec(policy(), 0..5);
    (policies, proptest::collection::vec(labels(), 3), pods()).prop_map(|(policies, labels, pods)| {
        let namespaces = NAMESPACES.iter().map(|n| (*n).to_owned()).zip(labels).collect();
        let policies: Vec<NetworkPolicy> =
            policies.into_iter().map(|policy| serde_json::from_value(policy).unwrap()).collect();
        World { policies, namespaces, pods }
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let v4 = (0u8..2, 0u8..9).prop_map(|(a, b)| IpAddr::from([10, 0, a, b]));
    let v6 = (0u16..9).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
    let outside = select(vec!["192.0.2.1", "2001:db8::1", "10.9.9.9"]).prop_map(|a| a.parse().unwrap());
    let proto = select(vec![Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP]);
    let direction = select(vec![Direction::INGRESS, Direction::EGRESS]);
    (direction, prop_oneof![v4, v6, outside], proto, 70u16..100).prop_map(|(direction, peer, proto, port)| {
        let port = if proto == Proto::ICMP { 0 } else { port };
        Packet { direction, peer, proto, port }
    })
}

fn endpoints(world: &World) -> Vec<Endpoint> {
    let pods = world.pods.iter();
    pods.map(|pod| Endpoint {
        namespace: pod.namespace.as_str().into(),
        labels: Arc::new(Labels::from(&pod.labels)),
        ports: pod
            .ports
            .iter()
            .map(|(name, proto, port)| NamedPort { name: name.as_str().into(), proto: *proto, port: *port })
            .collect(),
        addrs: pod.addrs.iter().map(|addr| Addr::from(*addr)).collect(),
    })
    .collect()
}

fn namespaces(world: &World) -> BTreeMap<Arc<str>, Arc<Labels>> {
    let namespaces = world.namespaces.iter();
    namespaces.map(|(name, labels)| (name.as_str().into(), Arc::new(Labels::from(labels)))).collect()
}

fn parse(world: &World) -> BTreeMap<PolicyKey, Policy> {
    let policies = world.policies.iter().enumerate();
    policies
        .map(|(n, object)| {
            let namespace = object.metadata.namespace.as_deref().unwrap().into();
            let key = PolicyKey { namespace, name: format!("p{n}").into() };
            let (policy, problems) = Policy::parse(&key, object);
            assert_eq!(problems, vec![]);
            (key, policy)
        })
        .collect()
}

/// The first `local` pods are those of this node.
fn compiled(world: &World, endpoints: &[Endpoint], local: usize) -> Compiled {
    let slots = endpoints.iter().take(local).zip(0..);
    let local: Vec<Local<'_>> = slots.map(|(endpoint, slot)| Local { slot, endpoint }).collect();
    compile(&parse(world), &namespaces(world), &endpoints.iter().collect(), &local).unwrap()
}

/// The answer of an LPM trie.
fn class_of(classes: &BTreeMap<Prefix, u32>, addr: Addr) -> u32 {
    let bits = u128::from_be_bytes(addr.octets());
    (0..=128u32)
        .rev()
        .find_map(|length| {
            let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
            classes.get(&(length, Addr::from_octets((bits & mask).to_be_bytes()))).copied()
        })
        .unwrap_or(CLASS_OTHER)
}

fn bytes(key: &VerdictKey) -> u128 {
    let [a, b, c, d] = key.class;
    let [p, q] = key.port.0.to_ne_bytes();
    let octets = [key.direction.0, 0, 0, 0, a, b, c, d, 0, key.proto.0, p, q, 0, 0, 0, 0];
    u128::from_be_bytes(octets)
}

fn lookup(map: &[VerdictEntry], key: VerdictKey) -> bool {
    let matching = map.iter().filter(|(bits, entry, _)| {
        let mask = u128::MAX << (128 - bits);
        bytes(entry) & mask == bytes(&key) & mask
    });
    matching.max_by_key(|(bits, _, _)| *bits).is_some_and(|(_, _, verdict)| verdict.allow == 1)
}

fn verdict(compiled: &Compiled, slot: u32, packet: Packet) -> bool {
    let Some(map) = compiled.entries.slots.get(&slot) else { return true };
    let class = class_of(&compiled.entries.classes, Addr::from(packet.peer));
    let key = |class| VerdictKey::new(packet.direction, class, packet.proto, Be16::new(packet.port));
    let map = &compiled.entries.maps[map];
    lookup(map, key(class)) || lookup(map, key(CLASS_ANY))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn compiled_entries_agree_with_the_reference(
        world in world(),
        packets in proptest::collection::vec(packet(), 40),
        local in 1usize..8,
    ) {
        let endpoints = endpoints(&world);
        let local = local.min(endpoints.len());
        let compiled = compiled(&world, &endpoints, local);
        for (slot, pod) in world.pods.iter().take(local).enumerate() {
            for packet in &packets {
                let expected = allows(&world, pod, *packet);
                let got = verdict(&compiled, slot as u32, *packet);
                prop_assert_eq!(got, expected, "pod {} {:?}", slot, packet);
            }
        }
    }

    #[test]
    fn late_endpoint_gets_the_class_of_a_full_compile(world in world()) {
        let endpoints = endpoints(&world);
        let Some((late, early)) = endpoints.split_last() else { return Ok(()) };
        if early.is_empty() {
            return Ok(());
        }
        let before = compiled(&world, early, 1);
        let after = compiled(&world, &endpoints, 1);
        for addr in late.addrs.iter() {
            if let Ok(entry) = before.classifier.classify(late, *addr, &namespaces(&world)) {
                // There is no new class, so both compilations use the same ids.
                prop_assert_eq!(after.entries.classes.get(&(128, *addr)).copied(), entry);
                prop_assert_eq!(before.entries.classes.get(&(128, *addr)).copied(), before.classifier.vacant(*addr));
            }
        }
    }

    #[test]
    fn equal_input_gives_equal_entries_in_any_order(world in world()) {
        let endpoints = endpoints(&world);
        let forwards = compiled(&world, &endpoints, 1);
        let local = [Local { slot: 0, endpoint: &endpoints[0] }];
        let backwards =
            compile(&parse(&world), &namespaces(&world), &endpoints.iter().rev().collect(), &local).unwrap();
        prop_assert_eq!(forwards.entries, backwards.entries);
    }

    #[test]
    fn any_text_for_a_policy_is_read_without_panic(text in ".{0,400}") {
        if let Ok(object) = serde_saphyr::from_str::<NetworkPolicy>(&text) {
            read(&object);
        }
    }

    #[test]
    fn odd_fields_are_problems_that_never_panic(
        cidr in "[0-9a-f:./]{0,20}", except in "[0-9a-f:./]{0,20}", port in any::<i32>(), end in any::<i32>(),
        proto in "[A-Z]{0,4}", operator in "(In|NotIn|Exists|Gt|)", kind in "(Ingress|Egress|x)",
    ) {
        let object = json!({"metadata": {"namespace": "a"}, "spec": {
            "podSelector": {"matchExpressions": [{"key": "k", "operator": operator}]},
            "policyTypes": [kind],
            "ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": [except]}}, {}],
                         "ports": [{"port": port, "endPort": end, "protocol": proto}]}],
        }});
        read(&serde_json::from_value(object).unwrap());
    }
}

fn read(object: &NetworkPolicy) {
    let key = PolicyKey { namespace: "a".into(), name: "p".into() };
    let (policy, _) = Policy::parse(&key, object);
    let endpoint = Endpoint {
        namespace: "a".into(),
        labels: Arc::default(),
        ports: Arc::new([]),
        addrs: Arc::new([Addr::from(IpAddr::from([10, 0, 0, 1]))]),
    };
    let local = [Local { slot: 0, endpoint: &endpoint }];
    compile(&BTreeMap::from([(key, policy)]), &BTreeMap::new(), &[&endpoint].into_iter().collect(), &local)
        .unwrap();
}

/// One pod `10.0.0.0` under one policy in namespace `a`.
fn under(spec: Value) -> (Compiled, usize) {
    let object: NetworkPolicy =
        serde_json::from_value(json!({"metadata": {"namespace": "a"}, "spec": spec})).unwrap();
    let key = PolicyKey { namespace: "a".into(), name: "p".into() };
    let (policy, problems) = Policy::parse(&key, &object);
    let endpoint = Endpoint {
        namespace: "a".into(),
        labels: Arc::default(),
        ports: Arc::new([]),
        addrs: Arc::new([Addr::from(IpAddr::from([10, 0, 0, 0]))]),
    };
    let local = [Local { slot: 0, endpoint: &endpoint }];
    let policies = BTreeMap::from([(key, policy)]);
    (
        compile(&policies, &BTreeMap::new(), &[&endpoint].into_iter().collect(), &local).unwrap(),
        problems.len(),
    )
}

fn ingress(compiled: &Compiled, peer: &str, port: u16) -> bool {
    let packet =
        Packet { direction: Direction::INGRESS, peer: peer.parse().unwrap(), proto: Proto::TCP, port };
    verdict(compiled, 0, packet)
}

#[test]
fn block_with_bad_exception_allows_nothing() {
    let (compiled, problems) = under(json!({"podSelector": {}, "ingress": [{"from": [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/24"]}},
        {"ipBlock": {"cidr": "192.0.2.0/24"}},
    ]}]}));
    assert_eq!(problems, 1);
    assert!(!ingress(&compiled, "10.0.0.1", 80));
    assert!(ingress(&compiled, "192.0.2.1", 80));
}

#[test]
fn unreadable_selector_isolates_every_pod_of_the_namespace() {
    let (compiled, problems) = under(json!({
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["x"]}]},
        "ingress": [{}],
    }));
    assert_eq!(problems, 1);
    assert!(!ingress(&compiled, "10.0.0.1", 80));
}

#[test]
fn rule_whose_only_port_is_bad_allows_no_port() {
    let (compiled, problems) =
        under(json!({"podSelector": {}, "ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}));
    assert_eq!(problems, 1);
    assert!(!ingress(&compiled, "10.0.0.1", 80));
    assert!(!ingress(&compiled, "10.0.0.1", 90));
}

#[test]
fn verdict_map_is_shared_by_pods_with_equal_rules() {
    let world = World {
        policies: vec![
            serde_json::from_value(json!({"metadata": {"namespace": "a"}, "spec": {"podSelector": {}}}))
                .unwrap(),
        ],
        namespaces: BTreeMap::from([("a".to_owned(), LabelMap::new())]),
        pods: (1..4u8)
            .map(|n| Pod {
                namespace: "a".into(),
                labels: LabelMap::from([("n".to_owned(), n.to_string())]),
                ports: vec![],
                addrs: vec![IpAddr::from([10, 0, 0, n])],
            })
            .collect(),
    };
    let endpoints = endpoints(&world);
    let compiled = compiled(&world, &endpoints, 3);
    assert_eq!(compiled.entries.slots.len(), 3);
    assert_eq!(compiled.entries.maps.len(), 1);
}

/// One pod for each of these policies, in namespace `a`; pod n is selected by policy n alone.
fn pods_under(specs: &[Value]) -> (BTreeMap<PolicyKey, Policy>, Vec<Endpoint>) {
    let policy = |(n, spec): (usize, &Value)| {
        let mut spec = spec.clone();
        spec["podSelector"] = json!({"matchLabels": {"n": n.to_string()}});
        let object: NetworkPolicy =
            serde_json::from_value(json!({"metadata": {"namespace": "a"}, "spec": spec})).unwrap();
        let key = PolicyKey { namespace: "a".into(), name: format!("p{n}").into() };
        let (policy, problems) = Policy::parse(&key, &object);
        assert_eq!(problems, vec![]);
        (key, policy)
    };
    let endpoint = |n: usize| Endpoint {
        namespace: "a".into(),
        labels: Arc::new(Labels::from(&BTreeMap::from([("n".to_owned(), n.to_string())]))),
        ports: Arc::new([]),
        addrs: Arc::new([Addr::from(IpAddr::from([10, 0, 0, n as u8]))]),
    };
    (specs.iter().enumerate().map(policy).collect(), (0..specs.len()).map(endpoint).collect())
}

fn compile_pods(specs: &[Value]) -> Compiled {
    let (policies, endpoints) = pods_under(specs);
    let local: Vec<Local<'_>> =
        endpoints.iter().zip(0..).map(|(endpoint, slot)| Local { slot, endpoint }).collect();
    compile(&policies, &BTreeMap::new(), &endpoints.iter().collect(), &local).unwrap()
}

#[test]
fn too_many_verdicts_are_an_overflow_of_their_pod_alone() {
    let port = |n: u16| json!({"port": 2 * n + 1});
    let ports: Vec<Value> = (0..30_000).map(port).collect();
    let from = |n: u8| json!({"ipBlock": {"cidr": format!("10.{n}.0.0/16")}});
    let rules = (0..3).map(|n| json!({"from": [from(n)], "ports": ports})).collect::<Vec<_>>();
    let compiled = compile_pods(&[json!({"ingress": rules}), json!({"ingress": [{"from": [from(1)]}]})]);
    let overflow = skep_policy::Overflow::Verdicts { namespace: "a".into(), wanted: 90_002 };
    assert_eq!(compiled.overflows, BTreeMap::from([(0, overflow)]));
    assert_eq!(compiled.entries.slots.keys().collect::<Vec<_>>(), [&1]);
    let packet = |peer: &str| Packet {
        direction: Direction::INGRESS,
        peer: peer.parse().unwrap(),
        proto: Proto::TCP,
        port: 80,
    };
    assert!(verdict(&compiled, 1, packet("10.1.2.3")) && !verdict(&compiled, 1, packet("10.2.2.3")));
}

/// As the address lists of clouds: 8,000 networks, port ranges, two protocols.
#[test]
fn networks_of_one_rule_are_one_class_and_its_ports_stand_once() {
    let cidr = |n: u32| json!({"ipBlock": {"cidr": format!("{}.{}.{}.0/25", 11 + n / 4096, n / 16 % 256, n % 16 * 16)}});
    let peers: Vec<Value> = (0..8_000).map(cidr).collect();
    let ports = json!([
        {"protocol": "TCP", "port": 1024, "endPort": 65535},
        {"protocol": "UDP", "port": 1024, "endPort": 65535},
        {"protocol": "TCP", "port": 443},
    ]);
    let compiled =
        compile_pods(&[json!({"policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]})]);
    assert_eq!(compiled.entries.classes.len(), 8_000);
    let classes: std::collections::BTreeSet<u32> = compiled.entries.classes.values().copied().collect();
    assert_eq!(classes.len(), 1);
    let map = &compiled.entries.maps[&compiled.entries.slots[&0]];
    // A default for each direction, six prefixes of the range for each protocol, one port.
    assert_eq!(map.len(), 2 + 2 * 6 + 1);
}

/// Rules for everybody and many classes: the ports of the first are not repeated for each of the second.
#[test]
fn ports_for_all_peers_are_not_repeated_for_each_class() {
    let rules = |n: usize| {
        let own = json!({"from": [{"ipBlock": {"cidr": format!("10.{}.{}.0/24", n / 200, n % 200)}}]});
        let ports: Vec<Value> = (0..40).map(|n| json!({"port": 1001 + 2 * n})).collect();
        json!({"ingress": [own, {"ports": ports}]})
    };
    let specs: Vec<Value> = (0..200).map(rules).collect();
    let compiled = compile_pods(&specs);
    for map in compiled.entries.maps.values() {
        assert_eq!(map.len(), 2 + 1 + 40, "two defaults, the own class, the ports");
        assert!(map.len() < VERDICTS_MAX as usize);
    }
    assert_eq!(compiled.entries.maps.len(), 200);
}
