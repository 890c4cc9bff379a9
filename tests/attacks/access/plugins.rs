//! Admission plugins that an administrator switches on, and other choices of access.

use anyhow::Result;
use http::Method;
use serde_json::json;
use skep_apiserver::OptionalPlugin;

use super::{World, get, post, send};

#[tokio::test]
async fn selected_plugins_run() -> Result<()> {
    let world = World::start_with(|config| {
        config.access.plugins = [OptionalPlugin::AlwaysPullImages, OptionalPlugin::PodNodeSelector].into();
    })
    .await?;
    let annotation =
        json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": "zone=a"}}});
    let namespace = "/api/v1/namespaces/default";
    assert_eq!(send(&world.admin, Method::PATCH, namespace, &[], Some(annotation)).await?.0, 200);
    let pod = world.create_pod("p", "", None).await?;
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(pod["spec"]["nodeSelector"], json!({"zone": "a"}));
    let other = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q"},
        "spec": {"nodeSelector": {"zone": "b"}, "containers": [{"name": "c", "image": "i"}]},
    });
    assert_eq!(post(&world.admin, "/api/v1/namespaces/default/pods", other).await?.0, 403);
    Ok(())
}

#[tokio::test]
async fn events_come_at_a_limited_rate() -> Result<()> {
    let world =
        World::start_with(|config| config.access.plugins = [OptionalPlugin::EventRateLimit].into()).await?;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": "default"},
        "involvedObject": {"namespace": "default"}, "reason": "x", "type": "Normal",
    });
    let mut refused = 0;
    for _ in 0..200 {
        let (code, answer) = post(&world.admin, "/api/v1/namespaces/default/events", event.clone()).await?;
        assert!(code == 201 || code == 429, "{code} {answer}");
        refused += usize::from(code == 429);
    }
    assert!(refused > 20, "{refused}");
    Ok(())
}

#[tokio::test]
async fn anonymous_requests_can_be_refused() -> Result<()> {
    let open = World::start().await?;
    assert_eq!(get(&open.server.client_by_token(None), "/livez").await?.0, 200);
    assert_eq!(get(&open.server.client_by_token(None), "/api/v1/pods").await?.0, 403);
    let closed = World::start_with(|config| config.access.anonymous = Some(false)).await?;
    assert_eq!(get(&closed.server.client_by_token(None), "/livez").await?.0, 401);
    Ok(())
}

/// A policy for `kube-system` is not evaded by another spelling of the path.
#[tokio::test]
async fn an_encoded_path_is_audited_as_what_it_means() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("audit.log");
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  namespaces: [kube-system]\n  \
        resources: [{group: '', resources: [secrets]}]\n- level: None\n";
    let audit = super::audit(&file, policy)?;
    let world = World::start_with(|config| config.audit = Some(audit)).await?;
    for path in ["/api/v1/namespaces/kube-system/secrets/s", "/api/v1/namespaces/kube%2Dsystem/secrets/s"] {
        get(&world.admin, path).await?;
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let lines = std::fs::read_to_string(&file).unwrap_or_default().lines().count();
        if lines == 4 {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{lines} lines");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
