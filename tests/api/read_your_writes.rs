//! What was acknowledged can be named by the next request, however busy the server is.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::core::discovery::ApiResource;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_tests::api_server::TestApiServer;

const WRITERS: usize = 64;
const ROUNDS: usize = 8;

fn parsed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A pod directly after everything that it names.
async fn pod_after_its_references(client: Client, name: String) -> kube::Result<()> {
    let params = PostParams::default();
    let named = json!({"metadata": {"name": name}});
    Api::<Namespace>::all(client.clone()).create(&params, &parsed(named.clone())).await?;
    Api::<ServiceAccount>::namespaced(client.clone(), &name).create(&params, &parsed(named)).await?;
    let class = json!({"metadata": {"name": name}, "value": 7});
    Api::<PriorityClass>::all(client.clone()).create(&params, &parsed(class)).await?;
    let runtime = json!({"metadata": {"name": name}, "handler": "runc"});
    Api::<RuntimeClass>::all(client.clone()).create(&params, &parsed(runtime)).await?;
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": name, "priorityClassName": name, "runtimeClassName": name,
            "containers": [{"name": "c", "image": "web:1"}],
        },
    });
    Api::<Pod>::namespaced(client, &name).create(&params, &parsed(pod)).await?;
    Ok(())
}

/// An instance directly after its definition.
async fn instance_after_its_definition(client: Client, number: usize) -> kube::Result<()> {
    let (group, plural) = ("soon.example.com", format!("things{number}"));
    let kind = format!("Thing{number}");
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Cluster", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &parsed(definition)).await?;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", &kind), &plural);
    let instance = DynamicObject::new("first", &resource);
    Api::all_with(client, &resource).create(&PostParams::default(), &instance).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_may_follow_its_definition_at_once() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let tasks = (0..16).map(|number| tokio::spawn(instance_after_its_definition(client.clone(), number)));
    for result in try_join_all(tasks).await.unwrap() {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_name_what_was_created_just_before_it() {
    let server = TestApiServer::start().await.unwrap();
    for round in 0..ROUNDS {
        let client = server.client();
        let pods = (0..WRITERS).map(|writer| {
            tokio::spawn(pod_after_its_references(client.clone(), format!("n-{round}-{writer}")))
        });
        for result in try_join_all(pods).await.unwrap() {
            result.unwrap();
        }
    }
}
