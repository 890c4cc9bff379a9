//! What was acknowledged can be named by the next request, however busy the server is.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::PostParams;
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
