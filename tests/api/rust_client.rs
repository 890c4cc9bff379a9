//! kube-rs, unmodified, over TLS: watcher and reflector with streaming lists, apply, patches, subresources, pages, 410.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, ResourceExt as _, WatchEvent,
    WatchParams,
};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Client, Error};
use serde_json::{Value, json};

use crate::harness::Server;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

fn settings(name: &str, value: &str) -> ConfigMap {
    let data = [("value".to_owned(), value.to_owned())].into();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([("of".to_owned(), "test".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}

fn code(error: Error) -> u16 {
    match error {
        Error::Api(status) => status.code,
        other => panic!("no answer of the API: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_follows_what_others_write() {
    let server = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    api.create(&PostParams::default(), &settings("before", "1")).await.unwrap();
    // kube asks for a stream at version 0, which is whatever the server has at hand: this waits until that has it.
    api.list(&ListParams::default()).await.unwrap();
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().labels("of=test").streaming_lists();
    let mut events = watcher(api.clone(), config).default_backoff().reflect(writer).boxed();
    // The initial list ends before any other event.
    let mut received = Vec::new();
    while let Some(event) = tokio::time::timeout(READY_TIMEOUT, events.try_next()).await.unwrap().unwrap() {
        let done = matches!(event, Event::InitDone);
        received.push(event);
        if done {
            break;
        }
    }
    assert!(
        matches!(received.as_slice(), [Event::Init, Event::InitApply(first), Event::InitDone] if first.name_any() == "before")
    );
    api.create(&PostParams::default(), &settings("after", "1")).await.unwrap();
    let change = Patch::Merge(json!({"data": {"value": "2"}}));
    api.patch("after", &PatchParams::default(), &change).await.unwrap();
    api.delete("before", &DeleteParams::default()).await.unwrap();
    let shown = || {
        let mut all: Vec<(String, String)> = reader
            .state()
            .iter()
            .map(|o| (o.name_any(), o.data.clone().unwrap_or_default()["value"].clone()))
            .collect();
        all.sort();
        all
    };
    while shown() != [("after".to_owned(), "2".to_owned())] {
        tokio::time::timeout(READY_TIMEOUT, events.try_next()).await.expect("an event").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_too_old_is_gone_and_a_watcher_gets_over_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let first = api.create(&PostParams::default(), &settings("a", "0")).await.unwrap();
    let version = first.resource_version().unwrap();
    // More changes than are kept.
    for i in 0..2_100 {
        let change = Patch::Merge(json!({"data": {"value": i.to_string()}}));
        api.patch("a", &PatchParams::default(), &change).await.unwrap();
    }
    let mut events = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    match tokio::time::timeout(READY_TIMEOUT, events.try_next()).await.unwrap() {
        Ok(Some(WatchEvent::Error(status))) => assert_eq!(status.code, 410),
        Err(error) => assert_eq!(code(error), 410),
        other => panic!("wanted 410, got {other:?}"),
    }
    let mut events = watcher(api, watcher::Config::default().fields("metadata.name=a"))
        .default_backoff()
        .applied_objects()
        .boxed();
    let found = tokio::time::timeout(READY_TIMEOUT, events.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(found.data.unwrap()["value"], "2099");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_moment() {
    let server = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    for i in 0..25 {
        api.create(&PostParams::default(), &settings(&format!("c{i:02}"), "x")).await.unwrap();
    }
    let (mut names, mut params) = (Vec::new(), ListParams::default().limit(10).labels("of=test"));
    let mut versions = Vec::new();
    loop {
        let page = api.list(&params).await.unwrap();
        versions.push(page.metadata.resource_version.clone());
        names.extend(page.items.iter().map(|item| item.name_any()));
        // What is made between the pages is not on them.
        let _ = api.create(&PostParams::default(), &settings("c99", "x")).await;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, (0..25).map(|i| format!("c{i:02}")).collect::<Vec<_>>());
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]},
        }},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_patches_and_subresources() {
    let server = Server::start().await;
    let client: Client = server.client().await;
    let api: Api<Deployment> = Api::default_namespaced(client);
    let apply = |replicas, image| Patch::Apply(deployment(replicas, image));
    let (ours, other) = (PatchParams::apply("ours"), PatchParams::apply("other"));
    api.patch("web", &ours, &apply(1, "i:1")).await.unwrap();
    assert_eq!(code(api.patch("web", &other, &apply(2, "i:1")).await.unwrap_err()), 409);
    let forced = api.patch("web", &other.clone().force(), &apply(2, "i:1")).await.unwrap();
    assert_eq!(forced.spec.as_ref().unwrap().replicas, Some(2));
    let strategic = Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}}),
    );
    let patched = api.patch("web", &PatchParams::default(), &strategic).await.unwrap();
    let container = &patched.spec.unwrap().template.spec.unwrap().containers[0];
    assert_eq!((container.image.as_deref(), container.env.as_ref().map(Vec::len)), (Some("i:1"), Some(1)));
    let json_patch: Patch<Deployment> = Patch::Json(
        serde_json::from_value(json!([{"op": "test", "path": "/spec/replicas", "value": 7}])).unwrap(),
    );
    assert_eq!(code(api.patch("web", &PatchParams::default(), &json_patch).await.unwrap_err()), 422);
    let status = Patch::Merge(json!({"status": {"replicas": 2}, "spec": {"replicas": 9}}));
    let shown = api.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((shown.spec.unwrap().replicas, shown.status.unwrap().replicas), (Some(2), Some(2)));
    let scaled = api
        .patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 4}})))
        .await;
    assert_eq!(scaled.unwrap().spec.unwrap().replicas, Some(4));
    assert_eq!(api.get_scale("web").await.unwrap().spec.unwrap().replicas, Some(4));
    assert_eq!(api.get_metadata("web").await.unwrap().name_any(), "web");
    let mut stale = api.get("web").await.unwrap();
    api.patch("web", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"n": "1"}}})))
        .await
        .unwrap();
    stale.spec.as_mut().unwrap().paused = Some(true);
    assert_eq!(code(api.replace("web", &PostParams::default(), &stale).await.unwrap_err()), 409);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    stale.metadata.resource_version = None;
    assert_eq!(api.replace("web", &dry, &stale).await.unwrap().spec.unwrap().paused, Some(true));
    assert_eq!(api.get("web").await.unwrap().spec.unwrap().paused, None);
    api.delete("web", &DeleteParams::foreground()).await.unwrap();
}

/// Owners of a path, as `manager:operation:subresource`.
fn owners(object: &impl kube::Resource, path: &[&str]) -> Vec<String> {
    let managers = object.meta().managed_fields.iter().flatten();
    let owns = |fields: &Value| path.iter().try_fold(fields, |fields, name| fields.get(*name)).is_some();
    let found = managers.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)));
    let shown = found.map(|entry| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}:{}:{}", text(&entry.manager), text(&entry.operation), text(&entry.subresource))
    });
    shown.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_are_applied() {
    let server = Server::start().await;
    let deployments: Api<Deployment> = Api::default_namespaced(server.client().await);
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    deployments.patch("web", &one, &Patch::Apply(deployment(1, "i"))).await.unwrap();
    let scale = |replicas: i32| {
        Patch::Apply(json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": replicas},
        }))
    };
    assert_eq!(code(deployments.patch_scale("web", &two, &scale(2)).await.unwrap_err()), 409);
    let scaled = deployments.patch_scale("web", &two.clone().force(), &scale(2)).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(2));
    let replicas = ["f:spec", "f:replicas"];
    assert_eq!(owners(&deployments.get("web").await.unwrap(), &replicas), ["two:Apply:scale"]);
    // As upstream: replicas that their only owner gives up have no owner and become zero.
    let empty =
        Patch::Apply(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}}));
    deployments.patch_scale("web", &two, &empty).await.unwrap();
    let after = deployments.get("web").await.unwrap();
    assert_eq!(owners(&after, &replicas), [""; 0]);
    assert_eq!(after.spec.unwrap().replicas, Some(0));

    let accounts: Api<ServiceAccount> = Api::default_namespaced(server.client().await);
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(server.client().await);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]},
    }))
    .unwrap();
    pods.create(&PostParams { field_manager: Some("maker".into()), ..PostParams::default() }, &pod)
        .await
        .unwrap();
    let config = |spec: Value| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}))
    };
    let debug = config(json!({"ephemeralContainers": [{"name": "x", "image": "i"}]}));
    let debugged = pods.patch_subresource("ephemeralcontainers", "p", &two, &debug).await.unwrap();
    let container = ["f:spec", "f:ephemeralContainers", "k:{\"name\":\"x\"}", "f:image"];
    assert_eq!(owners(&debugged, &container), ["two:Apply:ephemeralcontainers"]);
    let resources = config(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}));
    assert_eq!(code(pods.patch_subresource("resize", "p", &two, &resources).await.unwrap_err()), 409);
    let forced = two.clone().force();
    let resized = pods.patch_subresource("resize", "p", &forced, &resources).await.unwrap();
    let cpu = ["f:spec", "f:containers", "k:{\"name\":\"c\"}", "f:resources", "f:requests", "f:cpu"];
    assert_eq!(owners(&resized, &cpu), ["two:Apply:resize"]);
    for subresource in ["binding", "eviction"] {
        let refused = pods.patch_subresource(subresource, "p", &two, &debug).await.unwrap_err();
        assert_eq!(code(refused), 405, "{subresource}");
    }
}
