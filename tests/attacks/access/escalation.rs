//! A user who writes roles gains no right by it.

use anyhow::Result;
use http::Method;
use serde_json::json;

use super::{BINDINGS, ROLES, World, cluster_binding, cluster_role, get, post, send};

/// Who writes roles and bindings, and may neither `bind` nor `escalate`.
async fn role_writer(world: &World) -> Result<kube::Client> {
    let resources = json!(["clusterroles", "clusterrolebindings"]);
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": resources, "verbs": ["create", "update", "patch", "get"]}]);
    world.grant("mallory", rules).await?;
    Ok(world.user("mallory"))
}

#[tokio::test]
async fn aggregation_grants_nothing_that_its_writer_lacks() -> Result<()> {
    let world = World::start().await?;
    let mallory = role_writer(&world).await?;
    let selectors =
        json!({"clusterRoleSelectors": [{"matchLabels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}]});
    let (code, _) = post(&mallory, ROLES, cluster_role("pwn", json!([]))).await?;
    assert_eq!(code, 201, "a role without rules grants nothing");
    let (code, _) = post(&mallory, BINDINGS, cluster_binding("pwn", "pwn", "mallory")).await?;
    assert_eq!(code, 201);
    let aggregated = json!({"aggregationRule": selectors});
    let pwn = format!("{ROLES}/pwn");
    let (code, answer) = send(&mallory, Method::PATCH, &pwn, &[], Some(aggregated)).await?;
    assert_eq!(code, 403, "{answer}");
    let wanted = "must have cluster-admin privileges to use the aggregationRule";
    assert!(answer["message"].as_str().is_some_and(|message| message.ends_with(wanted)), "{answer}");
    let mut created = cluster_role("pwn2", json!([]));
    created["aggregationRule"] = selectors;
    assert_eq!(post(&mallory, ROLES, created.clone()).await?.0, 403);
    // The role of another, which it would inherit from, is closed to it as well.
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(send(&mallory, Method::PATCH, &format!("{ROLES}/admin"), &[], Some(label)).await?.0, 403);
    assert_eq!(post(&world.admin, ROLES, created).await?.0, 201);
    Ok(())
}

#[tokio::test]
async fn the_collector_may_prepare_a_role_for_its_deletion() -> Result<()> {
    let world = World::start().await?;
    let mallory = role_writer(&world).await?;
    world
        .create(
            ROLES,
            cluster_role("strong", json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])),
        )
        .await?;
    let strong = format!("{ROLES}/strong");
    let finalizers = json!({"metadata": {"finalizers": ["example.com/x"]}});
    assert_eq!(send(&mallory, Method::PATCH, &strong, &[], Some(finalizers)).await?.0, 200);
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(send(&mallory, Method::PATCH, &strong, &[], Some(label)).await?.0, 403);
    Ok(())
}

#[tokio::test]
async fn a_custom_kind_named_like_a_role_is_no_role() -> Result<()> {
    let world = World::start().await?;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "rolebindings.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "rolebindings", "kind": "RoleBinding"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    world.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await?;
    let things = "/apis/example.com/v1/rolebindings";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while get(&world.admin, things).await?.0 != 200 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "the kind is not served");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.grant("jane", json!([{"apiGroups": ["example.com"], "resources": ["*"], "verbs": ["*"]}])).await?;
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "RoleBinding", "metadata": {"name": "x"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
    });
    let (code, answer) = post(&world.user("jane"), things, object).await?;
    assert_eq!(code, 201, "{answer}");
    Ok(())
}
