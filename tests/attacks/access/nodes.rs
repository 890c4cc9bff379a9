//! A node has rights to itself and to its pods.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{World, get, post, send};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_node_reads_itself_and_its_own_pods() -> Result<()> {
    let world = World::start().await?;
    for node in ["a", "b"] {
        world.create_node(node).await?;
        world.create_pod(&format!("on-{node}"), node, None).await?;
    }
    let node = world.node("a");
    for (path, wanted) in [
        ("/api/v1/nodes/a", 200),
        ("/api/v1/nodes/b", 403),
        ("/api/v1/nodes", 403),
        ("/api/v1/nodes?fieldSelector=metadata.name%3Da", 200),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Da", 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Db", 403),
        ("/api/v1/namespaces/default/pods/on-a", 200),
        ("/api/v1/namespaces/default/pods/on-b", 403),
        ("/api/v1/namespaces", 403),
        ("/apis/networking.k8s.io/v1/networkpolicies", 403),
    ] {
        assert_eq!(get(&node, path).await?.0, wanted, "{path}");
    }
    // The network reads the cluster as a user of its own.
    let network = [("impersonate-user", "skep:network-agent"), ("impersonate-group", "skep:network-agents")];
    assert_eq!(send(&node, Method::GET, "/api/v1/pods", &network, None).await?.0, 200);
    assert_eq!(send(&node, Method::GET, "/api/v1/secrets", &network, None).await?.0, 403);
    let masters = [("impersonate-user", "skep:network-agent"), ("impersonate-group", "system:masters")];
    assert_eq!(send(&node, Method::GET, "/api/v1/pods", &masters, None).await?.0, 403);
    Ok(())
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_audiences_of_its_pods() -> Result<()> {
    let world = World::start().await?;
    world.create_node("a").await?;
    let pod = world.create_pod("p", "a", None).await?;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |audiences: Value| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}},
        })
    };
    let node = world.node("a");
    for (audiences, wanted) in
        [(json!([]), 201), (json!(["sts.amazonaws.com"]), 403), (json!(["a", "b"]), 403)]
    {
        let (code, answer) = post(&node, path, request(audiences.clone())).await?;
        assert_eq!(code, wanted, "{audiences} {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_websocket_needs_the_right_to_create() -> Result<()> {
    let world = World::start().await?;
    world.create_node("a").await?;
    world.create_pod("p", "a", None).await?;
    let parts = json!(["pods/exec", "pods/attach", "pods/portforward"]);
    world.grant("reader", json!([{"apiGroups": [""], "resources": parts, "verbs": ["get"]}])).await?;
    world
        .grant("writer", json!([{"apiGroups": [""], "resources": parts, "verbs": ["get", "create"]}]))
        .await?;
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    for part in ["exec?command=id", "attach", "portforward"] {
        let path = format!("{PODS}/p/{part}");
        let (code, _) = send(&world.user("reader"), Method::GET, &path, &headers, None).await?;
        assert_eq!(code, 403, "{part}");
        let (code, answer) = send(&world.user("writer"), Method::GET, &path, &headers, None).await?;
        assert_ne!(code, 403, "{part}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn the_server_says_who_asks_for_a_certificate() -> Result<()> {
    let world = World::start().await?;
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
    let csr = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "x"},
        "spec": {
            "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request),
            "signerName": "example.com/x", "usages": ["client auth"],
            "uid": "forged", "extra": {"forged": ["a"]}, "username": "forged", "groups": ["system:masters"],
        },
    });
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]}]);
    world.grant("jane", rules).await?;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (code, created) = post(&world.user("jane"), path, csr).await?;
    assert_eq!(code, 201, "{created}");
    let spec = &created["spec"];
    assert_eq!((&spec["username"], &spec["groups"]), (&json!("jane"), &json!(["system:authenticated"])));
    assert!(spec["uid"].is_null() && spec["extra"].is_null(), "{spec}");
    Ok(())
}

#[tokio::test]
async fn a_tunnel_is_only_that_of_the_node_itself() -> Result<()> {
    let world = World::start().await?;
    world.create_node("a").await?;
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.grant("mighty", all).await?;
    let switch = [("connection", "Upgrade"), ("upgrade", "skep-tunnel")];
    for (client, node, wanted) in [
        (world.node("a"), "b", 403),
        (world.node("a"), "a", 101),
        (world.user("jane"), "a", 403),
        (world.user("mighty"), "a", 403),
        (world.user("system:node:a"), "a", 403),
        (world.admin.clone(), "a", 403),
        (world.server.client_by_token(None), "a", 403),
    ] {
        let path = format!("/apis/tunnel.skep.io/v1/tunnels/{node}");
        let (code, answer) = send(&client, Method::POST, &path, &switch, None).await?;
        assert_eq!(code, wanted, "{node} {answer}");
    }
    let node = world.node("a");
    for (method, path, headers, wanted) in [
        (Method::POST, "/apis/tunnel.skep.io/v1/tunnels/a", &[][..], 400),
        (Method::POST, "/apis/tunnel.skep.io/v1/tunnels/a", &[("upgrade", "websocket")][..], 400),
        (Method::GET, "/apis/tunnel.skep.io/v1/tunnels/a", &switch[..], 403),
        (Method::POST, "/apis/tunnel.skep.io/v1/tunnels/a/x", &switch[..], 403),
        (Method::POST, "/apis/tunnel.skep.io/v2/tunnels/a", &switch[..], 404),
    ] {
        let (code, answer) = send(&node, method, path, headers, None).await?;
        assert_eq!(code, wanted, "{path} {headers:?} {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_is_never_reached_but_through_its_nodes_tunnel() -> Result<()> {
    let world = World::start().await?;
    world.create_node("a").await?;
    world.create_pod("p", "a", Some("10.244.1.5")).await?;
    let (code, answer) = get(&world.admin, &format!("{PODS}/p:80/proxy/")).await?;
    let why = "error trying to reach service: dial tcp 10.244.1.5:80: node a has no tunnel to this server";
    assert_eq!((code, &answer["message"]), (503, &json!(why)));
    let (code, answer) = get(&world.admin, &format!("{PODS}/p/log")).await?;
    assert_eq!(code, 503, "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_command_by_a_nodes_proxy_needs_the_right_to_create() -> Result<()> {
    let world = World::start().await?;
    world.create_node("a").await?;
    let rule = |verbs: Value| json!([{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": verbs}]);
    world.grant("reader", rule(json!(["get"]))).await?;
    world.grant("writer", rule(json!(["get", "create"]))).await?;
    let (reader, writer) = (world.user("reader"), world.user("writer"));
    for path in
        ["exec/default/p/main?command=id", "attach/default/p/main", "portForward/default/p", "/exec/x/p/m"]
    {
        let path = format!("/api/v1/nodes/a/proxy/{path}");
        let (code, answer) = get(&reader, &path).await?;
        assert_eq!(code, 403, "{path} {answer}");
        // The node has no address.
        assert_eq!(get(&writer, &path).await?.0, 503, "{path}");
    }
    assert_eq!(get(&reader, "/api/v1/nodes/a/proxy/configz").await?.0, 503);
    Ok(())
}
