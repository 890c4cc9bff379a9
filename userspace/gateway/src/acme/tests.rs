//! Which certificates are ordered, and when.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::ingress::{CONTROLLER, Index, Ports};

const DAY: i64 = 86_400;
/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
const DIRECTORY: &str = "https://acme.example/directory";

fn wanted() -> Wanted {
    let names = ["a.com".into(), "b.com".into()].into();
    Wanted { secret: "ns/cert".into(), names, challenge: ChallengeKind::Http, owners: Default::default() }
}

fn issued(directory: &str, names: &[&str], from: i64, days: i64) -> Stored {
    let names = names.iter().map(|name| (*name).into()).collect();
    Stored::Issued { directory: directory.to_owned(), names, not_before: from, not_after: from + days * DAY }
}

#[test]
fn a_certificate_is_ordered_when_none_serves_and_at_two_thirds_of_its_lifetime() {
    let both: &[&str] = &["b.com", "a.com"];
    let fresh = || issued(DIRECTORY, both, NOW - DAY, 90);
    let rows: [(&str, Option<Stored>, Option<i64>, Step); 11] = [
        ("not looked for", None, None, Step::Wait),
        ("missing", Some(Stored::Missing), None, Step::Order),
        ("broken", Some(Stored::Broken), None, Step::Order),
        ("made by others", Some(Stored::Foreign), None, Step::Refuse(Fault::ForeignSecret)),
        ("fresh", Some(fresh()), None, Step::Until(NOW + 59 * DAY)),
        ("one of six days", Some(issued(DIRECTORY, both, NOW, 6)), None, Step::Until(NOW + 4 * DAY)),
        ("two thirds over", Some(issued(DIRECTORY, both, NOW - 60 * DAY, 90)), None, Step::Order),
        ("other names", Some(issued(DIRECTORY, &["a.com"], NOW, 90)), None, Step::Order),
        ("another authority", Some(issued("https://other", both, NOW, 90)), None, Step::Order),
        ("the authority says later", Some(fresh()), Some(NOW + 70 * DAY), Step::Until(NOW + 70 * DAY)),
        ("the authority revokes it", Some(fresh()), Some(NOW - 1), Step::Order),
    ];
    for (case, stored, renew_at, step) in rows {
        let found = plan(&wanted(), DIRECTORY, stored.as_ref(), &Attempts::default(), renew_at, NOW);
        assert_eq!(found, step, "{case}");
    }
    // A suggestion beyond the end does not count.
    let late = plan(&wanted(), DIRECTORY, Some(&fresh()), &Attempts::default(), Some(NOW + 200 * DAY), NOW);
    assert_eq!(late, Step::Until(NOW + 89 * DAY));
    let mut running = Attempts::default();
    running.is_running = true;
    assert_eq!(plan(&wanted(), DIRECTORY, Some(&Stored::Missing), &running, None, NOW), Step::Wait);
}

#[test]
fn failed_orders_are_repeated_later_and_later_and_never_before_the_authority_allows_it() {
    let pace = Pace::default();
    let failure = |is_rate_limit, retry_at| Failure { error: "no".to_owned(), is_rate_limit, retry_at };
    let until =
        |attempts: &Attempts| match plan(&wanted(), DIRECTORY, Some(&Stored::Missing), attempts, None, NOW) {
            Step::Until(at) => at - NOW,
            step => panic!("{step:?}"),
        };
    let mut attempts = Attempts::default();
    let waits: Vec<i64> = (0..9)
        .map(|_| {
            attempts.failed(failure(false, None), &pace, NOW);
            until(&attempts)
        })
        .collect();
    assert_eq!(waits, [300, 600, 1_200, 2_400, 4_800, 9_600, 19_200, 21_600, 21_600]);
    // Not more than four failures in the first hour.
    assert!(waits[..4].iter().sum::<i64>() > 3_600);
    for (at, wait) in [(None, 3_600), (Some(NOW + 7_200), 7_200), (Some(NOW + 60), 60), (Some(NOW - 60), 1)] {
        let mut attempts = Attempts::default();
        attempts.failed(failure(true, at), &pace, NOW);
        assert_eq!(until(&attempts), wait, "{at:?}");
    }
    let mut attempts = Attempts::default();
    attempts.failed(failure(false, Some(NOW + 900)), &pace, NOW);
    assert_eq!(until(&attempts), 900);
    assert_eq!(attempts.fault(), Some(Fault::Order("no".to_owned(), NOW + 900)));
    let later = plan(&wanted(), DIRECTORY, Some(&Stored::Missing), &attempts, None, NOW + 900);
    assert_eq!(later, Step::Order);
    // A certificate that serves is renewed as late as its failures want it.
    attempts.failed(failure(false, None), &Pace { first_retry: Duration::from_secs(60), ..pace }, NOW);
    let due = issued(DIRECTORY, &["a.com", "b.com"], NOW - 80 * DAY, 90);
    assert_eq!(plan(&wanted(), DIRECTORY, Some(&due), &attempts, None, NOW), Step::Until(NOW + 120));
}

fn meta(key: &str, created: &str, annotations: Value) -> Value {
    let (namespace, name) = key.split_once('/').unwrap();
    json!({"namespace": namespace, "name": name, "uid": key, "creationTimestamp": created, "annotations": annotations})
}

fn ingress(index: &mut Index, key: &str, created: &str, annotations: Value, tls: Value) {
    let spec = json!({"ingressClassName": "skep", "tls": tls});
    let object = json!({"metadata": meta(key, created, annotations), "spec": spec});
    index.apply_ingress(&serde_json::from_value(object).unwrap());
}

fn index() -> Index {
    let mut index = Index::new(Ports { http: Some(80), https: Some(443) });
    let class = json!({"metadata": {"name": "skep"}, "spec": {"controller": CONTROLLER}});
    index.apply_class(&serde_json::from_value(class).unwrap());
    let class =
        json!({"metadata": {"name": "skep"}, "spec": {"controllerName": crate::gateway_api::CONTROLLER}});
    index.gateway_api().apply_class(&serde_json::from_value(class).unwrap());
    index
}

/// Secret, challenge and names of each certificate; then object and reason of each problem.
fn requests(index: &mut Index) -> (Vec<String>, Vec<String>) {
    index.compile(NOW);
    let requests = index.acme_requests();
    let wanted = requests.wanted.values().map(|wanted| {
        let names: Vec<&str> = wanted.names.iter().map(|name| &**name).collect();
        let owners: Vec<&str> = wanted.owners.iter().map(|owner| owner.uid.as_str()).collect();
        format!("{} {} {} of {}", wanted.secret, wanted.challenge.name(), names.join(","), owners.join(","))
    });
    let problem = |problem: &Problem| {
        format!("{} {} {}", problem.owner.kind, problem.owner.key, problem.fault.reason())
    };
    (wanted.collect(), requests.problems.iter().map(problem).collect())
}

const FIRST: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-02-01T00:00:00Z";

#[test]
fn ingresses_get_what_their_annotations_ask_for_and_no_name_of_another_namespace() {
    let mut index = index();
    let on = || json!({"skep.io/acme": "true"});
    let tls = |secret: &str, hosts: &[&str]| json!([{"secretName": secret, "hosts": hosts}]);
    ingress(&mut index, "a/web", FIRST, on(), tls("cert", &["A.com", "www.a.com"]));
    ingress(&mut index, "a/more", LATER, on(), tls("cert", &["more.a.com"]));
    let alpn = json!({"skep.io/acme": "true", "skep.io/acme-challenge": "tls-alpn-01"});
    ingress(&mut index, "a/alpn", LATER, alpn, tls("alpn", &["alpn.com"]));
    ingress(&mut index, "a/off", FIRST, json!({"skep.io/acme": "false"}), tls("off", &["off.com"]));
    let others = json!({"cert-manager.io/cluster-issuer": "letsencrypt", "acme.cert-manager.io/http01-edit-in-place": "true"});
    ingress(&mut index, "a/others", FIRST, others, tls("others", &["others.com"]));
    assert_eq!(
        requests(&mut index).0,
        [
            "a/alpn tls-alpn-01 alpn.com of a/alpn",
            "a/cert http-01 a.com,more.a.com,www.a.com of a/more,a/web"
        ]
    );
    assert_eq!(requests(&mut index).1, [""; 0]);
    for (name, annotations, tls) in [
        ("wildcard", on(), tls("w", &["*.a.com", "x.a.com"])),
        ("address", on(), tls("ip", &["192.0.2.1"])),
        ("nameless", on(), tls("n", &[])),
        ("stolen", on(), tls("s", &["a.com"])),
        ("theirs", on(), tls("s", &["off.com"])),
        ("unknown", json!({"skep.io/acme": "yes"}), tls("u", &["u.com"])),
        ("dns", json!({"skep.io/acme": "true", "skep.io/acme-challenge": "dns-01"}), tls("d", &["d.com"])),
        ("empty", on(), json!([])),
    ] {
        ingress(&mut index, &format!("b/{name}"), LATER, annotations, tls);
    }
    let (wanted, problems) = requests(&mut index);
    assert_eq!(wanted.len(), 2, "{wanted:?}");
    assert_eq!(
        problems,
        [
            "Ingress b/address AcmeInvalidNames",
            "Ingress b/dns InvalidAnnotation",
            "Ingress b/empty AcmeNoSecret",
            "Ingress b/nameless AcmeInvalidNames",
            "Ingress b/stolen AcmeNameTaken",
            "Ingress b/theirs AcmeNameTaken",
            "Ingress b/unknown InvalidAnnotation",
            "Ingress b/wildcard AcmeWildcard",
        ]
    );
}

fn apply<K: serde::de::DeserializeOwned>(key: &str, annotations: Value, spec: Value) -> K {
    serde_json::from_value(json!({"metadata": meta(key, FIRST, annotations), "spec": spec})).unwrap()
}

#[test]
fn gateways_and_listener_sets_get_certificates_by_the_listeners_that_can_answer() {
    let mut index = index();
    let on = || json!({"skep.io/acme": "true"});
    let https = |name: &str, host: &str, secret: &str| json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": host, "tls": {"certificateRefs": [{"name": secret}]}});
    let gateway = |listeners: Value| json!({"gatewayClassName": "skep", "listeners": listeners, "allowedListeners": {"namespaces": {"from": "All"}}});
    let http = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let foreign = json!({"name": "foreign", "port": 443, "protocol": "HTTPS", "hostname": "f.com",
        "tls": {"certificateRefs": [{"name": "cert", "namespace": "b"}]}});
    let both = gateway(json!([http, https("a", "a.com", "cert"), https("b", "b.com", "cert"), foreign]));
    index.gateway_api().apply_gateway(&apply("a/both", on(), both));
    let secure = gateway(json!([https("c", "c.com", "cert")]));
    index.gateway_api().apply_gateway(&apply("c/secure", on(), secure));
    let odd = json!({"name": "odd", "port": 8443, "protocol": "HTTPS", "hostname": "d.com", "tls": {"certificateRefs": [{"name": "cert"}]}});
    index.gateway_api().apply_gateway(&apply("d/odd", on(), gateway(json!([odd]))));
    let set =
        json!({"parentRef": {"name": "both", "namespace": "a"}, "listeners": [https("e", "e.com", "cert")]});
    index.gateway_api().apply_listener_set(&apply("e/set", on(), set));
    let silent =
        json!({"parentRef": {"name": "both", "namespace": "a"}, "listeners": [https("g", "g.com", "cert")]});
    index.gateway_api().apply_listener_set(&apply("g/silent", json!({}), silent));
    let (wanted, problems) = requests(&mut index);
    assert_eq!(
        wanted,
        [
            "a/cert http-01 a.com,b.com of a/both",
            "c/cert tls-alpn-01 c.com of c/secure",
            "e/cert http-01 e.com of e/set"
        ]
    );
    assert_eq!(problems, ["Gateway a/both AcmeForeignSecret", "Gateway d/odd AcmeNoListener"]);
    // The annotation alone changes what is asked for.
    let secure = gateway(json!([https("c", "c.com", "cert")]));
    index.gateway_api().apply_gateway(&apply("c/secure", json!({}), secure));
    assert_eq!(requests(&mut index).0.len(), 2);
}

#[test]
fn a_listener_whose_certificate_is_ordered_is_open_before_there_is_one() {
    let listener = json!({"name": "a", "port": 443, "protocol": "HTTPS", "hostname": "a.com", "tls": {"certificateRefs": [{"name": "cert"}]}});
    let node = json!({
        "metadata": {"name": "node"},
        "status": {"conditions": [{"type": "GatewayReady", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]},
    });
    for (annotations, is_open) in [(json!({"skep.io/acme": "true"}), true), (json!({}), false)] {
        let mut index = index();
        index.gateway_api().apply_node(&serde_json::from_value(node.clone()).unwrap());
        let spec = json!({"gatewayClassName": "skep", "listeners": [listener]});
        index.gateway_api().apply_gateway(&apply("a/secure", annotations, spec));
        index.apply_secret(&"a/cert".into(), None, NOW);
        assert_eq!(index.compile(NOW).config.listeners.contains_key(&443), is_open);
    }
}

#[test]
fn what_a_secret_holds_is_read_from_its_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["b.com".to_owned(), "A.com".to_owned()];
    let chain = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    let secret = |annotations: Value, key: &str| {
        let object = json!({"metadata": {"name": "cert", "annotations": annotations}});
        let mut secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(object).unwrap();
        let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
        secret.data =
            Some([("tls.crt".to_owned(), bytes(&chain)), ("tls.key".to_owned(), bytes(key))].into());
        secret
    };
    let ours = || json!({"skep.io/acme-directory": DIRECTORY});
    let found = Stored::parse(Some(&secret(ours(), &key.serialize_pem())));
    let Stored::Issued { directory, names, not_before, not_after } = found else { panic!("{found:?}") };
    assert_eq!(
        (directory.as_str(), names.iter().map(|name| &**name).collect::<Vec<_>>()),
        (DIRECTORY, vec!["a.com", "b.com"])
    );
    assert!(not_before < not_after);
    assert_eq!(Stored::parse(Some(&secret(json!({}), &key.serialize_pem()))), Stored::Foreign);
    assert_eq!(Stored::parse(Some(&secret(ours(), "x"))), Stored::Broken);
    assert_eq!(Stored::parse(None), Stored::Missing);
}
