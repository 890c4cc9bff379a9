//! What Services are given, against real servers: several on one store, and others after them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use skep_apiserver::{
    AccessRules, ApiServer, Config, FrontProxy, Identity, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_store::Store;
use skep_store::embedded::EmbeddedStore;

/// A /28 has 14 addresses, of which the `kubernetes` Service has one.
const SMALL: &str = "10.96.0.0/28";

fn open(folder: &Path) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(&folder.join("store")).unwrap())
}

async fn server(store: &Arc<dyn Store>, cidrs: &[&str]) -> Client {
    let tokens = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
    let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
    let config = Config {
        store: store.clone(),
        shared_store: false,
        services: ServiceNetwork { cidrs, pod_cidrs: Vec::new(), node_ports: 30_000..=30_019 },
        advertise: "127.0.0.1:6443".parse().unwrap(),
        client_ca: certificate.clone(),
        tokens: TokenKeys {
            private: tokens.serialize_pem(),
            public: vec![tokens.public_key_pem()],
            issuer: "https://kubernetes.default.svc".to_owned(),
        },
        access: AccessRules::default(),
        front_proxy: FrontProxy {
            certificate: certificate.clone(),
            key: key.serialize_pem(),
            ca: certificate.clone(),
            names: Vec::new(),
        },
        node_tls: NodeTls {
            certificate: certificate.clone(),
            key: key.serialize_pem(),
            ca: certificate.clone(),
            client_ca: certificate,
        },
        audit: None,
        neighbours: Vec::new(),
    };
    let server = ApiServer::new(config).await.unwrap();
    Client::new(server.in_process(Identity::new("admin", &["system:masters"]), "skep-tests"), "default")
}

fn service(name: &str, spec: Value) -> Service {
    let mut value = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

fn services(client: &Client) -> Api<Service> {
    Api::default_namespaced(client.clone())
}

async fn create(client: &Client, name: &str, spec: Value) -> Result<Service, String> {
    let made = services(client).create(&PostParams::default(), &service(name, spec)).await;
    made.map_err(|error| error.to_string())
}

async fn change(client: &Client, name: &str, spec: Value) -> Result<Service, String> {
    let patch = Patch::Merge(json!({"spec": spec}));
    let made = services(client).patch(name, &PatchParams::default(), &patch).await;
    made.map_err(|error| error.to_string())
}

fn cluster_ips(service: &Service) -> Vec<String> {
    service.spec.as_ref().unwrap().cluster_ips.clone().unwrap_or_default()
}

fn node_ports(service: &Service) -> Vec<i32> {
    service.spec.as_ref().unwrap().ports.iter().flatten().filter_map(|port| port.node_port).collect()
}

async fn held(client: &Client) -> BTreeSet<String> {
    let all = Api::<IPAddress>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    all.items.into_iter().map(|ip| ip.metadata.name.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_store_give_nothing_twice_and_give_all_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let both = [server(&store, &[SMALL]).await, server(&store, &[SMALL]).await];
    let spec = json!({"type": "NodePort"});
    let names: Vec<String> = (0..15).map(|n| format!("s{n}")).collect();
    let made =
        join_all(names.iter().enumerate().map(|(n, name)| create(&both[n % 2], name, spec.clone()))).await;
    let (given, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    let given: Vec<Service> = given.into_iter().map(Result::unwrap).collect();
    // Of 14 addresses, the Services kubernetes and kube-dns have one each.
    assert_eq!((given.len(), refused.len()), (12, 3), "{refused:?}");
    assert!(refused.iter().all(|r| r.as_ref().unwrap_err().contains("range is full")), "{refused:?}");
    let ips: BTreeSet<String> = given.iter().flat_map(cluster_ips).collect();
    let ports: BTreeSet<i32> = given.iter().flat_map(node_ports).collect();
    assert_eq!((ips.len(), ports.len()), (12, 12));
    // Every address has an object that says whose it is.
    let (first, name) = (cluster_ips(&given[0])[0].clone(), given[0].metadata.name.clone().unwrap());
    let parent = Api::<IPAddress>::all(both[1].clone()).get(&first).await.unwrap().spec.parent_ref;
    assert_eq!(
        (parent.resource.as_str(), parent.name.as_str(), parent.namespace.as_deref()),
        ("services", name.as_str(), Some("default"))
    );
    // What was refused holds nothing: not its node port either, of which 20 were there.
    services(&both[0]).delete(&name, &DeleteParams::default()).await.unwrap();
    let again = create(&both[1], "again", json!({"type": "NodePort", "clusterIP": first})).await.unwrap();
    assert_eq!(cluster_ips(&again), [first]);
    change(&both[0], "again", json!({"type": "ExternalName", "externalName": "a.example"})).await.unwrap();
    for n in 0..7 {
        let ports = json!([{"name": "x", "port": 1}]);
        create(
            &both[n % 2],
            &format!("named{n}"),
            json!({"type": "ExternalName", "externalName": "a", "ports": ports}),
        )
        .await
        .unwrap();
    }
    let more = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82}]);
    let wide = create(&both[0], "wide", json!({"type": "NodePort", "ports": more})).await.unwrap();
    assert_eq!(node_ports(&wide).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_given_or_refused_in_upstreams_words() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let client = server(&store, &["10.96.0.0/24"]).await;
    let port = |number: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    create(&client, "a", json!({"clusterIP": "10.96.0.9"})).await.unwrap();
    create(&client, "p", port(30_001)).await.unwrap();
    let cases = [
        (
            json!({"clusterIP": "10.96.0.9"}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: \
                provided IP is already allocated",
        ),
        (
            json!({"clusterIP": "10.97.0.9"}),
            "failed to allocate IP 10.97.0.9: the provided network does not match the current range",
        ),
        (
            json!({"clusterIP": "10.96.0.255"}),
            "the provided IP (10.96.0.255) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (port(30_001), "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"),
        (port(80), "provided port is not in the valid range. The range of valid ports is 30000-30019"),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "this cluster is not configured for dual-stack services",
        ),
    ];
    let before = held(&client).await;
    for (spec, wanted) in cases {
        let refusal = create(&client, "b", spec).await.unwrap_err();
        assert!(refusal.contains(wanted), "wanted {wanted:?}, got {refusal}");
    }
    // A dry run takes nothing, nor does what fails otherwise.
    let dry = PostParams { dry_run: true, ..Default::default() };
    let made = services(&client).create(&dry, &service("d", json!({"type": "NodePort"}))).await.unwrap();
    assert_eq!((cluster_ips(&made).len(), node_ports(&made).len()), (1, 1));
    create(&client, "bad", json!({"sessionAffinity": "Never"})).await.unwrap_err();
    create(&client, "a", json!({})).await.unwrap_err();
    assert_eq!(held(&client).await, before);
    let balanced =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_002});
    create(&client, "lb", balanced).await.unwrap();
    let refusal = create(&client, "q", port(30_002)).await.unwrap_err();
    assert!(refusal.contains("provided port is already allocated"), "{refusal}");
    change(&client, "lb", json!({"type": "ClusterIP"})).await.unwrap();
    create(&client, "q", port(30_002)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_forgets_nothing_and_finds_what_has_no_account() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let client = server(&store, &["10.96.0.0/24"]).await;
    let ports = json!([{"port": 80, "nodePort": 30_003}]);
    let made = create(&client, "a", json!({"type": "NodePort", "ports": ports})).await.unwrap();
    let ip = cluster_ips(&made)[0].clone();
    // As a server left it that kept no account.
    Api::<IPAddress>::all(client).delete(&ip, &DeleteParams::default()).await.unwrap();
    store.delete("/registry/ranges/servicenodeports/30003", skep_store::Expect::Any).await.unwrap();
    // The second family comes with a restart; the default ServiceCIDR follows.
    let client = server(&store, &["10.96.0.0/24", "fd00::/112"]).await;
    assert!(held(&client).await.contains(&ip));
    let refusal = create(&client, "b", json!({"clusterIP": ip})).await.unwrap_err();
    assert!(refusal.contains("provided IP is already allocated"), "{refusal}");
    let refusal = create(&client, "b", json!({"type": "NodePort", "ports": ports})).await.unwrap_err();
    assert!(refusal.contains("provided port is already allocated"), "{refusal}");
    let dual = change(&client, "a", json!({"ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    let [first, second] = cluster_ips(&dual).try_into().unwrap();
    assert!(first == ip && second.starts_with("fd00::") && held(&client).await.contains(&second));
    // Deleting the IPAddress does not take the address from its Service.
    Api::<IPAddress>::all(client.clone()).delete(&second, &DeleteParams::default()).await.unwrap();
    while !held(&client).await.contains(&second) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    change(&client, "a", json!({"ipFamilyPolicy": "SingleStack"})).await.unwrap();
    assert!(!held(&client).await.contains(&second));
    let range = Api::<ServiceCIDR>::all(client).get("kubernetes").await.unwrap();
    assert_eq!(range.spec.unwrap().cidrs.unwrap(), ["10.96.0.0/24", "fd00::/112"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_range_serves_once_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // Six addresses, of which the Services kubernetes and kube-dns have two.
    let client = server(&store, &["10.96.0.0/29"]).await;
    for name in ["a", "a2", "a3", "a4"] {
        create(&client, name, json!({})).await.unwrap();
    }
    let refusal = create(&client, "b", json!({})).await.unwrap_err();
    assert!(refusal.contains("range is full"), "{refusal}");
    let ranges = Api::<ServiceCIDR>::all(client.clone());
    let more =
        serde_json::from_value(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}}));
    ranges.create(&PostParams::default(), &more.unwrap()).await.unwrap();
    create(&client, "b", json!({})).await.unwrap_err();
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let patch = Patch::Merge(json!({"status": {"conditions": ready}}));
    ranges.patch_status("more", &PatchParams::default(), &patch).await.unwrap();
    let made = create(&client, "b", json!({})).await.unwrap();
    assert!(cluster_ips(&made)[0].starts_with("10.97.0."));
    let made = create(&client, "c", json!({"clusterIP": "10.97.0.3"})).await.unwrap();
    assert_eq!(cluster_ips(&made), ["10.97.0.3"]);
}
