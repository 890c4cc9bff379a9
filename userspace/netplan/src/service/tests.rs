//! The frontends of a Service and the backends of each, from API objects.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;

const NODE: &str = "node-a";

fn key(addr: IpAddr, port: u16, proto: Proto, scope: Scope) -> ServiceKey {
    Block::of_port(port).key(addr, proto, scope)
}

fn facts(spec: Value, status: Value) -> Option<ServiceFacts> {
    let object = json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec, "status": status});
    let service: Service = serde_json::from_value(object).unwrap();
    ServiceFacts::extract(&service)
}

/// Each endpoint: address, node, ready, serving, terminating.
fn slice(endpoints: &[(&str, &str, bool, bool, bool)]) -> SliceFacts {
    let v4 = endpoints.iter().all(|(addr, ..)| !addr.contains(':'));
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(addr, node, ready, serving, terminating)| {
            json!({"addresses": [addr], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    raw_slice(if v4 { "IPv4" } else { "IPv6" }, json!(endpoints))
}

fn raw_slice(family: &str, endpoints: Value) -> SliceFacts {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    }))
    .unwrap();
    SliceFacts::extract(&slice, NODE).unwrap()
}

fn node() -> NodeContext {
    let addrs = ["192.0.2.11", "2001:db8::11"].map(|addr| addr.parse().unwrap()).to_vec();
    NodeContext {
        zone: "z1".into(),
        node_port_addrs: addrs.clone(),
        addrs,
        other_nodes: vec!["192.0.2.12".parse().unwrap()],
    }
}

struct Planned(ServicePlan);

impl Planned {
    fn new(spec: Value, slices: &[SliceFacts]) -> Self {
        Planned(compile(&facts(spec, json!({})).unwrap(), slices.iter(), &node()))
    }

    /// Addresses of the backends, or the flag of a frontend without any; `absent` if there is no such frontend.
    fn at(&self, addr: &str, port: u16, scope: Scope) -> String {
        self.at_proto(addr, port, Proto::TCP, scope)
    }

    fn at_proto(&self, addr: &str, port: u16, proto: Proto, scope: Scope) -> String {
        let Some(frontend) = self.0.frontends.get(&key(addr.parse().unwrap(), port, proto, scope)) else {
            return "absent".into();
        };
        match frontend.set {
            None if frontend.flags & ServiceValue::REJECT != 0 => "reject".into(),
            None if frontend.flags & ServiceValue::DROP != 0 => "drop".into(),
            None => "nothing".into(),
            Some(set) => {
                let backends = self.0.sets[set].iter();
                let texts = backends.map(|b| format!("{}:{}", IpAddr::from(b.addr), b.port.get()));
                texts.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

fn spec(more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn node_port(more: Value) -> Value {
    let ports = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let mut ports = spec(ports);
    ports.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ports
}

const HERE: (&str, &str, bool, bool, bool) = ("10.0.0.1", NODE, true, true, false);
const THERE: (&str, &str, bool, bool, bool) = ("10.0.1.1", "node-b", true, true, false);
const HERE_LEAVING: (&str, &str, bool, bool, bool) = ("10.0.0.2", NODE, false, true, true);
const THERE_LEAVING: (&str, &str, bool, bool, bool) = ("10.0.1.2", "node-b", false, true, true);
const DEAD: (&str, &str, bool, bool, bool) = ("10.0.0.3", NODE, false, false, true);
const NOT_READY: (&str, &str, bool, bool, bool) = ("10.0.0.4", NODE, false, true, false);

#[test]
fn cluster_ip_reaches_all_ready_endpoints() {
    let plan = Planned::new(spec(json!({})), &[slice(&[HERE, THERE, HERE_LEAVING, DEAD, NOT_READY])]);
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "10.0.0.1:8080 10.0.1.1:8080");
    assert_eq!(plan.at("10.96.0.1", 80, Scope::EXTERNAL), "absent");
}

#[test]
fn an_endpoint_counts_as_often_as_its_slice_weighs() {
    let weighed = |weight: u8| SliceFacts { weight, ..slice(&[HERE]) };
    let plan = Planned::new(spec(json!({})), &[weighed(3), slice(&[THERE])]);
    let here = "10.0.0.1:8080 10.0.0.1:8080 10.0.0.1:8080";
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), format!("{here} 10.0.1.1:8080"));
}

#[test]
fn a_weight_out_of_bounds_is_one() {
    for (text, weight) in [("3", 3), ("32", 32), ("33", 1), ("0", 1), ("-1", 1), ("many", 1)] {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"},
                         "annotations": {"skep.io/endpoint-weight": text}},
            "addressType": "IPv4", "endpoints": [],
        }))
        .unwrap();
        assert_eq!(SliceFacts::extract(&slice, NODE).unwrap().weight, weight, "{text}");
    }
}

#[test]
fn cluster_ip_refuses_on_its_other_ports() {
    let other_ports = |ip: &str| other_ports_key(ip.parse::<IpAddr>().unwrap().into());
    let plan = Planned::new(node_port(json!({"externalIPs": ["198.51.100.7"]})), &[slice(&[HERE])]);
    let refused = plan.0.frontends[&other_ports("10.96.0.1")];
    assert_eq!((refused.set, refused.flags, refused.affinity), (None, OtherPorts::REFUSED, 0));
    for other in ["198.51.100.7", "192.0.2.11"] {
        assert!(
            !plan.0.frontends.contains_key(&other_ports(other)),
            "{other} also has ports of other services"
        );
    }
}

#[test]
fn without_ready_endpoints_those_that_serve_while_they_terminate_take_over() {
    let plan = Planned::new(spec(json!({})), &[slice(&[HERE_LEAVING, THERE_LEAVING, DEAD, NOT_READY])]);
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "10.0.0.2:8080 10.0.1.2:8080");
}

#[test]
fn service_without_any_endpoint_rejects() {
    for slices in [vec![], vec![slice(&[DEAD, NOT_READY])]] {
        let plan = Planned::new(node_port(json!({"externalTrafficPolicy": "Local"})), &slices);
        assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "reject");
        assert_eq!(plan.at("192.0.2.11", 30080, Scope::EXTERNAL), "reject");
    }
}

#[test]
fn internal_local_keeps_to_this_node_and_drops_elsewhere() {
    let policy = || spec(json!({"internalTrafficPolicy": "Local"}));
    let at = |slices: &[SliceFacts]| Planned::new(policy(), slices).at("10.96.0.1", 80, Scope::INTERNAL);
    assert_eq!(at(&[slice(&[HERE, THERE])]), "10.0.0.1:8080");
    assert_eq!(at(&[slice(&[THERE])]), "drop");
    assert_eq!(at(&[slice(&[HERE_LEAVING, THERE])]), "10.0.0.2:8080");
}

#[test]
fn external_local_keeps_to_this_node_for_external_clients_only() {
    let plan = Planned::new(node_port(json!({"externalTrafficPolicy": "Local"})), &[slice(&[HERE, THERE])]);
    assert_eq!(plan.at("192.0.2.11", 30080, Scope::EXTERNAL), "10.0.0.1:8080");
    assert_eq!(plan.at("192.0.2.11", 30080, Scope::INTERNAL), "10.0.0.1:8080 10.0.1.1:8080");
    let external = plan.0.frontends[&key(node().addrs[0], 30080, Proto::TCP, Scope::EXTERNAL)];
    assert_eq!(external.flags, ServiceValue::KEEP_SOURCE);
    let plan = Planned::new(node_port(json!({"externalTrafficPolicy": "Local"})), &[slice(&[THERE])]);
    assert_eq!(plan.at("192.0.2.11", 30080, Scope::EXTERNAL), "drop");
}

/// The flags of the external frontends at this node's and at another node's address.
fn direct(annotation: &str, more: Value) -> [Option<u32>; 2] {
    let mut service = facts(node_port(more), json!({})).unwrap();
    let annotated: Service = serde_json::from_value(json!({
        "metadata": {"annotations": {"skep.io/forwarding": annotation}}, "spec": node_port(json!({})),
    }))
    .unwrap();
    service.forwarding = ServiceFacts::extract(&annotated).unwrap().forwarding;
    let plan = compile(&service, [slice(&[HERE, THERE])].iter(), &node());
    let flags = |addr: &str| {
        let at = |scope| plan.frontends.get(&key(addr.parse().unwrap(), 30080, Proto::TCP, scope));
        assert!(at(Scope::INTERNAL).is_none_or(|frontend| frontend.flags == 0));
        at(Scope::EXTERNAL).map(|frontend| frontend.flags)
    };
    ["192.0.2.11", "192.0.2.12"].map(flags)
}

#[test]
fn direct_return_has_external_node_ports_at_all_nodes() {
    let plain = json!({});
    assert_eq!(direct("dsr", plain.clone()), [Some(ServiceValue::DSR); 2]);
    assert_eq!(direct("snat", plain.clone()), [Some(0), None]);
    assert_eq!(direct("direct", plain), [Some(0), None]);
    let local = json!({"externalTrafficPolicy": "Local"});
    assert_eq!(direct("dsr", local), [Some(ServiceValue::KEEP_SOURCE), None]);
    assert_eq!(direct("dsr", json!({"sessionAffinity": "ClientIP"})), [Some(0), None]);
}

#[test]
fn external_and_balancer_addresses_are_frontends_of_the_service_port() {
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}]}});
    let spec = spec(json!({"type": "LoadBalancer", "externalIPs": ["203.0.113.9"]}));
    let service = facts(spec, status).unwrap();
    let plan = Planned(compile(&service, [slice(&[HERE])].iter(), &node()));
    for addr in ["198.51.100.1", "203.0.113.9"] {
        assert_eq!(plan.at(addr, 80, Scope::EXTERNAL), "10.0.0.1:8080");
        assert_eq!(plan.at(addr, 80, Scope::INTERNAL), "10.0.0.1:8080");
    }
    assert_eq!(plan.at("198.51.100.2", 80, Scope::EXTERNAL), "absent");
}

/// The source ranges of the balancer's addresses, by family; `all` if there are none.
fn ranges_of(ranges: &[&str]) -> [String; 2] {
    let addrs = ["198.51.100.1", "2001:db8:1::1"];
    let status = json!({"loadBalancer": {"ingress": addrs.map(|ip| json!({"ip": ip}))}});
    let spec = spec(json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
        "externalIPs": ["203.0.113.9"], "loadBalancerSourceRanges": ranges,
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let plan = compile(&facts(spec, status).unwrap(), [slice(&[HERE])].iter(), &node());
    let open = ["10.96.0.1", "203.0.113.9"].map(|ip| (ip, 80)).into_iter().chain([("192.0.2.11", 30080)]);
    for (ip, port) in open {
        assert_eq!(plan.frontends[&key(ip.parse().unwrap(), port, Proto::TCP, Scope::INTERNAL)].ranges, None);
    }
    addrs.map(|ip| {
        let [internal, external] = [Scope::INTERNAL, Scope::EXTERNAL].map(|scope| {
            let frontend = plan.frontends[&key(ip.parse().unwrap(), 80, Proto::TCP, scope)];
            let Some(list) = frontend.ranges else { return "all".to_owned() };
            let texts =
                plan.ranges[list].iter().map(|(bits, addr)| format!("{}/{bits}", IpAddr::from(*addr)));
            texts.collect::<Vec<_>>().join(" ")
        });
        assert_eq!(internal, external);
        internal
    })
}

#[test]
fn source_ranges_restrict_the_balancers_addresses_by_family() {
    assert_eq!(ranges_of(&[]), ["all", "all"]);
    assert_eq!(ranges_of(&["192.0.2.7/24", " 10.0.0.0/8 "]), ["10.0.0.0/104 192.0.2.0/120", "all"]);
    assert_eq!(ranges_of(&["192.0.2.0/24", "192.0.2.9/24", "fd00::/8"]), ["192.0.2.0/120", "fd00::/8"]);
    assert_eq!(ranges_of(&["192.0.2.0/24", "0.0.0.0/0", "::/0"]), ["all", "all"]);
}

#[test]
fn each_family_has_its_own_endpoints() {
    let spec = node_port(json!({"clusterIPs": ["10.96.0.1", "fd00:96::1"]}));
    let six = slice(&[("fd00::1", NODE, true, true, false)]);
    let plan = Planned::new(spec, &[slice(&[HERE]), six]);
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "10.0.0.1:8080");
    assert_eq!(plan.at("fd00:96::1", 80, Scope::INTERNAL), "fd00::1:8080");
    assert_eq!(plan.at("2001:db8::11", 30080, Scope::EXTERNAL), "fd00::1:8080");
}

#[test]
fn ports_match_by_name_and_protocol() {
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
    let plan = Planned::new(spec(json!({"ports": ports})), &[slice(&[HERE])]);
    assert_eq!(plan.at_proto("10.96.0.1", 53, Proto::UDP, Scope::INTERNAL), "10.0.0.1:5353");
    assert_eq!(plan.at("10.96.0.1", 53, Scope::INTERNAL), "reject");
}

#[test]
fn frontends_with_equal_backends_share_a_set() {
    let plan = Planned::new(node_port(json!({"externalIPs": ["203.0.113.9"]})), &[slice(&[HERE, THERE])]);
    assert_eq!(plan.0.frontends.values().filter(|frontend| frontend.set == Some(0)).count(), 5);
    assert_eq!(plan.0.sets.len(), 1);
}

#[test]
fn endpoint_in_two_slices_is_one_backend() {
    let moved = ("10.0.0.1", NODE, false, true, true);
    let plan = Planned::new(spec(json!({})), &[slice(&[moved]), slice(&[HERE])]);
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "10.0.0.1:8080");
}

#[test]
fn hints_count_only_if_all_ready_endpoints_have_them_and_one_names_this_node_or_zone() {
    let endpoint = |addr: &str, zone: Option<&str>, node: Option<&str>| {
        let mut hints = json!({});
        if let Some(zone) = zone {
            hints["forZones"] = json!([{"name": zone}]);
        }
        if let Some(node) = node {
            hints["forNodes"] = json!([{"name": node}]);
        }
        json!({"addresses": [addr], "nodeName": "node-b", "hints": hints})
    };
    let at = |endpoints: Value| {
        Planned::new(spec(json!({})), &[raw_slice("IPv4", endpoints)]).at("10.96.0.1", 80, Scope::INTERNAL)
    };
    let zones = json!([endpoint("10.0.0.1", Some("z1"), None), endpoint("10.0.0.2", Some("z2"), None)]);
    assert_eq!(at(zones), "10.0.0.1:8080");
    let one_without = json!([endpoint("10.0.0.1", Some("z1"), None), endpoint("10.0.0.2", None, None)]);
    assert_eq!(at(one_without), "10.0.0.1:8080 10.0.0.2:8080");
    let elsewhere = json!([endpoint("10.0.0.1", Some("z2"), None), endpoint("10.0.0.2", Some("z3"), None)]);
    assert_eq!(at(elsewhere), "10.0.0.1:8080 10.0.0.2:8080");
    let nodes = json!([
        endpoint("10.0.0.1", Some("z1"), Some("node-b")),
        endpoint("10.0.0.2", Some("z1"), Some(NODE))
    ]);
    assert_eq!(at(nodes), "10.0.0.2:8080");
}

#[test]
fn affinity_has_its_timeout_and_the_apis_default() {
    let affinity = |more: Value| facts(spec(more), json!({})).unwrap().affinity;
    assert_eq!(affinity(json!({})), 0);
    assert_eq!(affinity(json!({"sessionAffinity": "ClientIP"})), 10_800);
    let config = json!({"clientIP": {"timeoutSeconds": 5}});
    assert_eq!(affinity(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), 5);
}

#[test]
fn headless_and_external_name_have_no_frontend() {
    assert_eq!(facts(spec(json!({"clusterIP": "None"})), json!({})), None);
    assert_eq!(facts(spec(json!({"clusterIP": ""})), json!({})), None);
    assert_eq!(facts(spec(json!({"type": "ExternalName", "externalName": "a.example"})), json!({})), None);
}

#[test]
fn node_ports_on_loopback_reach_all_endpoints_whatever_the_policies() {
    let mut node = node();
    node.node_port_addrs.extend(["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let policies = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080},
                  {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"},
                  {"name": "assoc", "port": 54, "nodePort": 30054, "protocol": "SCTP"}]});
    let facts = facts(node_port(policies), json!({})).unwrap();
    let plan = Planned(compile(&facts, [slice(&[HERE, THERE])].iter(), &node));
    assert_eq!(plan.at("127.0.0.1", 30080, Scope::LOOPBACK), "10.0.0.1:8080 10.0.1.1:8080");
    assert_eq!(plan.at_proto("127.0.0.1", 30053, Proto::UDP, Scope::LOOPBACK), "10.0.0.1:5353 10.0.1.1:5353");
    assert_eq!(plan.at_proto("127.0.0.1", 30054, Proto::SCTP, Scope::LOOPBACK), "absent", "no hook");
    assert_eq!(plan.at("::1", 30080, Scope::LOOPBACK), "absent", "the service has one family");
    for scope in [Scope::INTERNAL, Scope::EXTERNAL] {
        assert_eq!(plan.at("127.0.0.1", 30080, scope), "absent", "pods and the network have none there");
    }
}

/// What the frontends of a Service with the annotation do at some ports; the programs' look-up is in the tests of transitions.
#[test]
fn ranges_of_ports_are_blocks_that_reach_the_same_port_of_every_endpoint() {
    let compiled = |ports: &str, more: Value| {
        let mut object = json!({"metadata": {"namespace": "ns", "name": "s", "annotations": {"skep.io/ports": ports}},
            "spec": spec(more)});
        object["spec"]["externalIPs"] = json!(["198.51.100.7"]);
        let facts = ServiceFacts::extract(&serde_json::from_value(object).unwrap()).unwrap();
        Planned(compile(&facts, [slice(&[HERE, THERE])].iter(), &node()))
    };
    let plan = compiled("80-95,256-511", json!({}));
    let block = |plan: &Planned, ip: &str, port, level, proto, scope| {
        let key =
            ServiceKey::block(ip.parse::<IpAddr>().unwrap().into(), Be16::new(port), proto, scope, level);
        plan.0
            .frontends
            .get(&key)
            .map(|frontend| (frontend.set.map(|set| plan.0.sets[set].clone()), frontend.flags))
    };
    let same = ["10.0.0.1", "10.0.1.1"]
        .map(|ip| Backend { addr: ip.parse::<IpAddr>().unwrap().into(), ..Backend::default() });
    let wanted = Some((Some(same.to_vec()), ServiceValue::SAME_PORT));
    for (ip, scope) in
        [("10.96.0.1", Scope::INTERNAL), ("198.51.100.7", Scope::INTERNAL), ("198.51.100.7", Scope::EXTERNAL)]
    {
        assert_eq!(block(&plan, ip, 85, 1, Proto::TCP, scope), wanted, "{ip}");
        assert_eq!(block(&plan, ip, 300, 2, Proto::TCP, scope), wanted, "{ip}");
        assert_eq!(block(&plan, ip, 300, 2, Proto::UDP, scope), None, "the Service has no UDP port");
    }
    assert_eq!(plan.at("10.96.0.1", 80, Scope::INTERNAL), "10.0.0.1:8080 10.0.1.1:8080", "its own target");
    let others =
        |plan: &Planned, ip: &str| block(plan, ip, 0, 0, Proto(0), Scope::INTERNAL).map(|(_, flags)| flags);
    assert_eq!(others(&plan, "10.96.0.1"), Some(OtherPorts::REFUSED | OtherPorts::BLOCKS));
    assert_eq!(others(&plan, "198.51.100.7"), Some(OtherPorts::BLOCKS));
    let local = compiled("all", json!({"externalTrafficPolicy": "Local"}));
    let here = Some((Some(same[..1].to_vec()), ServiceValue::SAME_PORT | ServiceValue::KEEP_SOURCE));
    assert_eq!(block(&local, "198.51.100.7", 9, 4, Proto::TCP, Scope::EXTERNAL), here);
    let bad = compiled("all of them", json!({}));
    assert_eq!((others(&bad, "198.51.100.7"), others(&bad, "10.96.0.1")), (None, Some(OtherPorts::REFUSED)));
}
