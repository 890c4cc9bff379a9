//! The server connects to no address that is not what its object says it is, and no Service takes another's address.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{World, get, post, send};

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SPECIAL: [&str; 4] = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"];

fn slice(name: &str, service: &str, endpoint: Value, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "", "port": port}],
    })
}

#[tokio::test]
async fn endpoints_are_no_special_addresses() -> Result<()> {
    let world = World::start().await?;
    for ip in SPECIAL {
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"generateName": "e-"},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}],
        });
        assert_eq!(post(&world.admin, ENDPOINTS, endpoints).await?.0, 422, "{ip}");
        let slice = slice("s", "s", json!({"addresses": [ip]}), 80);
        assert_eq!(post(&world.admin, SLICES, slice).await?.0, 422, "{ip}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pods_proxy_reaches_only_the_pods_address() -> Result<()> {
    let world = World::start().await?;
    let node = world.create_node("n").await?;
    anyhow::ensure!(node["metadata"]["name"] == "n");
    let ranges = json!({"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}});
    assert_eq!(send(&world.admin, Method::PATCH, "/api/v1/nodes/n", &[], Some(ranges)).await?.0, 200);
    // Special addresses, and one that is not of the node's pods.
    for (number, ip) in SPECIAL.iter().chain(&["::1", "::ffff:127.0.0.1", "192.0.2.77"]).enumerate() {
        let name = format!("p{number}");
        world.create_pod(&name, "n", Some(ip)).await?;
        let (code, answer) =
            get(&world.admin, &format!("/api/v1/namespaces/default/pods/{name}:80/proxy/")).await?;
        assert_eq!((code, &answer["message"]), (400, &json!("address not allowed")), "{ip}");
    }
    Ok(())
}

#[tokio::test]
async fn a_nodes_proxy_never_leads_back_to_the_server() -> Result<()> {
    let world = World::start().await?;
    world.create_node("evil").await?;
    for (ip, port) in [("127.0.0.1", 6443), ("169.254.169.254", 80), ("10.96.0.1", 443), ("::1", 10250)] {
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": ip}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        let (code, answer) =
            send(&world.admin, Method::PATCH, "/api/v1/nodes/evil/status", &[], Some(status)).await?;
        assert_eq!(code, 200, "{answer}");
        for proxy in ["evil/proxy/api", "evil:80/proxy/x"] {
            let (code, answer) = get(&world.admin, &format!("/api/v1/nodes/{proxy}")).await?;
            assert_eq!((code, &answer["message"]), (400, &json!("address not allowed")), "{ip} {proxy}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_services_proxy_reaches_only_pods_of_its_namespace() -> Result<()> {
    let world = World::start().await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    world.create(SERVICES, service).await?;
    world.create_node("n").await?;
    world.create_pod("p", "n", Some("203.0.113.9")).await?;
    let target =
        |kind: &str, namespace: &str, name: &str| json!({"kind": kind, "namespace": namespace, "name": name});
    for (number, endpoint) in [
        json!({"addresses": ["203.0.113.9"]}),
        json!({"addresses": ["203.0.113.8"], "targetRef": target("Pod", "default", "p")}),
        json!({"addresses": ["203.0.113.9"], "targetRef": target("Pod", "other", "p")}),
        json!({"addresses": ["203.0.113.9"], "targetRef": target("Node", "default", "p")}),
        json!({"addresses": ["203.0.113.9"], "targetRef": target("Pod", "default", "q")}),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("s-{number}");
        world.create(SLICES, slice(&name, "s", endpoint.clone(), 80)).await?;
        let (code, answer) = get(&world.admin, &format!("{SERVICES}/s/proxy/x")).await?;
        assert_eq!(code, 503, "{endpoint}");
        assert_eq!(answer["message"], "no endpoints available for service \"s\"", "{endpoint}");
        send(&world.admin, Method::DELETE, &format!("{SLICES}/{name}"), &[], None).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_external_ip_is_in_an_allowed_range_and_nobody_elses() -> Result<()> {
    let world = World::start_with(|config| {
        config.access.external_ips = "203.0.113.0/24,10.96.0.0/12,127.0.0.0/8"
            .split(',')
            .filter_map(|range| range.parse().ok())
            .collect();
        config.advertise = "203.0.113.1:6443".parse().unwrap_or(config.advertise);
    })
    .await?;
    world.create_node("n").await?;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.2"}]}});
    send(&world.admin, Method::PATCH, "/api/v1/nodes/n/status", &[], Some(status)).await?;
    world.create_pod("p", "n", Some("203.0.113.3")).await?;
    let pool = json!({"apiVersion": "skep.io/v1alpha1", "kind": "LoadBalancerPool", "metadata": {"name": "pool"}, "spec": {"cidrs": ["192.0.2.0/24"]}});
    world.create("/apis/skep.io/v1alpha1/loadbalancerpools", pool).await?;
    for (ip, wanted) in [
        ("203.0.113.9", 201),
        ("192.0.2.9", 201),
        ("198.51.100.9", 403),
        ("203.0.113.1", 403),
        ("203.0.113.2", 403),
        ("203.0.113.3", 403),
        ("10.96.0.1", 403),
        ("127.0.0.1", 422),
    ] {
        let spec = json!({"ports": [{"port": 6443}], "externalIPs": [ip]});
        let service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"generateName": "s-"}, "spec": spec});
        let (code, answer) = post(&world.admin, SERVICES, service).await?;
        assert_eq!(code, wanted, "{ip}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_range_there_are_no_external_ips() -> Result<()> {
    let world = World::start().await?;
    let service = |external: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": [{"port": 6443}], "externalIPs": external},
        })
    };
    assert_eq!(post(&world.admin, SERVICES, service(json!(["203.0.113.9"]))).await?.0, 403);
    world.create(SERVICES, service(json!([]))).await?;
    let patch = json!({"spec": {"externalIPs": ["203.0.113.9"]}});
    assert_eq!(send(&world.admin, Method::PATCH, &format!("{SERVICES}/s"), &[], Some(patch)).await?.0, 403);
    Ok(())
}
