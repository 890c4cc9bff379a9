//! Allocation, requests, families, ownership and release of addresses.

use serde_json::{Value, json};

use super::*;

fn context() -> Context<'static> {
    Context { now: Timestamp::UNIX_EPOCH, steady: Timestamp::UNIX_EPOCH, seed: 1, failure: None }
}

fn pool(view: &mut View, name: &str, spec: Value) {
    let pool = json!({"metadata": {"name": name}, "spec": spec});
    view.watched(serde_json::from_value::<LoadBalancerPool>(pool).unwrap().into(), Timestamp::UNIX_EPOCH);
}

fn service(view: &mut View, name: &str, spec: Value) {
    let mut all = json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    put(
        view,
        json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"name": name}}, "spec": all}),
    );
}

fn put(view: &mut View, object: Value) {
    view.watched(serde_json::from_value::<Service>(object).unwrap().into(), Timestamp::UNIX_EPOCH);
}

fn get(view: &View, name: &str) -> Arc<Service> {
    view.services.get(&Key::new("ns", name)).unwrap().clone()
}

/// Performs actions until there are none; returns the events.
fn settle(view: &mut View) -> Vec<&'static str> {
    let mut events = Vec::new();
    for _ in 0..10 {
        let actions = LoadBalancers.reconcile(view, &Key::cluster("all"), context());
        if actions.is_empty() {
            return events;
        }
        for action in actions {
            match action {
                Action::Patch { key, patch, .. } => {
                    let mut object = serde_json::to_value(view.services.get(&key).unwrap().as_ref()).unwrap();
                    merge(&mut object, &patch);
                    let gone = object["metadata"]["deletionTimestamp"].is_string()
                        && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
                    if gone { drop(view.missing(Kind::Service, &key)) } else { put(view, object) }
                }
                Action::Record(record) => events.push(record.reason),
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("it never settles");
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *into = patch.clone() };
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            if !into[name].is_object() {
                into[name] = json!({});
            }
            merge(&mut into[name], value);
        }
    }
}

fn addresses(view: &View, name: &str) -> Vec<String> {
    ingress(&get(view, name)).map(|ip| ip.to_string()).collect()
}

fn reason(view: &View, name: &str) -> String {
    conditions(&get(view, name)).find(|c| c.type_ == CONDITION).map(|c| c.reason.clone()).unwrap_or_default()
}

#[test]
fn each_service_gets_its_own_address_until_the_pool_is_exhausted() {
    let mut view = View::default();
    pool(&mut view, "p", json!({"cidrs": ["192.0.2.0/30"]}));
    ["a", "b", "c"].iter().for_each(|name| service(&mut view, name, json!({})));
    assert_eq!(settle(&mut view), ["PoolExhausted"]);
    assert_eq!(
        (addresses(&view, "a"), addresses(&view, "b")),
        (vec!["192.0.2.1".into()], vec!["192.0.2.2".into()])
    );
    assert!(addresses(&view, "c").is_empty());
    assert_eq!((reason(&view, "a"), reason(&view, "c")), ("Allocated".into(), "PoolExhausted".into()));
    assert_eq!(
        get(&view, "a").status.as_ref().unwrap().load_balancer.as_ref().unwrap().ingress.as_ref().unwrap()[0]
            .ip_mode
            .as_deref(),
        Some("VIP")
    );
    // The deletion of one frees an address; its finalizer stays until then.
    let mut leaving = serde_json::to_value(get(&view, "a").as_ref()).unwrap();
    assert_eq!(leaving["metadata"]["finalizers"], json!([FINALIZER]));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    put(&mut view, leaving);
    assert!(settle(&mut view).is_empty());
    assert!(view.services.get(&Key::new("ns", "a")).is_none());
    assert_eq!(addresses(&view, "c"), ["192.0.2.1"]);
}

#[test]
fn requested_addresses_are_given_or_refused_with_a_reason() {
    let mut view = View::default();
    pool(&mut view, "p", json!({"cidrs": ["192.0.2.0/24"]}));
    service(&mut view, "a", json!({"loadBalancerIP": "192.0.2.9"}));
    service(&mut view, "b", json!({"loadBalancerIP": "192.0.2.9"}));
    service(&mut view, "c", json!({"loadBalancerIP": "198.51.100.1"}));
    service(&mut view, "d", json!({"ipFamilies": ["IPv6"]}));
    let mut events = settle(&mut view);
    events.sort();
    assert_eq!(events, ["AddressInUse", "AddressNotInPool", "NoPool"]);
    assert_eq!(addresses(&view, "a"), ["192.0.2.9"]);
    // A changed request moves the address.
    let mut other = serde_json::to_value(get(&view, "a").as_ref()).unwrap();
    other["spec"]["loadBalancerIP"] = json!("192.0.2.10");
    put(&mut view, other);
    settle(&mut view);
    assert_eq!(
        (addresses(&view, "a"), addresses(&view, "b")),
        (vec!["192.0.2.10".into()], vec!["192.0.2.9".into()])
    );
}

#[test]
fn both_families_come_from_the_pools_that_have_them() {
    let mut view = View::default();
    pool(&mut view, "p4", json!({"cidrs": ["192.0.2.0/24"]}));
    pool(
        &mut view,
        "p6",
        json!({"cidrs": ["2001:db8::/120"], "serviceSelector": {"matchLabels": {"name": "a"}}}),
    );
    service(&mut view, "a", json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}));
    service(&mut view, "b", json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}));
    service(&mut view, "c", json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}));
    settle(&mut view);
    assert_eq!(addresses(&view, "a"), ["2001:db8::1", "192.0.2.1"]);
    assert_eq!((addresses(&view, "b").len(), reason(&view, "b")), (1, "NoPool".into()));
    assert_eq!((addresses(&view, "c").len(), reason(&view, "c")), (0, "NoPool".into()));
}

#[test]
fn services_of_other_controllers_are_not_touched() {
    let mut view = View::default();
    service(&mut view, "nopool", json!({}));
    assert!(settle(&mut view).is_empty() && !has_finalizer(&get(&view, "nopool")));
    pool(
        &mut view,
        "p",
        json!({"cidrs": ["192.0.2.0/31"], "serviceSelector": {"matchLabels": {"name": "a"}}}),
    );
    service(&mut view, "class", json!({"loadBalancerClass": "other.io/lb"}));
    service(&mut view, "a", json!({"loadBalancerClass": CLASS}));
    settle(&mut view);
    assert!(addresses(&view, "class").is_empty() && addresses(&view, "nopool").is_empty());
    assert_eq!(addresses(&view, "a"), ["192.0.2.0"]);
}

#[test]
fn a_deleted_pool_or_a_changed_type_takes_the_address() {
    let mut view = View::default();
    pool(&mut view, "p", json!({"cidrs": ["192.0.2.0/24"]}));
    ["a", "b"].iter().for_each(|name| service(&mut view, name, json!({})));
    settle(&mut view);
    let mut plain = serde_json::to_value(get(&view, "a").as_ref()).unwrap();
    plain["spec"]["type"] = json!("ClusterIP");
    plain["status"]["loadBalancer"] = json!({});
    put(&mut view, plain);
    settle(&mut view);
    assert!(!has_finalizer(&get(&view, "a")) && !is_marked(&get(&view, "a")));
    view.missing(Kind::LoadBalancerPool, &Key::cluster("p"));
    assert_eq!(settle(&mut view), ["NoPool"]);
    assert!(addresses(&view, "b").is_empty());
}

#[test]
fn gaps_are_filled_and_network_and_broadcast_addresses_are_left_out() {
    let used: BTreeSet<IpAddr> = ["192.0.2.1", "192.0.2.2", "192.0.2.4"].map(|ip| ip.parse().unwrap()).into();
    let free = |cidr: &str| lowest_free(&cidr.parse().unwrap(), &used).map(|ip| ip.to_string());
    assert_eq!(free("192.0.2.0/24").as_deref(), Some("192.0.2.3"));
    assert_eq!(free("192.0.2.0/30"), None);
    assert_eq!(free("192.0.2.4/32"), None);
    assert_eq!(free("192.0.2.5/32").as_deref(), Some("192.0.2.5"));
}
