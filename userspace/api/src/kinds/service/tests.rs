use serde_json::{Value, json};

use super::*;
use crate::find;

const V4: &[Family] = &[Family::V4];
const DUAL: &[Family] = &[Family::V4, Family::V6];

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
    let ports = &mut service["spec"]["ports"];
    if ports.is_null() {
        *ports = json!([{"port": 80}]);
    }
    service
}

/// Allocates what a Service wants: the first free of each, in order.
fn allocate(service: &mut Value, wants: &Wants) {
    for want in &wants.addresses {
        let any = if want.family == Family::V4 { "10.0.0.7" } else { "fd00::7" };
        give_address(service, want, want.asked.unwrap_or_else(|| any.parse().unwrap()));
    }
    for want in &wants.ports {
        let taken = Held::of(service).ports;
        let free = (30_000..).find(|number| !taken.contains(number)).unwrap();
        give_port(service, want, want.asked.unwrap_or(free));
    }
}

fn create_in(cluster: &[Family], spec: Value) -> Result<Value, Errors> {
    let kind = find("", "v1", "services").unwrap();
    let mut service = service(spec);
    kind.complete_new(&mut service);
    let wants = plan(&mut service, None, cluster)?;
    allocate(&mut service, &wants);
    let errors = kind.validate_create(&service);
    if errors.is_empty() { Ok(service) } else { Err(errors) }
}

fn update_in(cluster: &[Family], old: &Value, spec: Value) -> Result<(Value, Wants), Errors> {
    let kind = find("", "v1", "services").unwrap();
    let mut service = service(spec);
    kind.default(&mut service);
    kind.prepare_update(&mut service, old, crate::kinds::Part::Main);
    let wants = plan(&mut service, Some(old), cluster)?;
    allocate(&mut service, &wants);
    finish(&mut service, old);
    let errors = kind.validate_update(&service, old, crate::kinds::Part::Main);
    if errors.is_empty() { Ok((service, wants)) } else { Err(errors) }
}

fn error_text(errors: Errors) -> String {
    errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn patched(object: &Value, change: Value) -> Value {
    let mut object = object.clone();
    crate::patch::merge(&mut object, &json!({"spec": change})).unwrap();
    object["spec"].clone()
}

#[test]
fn defaults_are_upstreams() {
    let made =
        create_in(V4, json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 0}]}))
            .unwrap();
    let wanted = json!({
        "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "type": "ClusterIP",
        "internalTrafficPolicy": "Cluster", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
        "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"],
    });
    assert_eq!(made["spec"], wanted);
    let balanced = create_in(V4, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).unwrap();
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(
        (&balanced["spec"]["ports"][0]["nodePort"], &balanced["spec"]["healthCheckNodePort"]),
        (&json!(30000), &json!(30001))
    );
    let external = create_in(V4, json!({"externalIPs": ["192.0.2.1"]})).unwrap();
    assert_eq!(external["spec"]["externalTrafficPolicy"], "Cluster");
    let name =
        create_in(V4, json!({"type": "ExternalName", "externalName": "example.com.", "ports": []})).unwrap();
    assert_eq!((&name["spec"]["clusterIP"], &name["spec"]["ipFamilyPolicy"]), (&Value::Null, &Value::Null));
}

#[test]
fn families_follow_the_policy_and_the_cluster() {
    let of = |cluster, spec| {
        let made = create_in(cluster, spec).map_err(error_text)?;
        let families = made["spec"]["ipFamilies"].as_array().unwrap().len();
        Ok::<_, String>((families, made["spec"]["ipFamilyPolicy"].as_str().unwrap().to_owned()))
    };
    assert_eq!(of(DUAL, json!({})).unwrap(), (1, "SingleStack".into()));
    assert_eq!(
        of(DUAL, json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap(),
        (2, "PreferDualStack".into())
    );
    assert_eq!(of(V4, json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap(), (1, "PreferDualStack".into()));
    assert_eq!(of(DUAL, json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})).unwrap().0, 2);
    let refused = of(V4, json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap_err();
    assert!(refused.ends_with("this cluster is not configured for dual-stack services"), "{refused}");
    let refused = of(V4, json!({"ipFamilies": ["IPv6"]})).unwrap_err();
    assert_eq!(refused, "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster");
    let refused = of(DUAL, json!({"ipFamilies": ["IPv4", "IPv6"]})).unwrap_err();
    assert!(refused.contains("when multiple IP families are specified"), "{refused}");
    // Headless without a selector: the endpoints' families are the user's business.
    assert_eq!(of(V4, json!({"clusterIP": "None"})).unwrap(), (2, "RequireDualStack".into()));
    assert_eq!(
        of(V4, json!({"clusterIP": "None", "selector": {"a": "b"}})).unwrap(),
        (1, "SingleStack".into())
    );
    // The family follows from the address.
    let made = create_in(DUAL, json!({"clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]})).unwrap();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv6"]));
}

#[test]
fn a_second_family_comes_and_goes_and_the_first_stays() {
    let single = create_in(DUAL, json!({})).unwrap();
    let (dual, wants) =
        update_in(DUAL, &single, patched(&single, json!({"ipFamilyPolicy": "RequireDualStack"}))).unwrap();
    assert_eq!((wants.addresses.len(), &dual["spec"]["clusterIPs"]), (1, &json!(["10.0.0.7", "fd00::7"])));
    let (back, _) = update_in(DUAL, &dual, patched(&dual, json!({"ipFamilyPolicy": "SingleStack"}))).unwrap();
    assert_eq!(
        (&back["spec"]["clusterIPs"], &back["spec"]["ipFamilies"]),
        (&json!(["10.0.0.7"]), &json!(["IPv4"]))
    );
    assert_eq!(Held::of(&dual).without(&Held::of(&back)).addresses, ["fd00::7".parse().unwrap()].into());
    let refused =
        error_text(update_in(DUAL, &dual, patched(&dual, json!({"clusterIPs": ["10.0.0.7"]}))).unwrap_err());
    assert!(refused.contains("must be 'SingleStack' to release the secondary cluster IP"), "{refused}");
    let other = json!({"clusterIP": "10.0.0.8", "clusterIPs": ["10.0.0.8"]});
    let refused = error_text(update_in(DUAL, &single, patched(&single, other)).unwrap_err());
    assert!(
        refused.contains("spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"),
        "{refused}"
    );
    // The cluster gained a family: what prefers two does not follow by itself.
    let prefers = create_in(V4, json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
    assert_eq!(update_in(DUAL, &prefers, prefers["spec"].clone()).unwrap().1, Wants::default());
}

#[test]
fn the_same_manifest_again_keeps_what_was_given() {
    let manifest =
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
    let first = create_in(V4, manifest.clone()).unwrap();
    let (again, wants) = update_in(V4, &first, manifest).unwrap();
    assert_eq!((wants, &again["spec"]), (Wants::default(), &first["spec"]));
    // A port that takes another's number leaves that one to get a new one.
    let swapped = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30000}]);
    let (new, wants) = update_in(V4, &first, json!({"type": "NodePort", "ports": swapped})).unwrap();
    assert_eq!(wants.ports, [PortWant { asked: None, places: vec![PortPlace::Port(0)] }]);
    assert_eq!(new["spec"]["ports"][1]["nodePort"], 30000);
}

#[test]
fn a_type_that_changes_gives_back_and_gets() {
    let balanced = create_in(
        V4,
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "x.io/y"}),
    )
    .unwrap();
    let mut with_status = balanced.clone();
    with_status["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    let (plain, wants) =
        update_in(V4, &with_status, patched(&balanced, json!({"type": "ClusterIP"}))).unwrap();
    assert_eq!(wants, Wants::default());
    assert_eq!(plain["status"]["loadBalancer"], json!({}));
    for field in
        ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass", "externalTrafficPolicy"]
    {
        assert!(plain["spec"][field].is_null(), "{field}");
    }
    assert_eq!(Held::of(&balanced).without(&Held::of(&plain)).ports, [30000, 30001].into());
    let named = json!({"type": "ExternalName", "externalName": "example.com"});
    let (named, _) = update_in(V4, &plain, patched(&plain, named)).unwrap();
    assert_eq!(Held::of(&named), Held::default());
    assert!(named["spec"]["ipFamilyPolicy"].is_null() && named["spec"]["ipFamilies"].is_null());
    let (again, wants) =
        update_in(V4, &named, patched(&named, json!({"type": "ClusterIP", "externalName": null}))).unwrap();
    assert_eq!((wants.addresses.len(), &again["spec"]["clusterIP"]), (1, &json!("10.0.0.7")));
    let refused = error_text(
        update_in(V4, &plain, patched(&plain, json!({"loadBalancerClass": "x.io/y"}))).unwrap_err(),
    );
    assert!(refused.contains("may only be used when `type` is 'LoadBalancer'"), "{refused}");
    let other = patched(&balanced, json!({"loadBalancerClass": "x.io/z"}));
    let refused = error_text(update_in(V4, &balanced, other).unwrap_err());
    assert!(
        refused.contains("spec.loadBalancerClass: Invalid value: \"x.io/z\": may not change once set"),
        "{refused}"
    );
}

#[test]
fn ports_of_one_number_share_a_node_port_by_protocol() {
    let dns =
        json!([{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "nodePort": 30053}]);
    let made = create_in(V4, json!({"type": "NodePort", "ports": dns})).unwrap();
    assert_eq!(
        (&made["spec"]["ports"][0]["nodePort"], &made["spec"]["ports"][1]["nodePort"]),
        (&json!(30053), &json!(30053))
    );
    let twice =
        json!([{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2, "nodePort": 30001}]);
    let refused = error_text(create_in(V4, json!({"type": "NodePort", "ports": twice})).unwrap_err());
    assert!(refused.contains("spec.ports[1].nodePort: Duplicate value: 30001"), "{refused}");
    // Without allocation only requested ports are taken.
    let some = json!([{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2}]);
    let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": some});
    let made = create_in(V4, spec).unwrap();
    assert!(made["spec"]["ports"][1]["nodePort"].is_null());
}

#[test]
fn invalid_services_are_refused_in_upstreams_words() {
    let refused = |spec| error_text(create_in(V4, spec).unwrap_err());
    let cases = [
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (json!({"externalIPs": ["127.0.0.1"]}), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (json!({"externalIPs": ["010.0.0.1"]}), "must not have leading 0s"),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"]}),
            "must not have bits set beyond the prefix length",
        ),
        (json!({"externalTrafficPolicy": "Local"}), "may only be set for externally-accessible services"),
        (
            json!({"healthCheckNodePort": 30000}),
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (
            json!({"trafficDistribution": "Near"}),
            "supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "must be greater than 0 and less than 86400",
        ),
        (json!({"type": "ExternalName", "externalName": ""}), "spec.externalName: Required value"),
        (
            json!({"type": "ExternalName", "externalName": "a", "clusterIP": "None"}),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
        (json!({"ports": [{"port": 80, "appProtocol": "a b"}]}), "spec.ports[0].appProtocol: Invalid value"),
        (json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.8"]}), "first value must match `clusterIP`"),
        (json!({"clusterIPs": ["10.0.0.8"]}), "must be empty when `clusterIP` is not specified"),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.8"]}),
            "'None' must be the first and only value",
        ),
    ];
    let mut failed = Vec::new();
    for (spec, wanted) in cases {
        let found = refused(spec.clone());
        if !found.contains(wanted) {
            failed.push(format!("{spec}: wanted {wanted:?}, found {found}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_status_names_addresses_of_load_balancers_only() {
    let kind = find("", "v1", "services").unwrap();
    let status = |kind_of: &str, ingress: Value| {
        let old = create_in(V4, json!({"type": kind_of})).unwrap();
        let mut new = old.clone();
        new["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        kind.default(&mut new);
        kind.prepare_update(&mut new, &old, crate::kinds::Part::Status);
        error_text(kind.validate_update(&new, &old, crate::kinds::Part::Status))
    };
    assert_eq!(status("LoadBalancer", json!({"ip": "192.0.2.1"})), "");
    assert!(
        status("ClusterIP", json!({"ip": "192.0.2.1"}))
            .contains("may only be used when `spec.type` is 'LoadBalancer'")
    );
    assert!(
        status("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "x"}))
            .contains("supported values: \"Proxy\", \"VIP\"")
    );
    assert!(
        status("LoadBalancer", json!({"hostname": "192.0.2.1"}))
            .contains("must be a DNS name, not an IP address")
    );
}

#[test]
fn ignored_and_deprecated_fields_are_warned_of() {
    let kind = find("", "v1", "services").unwrap();
    let warnings_of = |cluster, spec| kind.warnings(&create_in(cluster, spec).unwrap(), None);
    assert!(warnings_of(V4, json!({})).is_empty());
    let headless = json!({"clusterIP": "None", "sessionAffinity": "ClientIP", "loadBalancerIP": "192.0.2.1"});
    let ignored = [
        "spec.loadBalancerIP is ignored for headless services",
        "spec.SessionAffinity is ignored for headless services",
    ];
    assert_eq!(warnings_of(V4, headless), ignored);
    let old =
        json!({"trafficDistribution": "PreferClose", "externalIPs": ["192.0.2.1"], "externalName": "a"});
    let old = warnings_of(V4, old);
    assert_eq!(old.len(), 3, "{old:?}");
    let v6 = warnings_of(DUAL, json!({"clusterIP": "FD00::9"}));
    assert_eq!(
        v6,
        ["spec.clusterIPs[0]: IPv6 address \"FD00::9\" should be in RFC 5952 canonical format (\"fd00::9\")"]
    );
}

#[test]
fn an_annotation_for_ports_is_checked_and_named() {
    let kind = find("", "v1", "services").unwrap();
    let errors = |ports: &str| {
        let mut object = create_in(V4, json!({})).unwrap();
        object["metadata"]["annotations"] = json!({"skep.io/ports": ports});
        error_text(kind.validate_create(&object))
    };
    assert_eq!(errors("all"), "");
    assert_eq!(errors("30000-30100, 80"), "");
    let wanted = "metadata.annotations[skep.io/ports]: Invalid value: \"9-1\": \"9-1\": the first port must not be greater than the last";
    assert_eq!(errors("9-1"), wanted);
}
