//! Any changes, one after the other, make the same configuration as an index that begins with the last state.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HOSTS: [&str; 6] = ["", "a.com", "www.a.com", "b.com", "c.com", "*.com"];
const PATHS: [&str; 3] = ["/", "/x", "/x/y"];
const SERVICES: [&str; 3] = ["one", "two", "none"];

#[derive(Clone, Debug)]
enum Change {
    Ingress(Box<Ingress>),
    Delete(String),
    /// With so many endpoints; `None`: it goes.
    Service(&'static str, Option<u8>),
    Class(&'static str),
    /// Whether a Secret of users exists.
    Users(bool),
}

fn annotations() -> impl Strategy<Value = Value> {
    let one = prop::sample::select(vec![
        ("canary", "true"),
        ("canary-weight", "50"),
        ("server-alias", "c.com"),
        ("server-alias", "b.com"),
        ("from-to-www-redirect", "true"),
        ("app-root", "/x"),
        ("auth-type", "basic"),
        ("auth-secret", "users"),
        ("default-backend", "two"),
        ("service-upstream", "true"),
    ]);
    prop::collection::vec(one, 0..3).prop_map(|all| {
        let pairs = all
            .into_iter()
            .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), Value::from(value)));
        Value::Object(pairs.collect())
    })
}

fn an_ingress() -> impl Strategy<Value = Ingress> {
    let select = |all: &'static [&'static str]| prop::sample::select(all);
    let rule = (select(&HOSTS), select(&PATHS), select(&SERVICES));
    let default = prop::option::weighted(0.2, select(&SERVICES));
    let class = prop::sample::select(vec!["skep", "skep", "skep", "other"]);
    (0..6u8, 0..3u8, prop::collection::vec(rule, 0..3), default, class, any::<bool>(), annotations()).prop_map(
        |(name, age, rules, default, class, tls, annotations)| {
            let rule = |(host, at, service): &(&str, &str, &str)| {
                json!({"host": host, "http": {"paths": [path("Prefix", at, service)]}})
            };
            let mut spec = json!({"ingressClassName": class, "rules": rules.iter().map(rule).collect::<Vec<_>>()});
            if let Some(service) = default {
                spec["defaultBackend"] = backend(service);
            }
            if tls {
                spec["tls"] = json!([{"hosts": ["a.com"], "secretName": "cert"}]);
            }
            let mut object =
                ingress(&format!("i{name}"), &format!("2026-01-0{}T00:00:00Z", age + 1), spec);
            object.metadata.annotations = serde_json::from_value(annotations).unwrap();
            object
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let service = prop::sample::select(&SERVICES[..2]);
    prop_oneof![
        6 => an_ingress().prop_map(Box::new).prop_map(Change::Ingress),
        2 => (0..6u8).prop_map(|name| Change::Delete(format!("ns/i{name}"))),
        1 => (service, prop::option::of(0..3u8)).prop_map(|(name, endpoints)| Change::Service(name, endpoints)),
        1 => prop::sample::select(vec![CONTROLLER, "example.com/other"]).prop_map(Change::Class),
        1 => any::<bool>().prop_map(Change::Users),
    ]
}

fn apply(index: &mut Index, change: &Change) {
    match change {
        Change::Ingress(ingress) => index.apply_ingress(ingress),
        Change::Delete(key) => index.delete_ingress(key),
        Change::Service(name, Some(endpoints)) => {
            let ips: Vec<String> = (0..*endpoints).map(|at| format!("10.0.0.{at}")).collect();
            service(index, name, &ips.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Change::Service(name, None) => index.delete_service(&format!("ns/{name}")),
        Change::Class(controller) => {
            let class = json!({"metadata": {"name": "other"}, "spec": {"controller": controller}});
            index.apply_class(&serde_json::from_value(class).unwrap());
        }
        Change::Users(exist) => {
            let data = BTreeMap::from([("auth".to_owned(), ByteString(b"u:$apr1$a$b".to_vec()))]);
            let secret = Secret { data: Some(data), ..Secret::default() };
            index.apply_secret(&"ns/users".into(), Some(&secret).filter(|_| *exist), NOW);
        }
    }
}

/// What a configuration does, without indexes.
fn described(compiled: &Compiled) -> (Vec<String>, Vec<Problem>) {
    let Compiled { config, problems, .. } = compiled;
    let mut out: Vec<String> = config.counters.iter().map(|counters| counters.name.to_string()).collect();
    out.sort();
    out.push(format!("{:?}", config.listeners.keys().collect::<Vec<_>>()));
    let backend = |at: usize| {
        let Backend { name, protocol, endpoints, .. } = &*config.backends[at];
        format!("{name} {protocol:?} {endpoints:?}")
    };
    for host in HOSTS.iter().map(|host| host.trim_start_matches("*.")).chain(["d.com", "d"]) {
        for path in PATHS {
            let head =
                RequestHead { method: &Method::GET, host, path, query: None, headers: &HeaderMap::new() };
            let listener = config.listeners.get(&80);
            let route = listener.and_then(|listener| listener.hosts.find(host).next()?.find(&head).ok());
            let text = route.map(|route| {
                let policy = route.policy.as_deref();
                let canary =
                    policy.and_then(|policy| policy.canary.as_ref()).map(|canary| backend(canary.backend));
                let fallback = policy.and_then(|policy| policy.fallback).map(backend);
                let redirect = policy.map(|policy| format!("{:?}", policy.redirect));
                let backends: Vec<_> =
                    route.backends.iter().map(|found| found.backend.map(backend)).collect();
                let is_basic = policy.is_some_and(|policy| policy.basic.is_some());
                format!(
                    "{} {backends:?} {canary:?} {fallback:?} {redirect:?} {:?} {is_basic}",
                    route.counters.name, route.redirect
                )
            });
            out.push(format!("{host}{path}: {text:?}"));
        }
    }
    (out, problems.clone())
}

/// An index that is given each object once, as it is now.
fn of_now(changes: &[Change]) -> Index {
    let mut last: BTreeMap<String, &Change> = BTreeMap::new();
    for change in changes {
        let key = match change {
            Change::Ingress(ingress) => key_of(&ingress.metadata).to_string(),
            Change::Delete(key) => key.clone(),
            Change::Service(name, _) => format!("service {name}"),
            Change::Class(_) => "class".to_owned(),
            Change::Users(_) => "users".to_owned(),
        };
        last.insert(key, change);
    }
    let mut index = index();
    last.values().for_each(|change| apply(&mut index, change));
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_changes_end_like_a_new_index(changes in prop::collection::vec(change(), 1..14)) {
        let mut index = index();
        for at in 0..changes.len() {
            apply(&mut index, &changes[at]);
            let compiled = index.compile(NOW);
            prop_assert_eq!(described(&compiled), described(&of_now(&changes[..=at]).compile(NOW)));
        }
    }
}

#[test]
fn hosts_that_did_not_change_keep_their_routes() {
    let mut index = index();
    service(&mut index, "web", &["10.0.0.1"]);
    for host in ["a.com", "b.com", "c.com"] {
        let spec = json!({"rules": [{"host": host, "http": {"paths": [path("Prefix", "/", "web")]}}]});
        index.apply_ingress(&ingress(host, "2026-01-01T00:00:00Z", spec));
    }
    let before = index.compile(NOW).config;
    let spec = json!({"rules": [{"host": "b.com", "http": {"paths": [path("Prefix", "/", "other")]}}]});
    index.apply_ingress(&ingress("b.com", "2026-01-01T00:00:00Z", spec));
    let after = index.compile(NOW).config;
    let route = |config: &Config, host: &str| {
        let head =
            RequestHead { method: &Method::GET, host, path: "/", query: None, headers: &HeaderMap::new() };
        config.listeners[&80].hosts.find(host).next().unwrap().find(&head).unwrap().clone()
    };
    for (host, stays) in [("a.com", true), ("b.com", false), ("c.com", true)] {
        assert_eq!(Arc::ptr_eq(&route(&before, host), &route(&after, host)), stays, "{host}");
    }
    // A backend that nothing leads to is gone, and its index is free for another one.
    index.delete_ingress("ns/b.com");
    let names =
        |config: &Config| config.backends.iter().map(|backend| backend.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&index.compile(NOW).config), ["ns/web:80", ""]);
}
