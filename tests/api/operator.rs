//! An operator as they are written with kube-rs: a definition, a controller, server-side apply, status, a finalizer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config, ResourceExt as _};
use serde_json::json;

use crate::custom::DEFINITION;
use crate::harness::Server;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

async fn client(server: &Server) -> Client {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn crontabs(client: &Client) -> (Api<DynamicObject>, ApiResource) {
    let kind = GroupVersionKind::gvk("stable.example.com", "v1", "CronTab");
    let resource = ApiResource::from_gvk(&kind);
    (Api::namespaced_with(client.clone(), "default", &resource), resource)
}

async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let yaml = serde_saphyr::from_str::<serde_json::Value>(DEFINITION).unwrap();
    let definition: CustomResourceDefinition = serde_json::from_value(yaml).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established =
        await_condition(definitions, "crontabs.stable.example.com", conditions::is_crd_established());
    tokio::time::timeout(READY_TIMEOUT, established).await.unwrap().unwrap();
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

struct Context {
    client: Client,
    resource: ApiResource,
}

async fn reconcile(crontab: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, Failed> {
    let api = Api::namespaced_with(context.client.clone(), "default", &context.resource);
    let configs: Api<ConfigMap> = Api::namespaced(context.client.clone(), "default");
    let done = finalizer(&api, "example.com/cleanup", crontab, |event| async {
        match event {
            Event::Apply(crontab) => apply(&api, &configs, &crontab).await,
            Event::Cleanup(crontab) => {
                let name = crontab.name_any();
                configs.delete(&name, &DeleteParams::default()).await.map(|_| Action::await_change())
            }
        }
    });
    done.await.map_err(|error| Failed(error.to_string()))
}

/// The wanted ConfigMap by server-side apply, then the status.
async fn apply(
    api: &Api<DynamicObject>,
    configs: &Api<ConfigMap>,
    crontab: &DynamicObject,
) -> kube::Result<Action> {
    let name = crontab.name_any();
    let params = PatchParams::apply("operator").force();
    let replicas = crontab.data["spec"]["replicas"].as_i64().unwrap_or(0);
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"replicas": replicas.to_string()},
    });
    configs.patch(&name, &params, &Patch::Apply(config)).await?;
    let status = json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "status": {"replicas": replicas, "selector": "app=x", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    api.patch_status(&name, &params, &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

/// Waits until a reflector's store holds what is wanted.
async fn until(
    store: &reflector::Store<DynamicObject>,
    what: &str,
    holds: impl Fn(&[Arc<DynamicObject>]) -> bool,
) {
    let wait = async {
        while !holds(&store.state()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(READY_TIMEOUT, wait).await.is_ok(), "{what}: {:?}", store.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_its_work() {
    let server = Server::start().await;
    let client = client(&server).await;
    define(&client).await;
    let (api, resource) = crontabs(&client);
    let context = Arc::new(Context { client: client.clone(), resource: resource.clone() });
    let controller =
        Controller::new_with(api.clone(), watcher::Config::default().streaming_lists(), resource.clone());
    let controller =
        controller.run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context);
    let controller = tokio::spawn(controller.for_each(|done| async {
        if let Err(error) = done {
            eprintln!("{error:?}");
        }
    }));
    let writer = reflector::store::Writer::new(resource.clone());
    let store = writer.as_reader();
    let events =
        watcher(api.clone(), watcher::Config::default()).default_backoff().reflect(writer).applied_objects();
    let following = tokio::spawn(events.for_each(|_| async {}));

    let crontab: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": {"cron": "0 3 * * *"},
    }))
    .unwrap();
    api.create(&PostParams::default(), &crontab).await.unwrap();
    let ready = |replicas: i64| {
        move |all: &[Arc<DynamicObject>]| {
            all.iter().any(|o| o.data["status"]["replicas"].as_i64() == Some(replicas))
        }
    };
    until(&store, "the status follows the default", ready(1)).await;
    let generation = api.get("a").await.unwrap().metadata.generation;
    let scale = api.get_scale("a").await.unwrap();
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("app=x"));
    api.patch_scale("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}})))
        .await
        .unwrap();
    until(&store, "the status follows the scale", ready(3)).await;
    let now = api.get("a").await.unwrap();
    assert_eq!(
        now.metadata.generation,
        generation.map(|generation| generation + 1),
        "only the scale changed the specification"
    );
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    assert_eq!(configs.get("a").await.unwrap().data.unwrap()["replicas"], "3");
    assert_eq!(api.list(&ListParams::default().fields("spec.color=red")).await.unwrap().items.len(), 0);

    api.delete("a", &DeleteParams::default()).await.unwrap();
    until(&store, "the finalizer lets it go", |all| all.is_empty()).await;
    assert!(configs.get_opt("a").await.unwrap().is_none(), "the operator cleaned up");
    controller.abort();
    following.abort();
}
