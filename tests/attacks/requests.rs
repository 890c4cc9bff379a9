//! Bodies, patches and objects that are made to hurt: each is refused or bounded, and the server goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};
use skep_store::embedded::EmbeddedStore;
use skep_store::{Expect, Store as _};
use skep_tests::api_server::TestApiServer;

/// How long others may wait while the server works on a hostile request.
const OTHERS_WAIT: Duration = Duration::from_secs(1);
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// Sends a request and returns the code and the answer.
async fn send(client: &Client, method: &str, path: &str, media_type: &str, body: String) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", media_type);
    let request = request.body(kube::client::Body::from(body.into_bytes())).unwrap();
    let (parts, body) = client.send(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn post(client: &Client, path: &str, object: &Value) -> (u16, Value) {
    send(client, "POST", path, JSON, object.to_string()).await
}

async fn get(client: &Client, path: &str) -> (u16, Value) {
    send(client, "GET", path, JSON, String::new()).await
}

/// Runs hostile requests; a ping each 20 ms must be answered in time meanwhile.
async fn while_others_are_served<T>(client: &Client, hostile: impl Future<Output = T>) -> T {
    let pings = async {
        loop {
            let start = Instant::now();
            let (code, _) = get(client, "/api/v1/namespaces/default").await;
            let took = start.elapsed();
            assert!(code == 200 && took < OTHERS_WAIT, "a get of another client took {took:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = hostile => done,
        () = pings => unreachable!("the pings have no end"),
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server whose default namespace may have pods.
async fn with_account() -> (TestApiServer, Client) {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(post(&client, accounts, &json!({"metadata": {"name": "default"}})).await.0, 201);
    (server, client)
}

async fn with_config_map() -> (TestApiServer, Client) {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let (code, answer) = post(&client, CONFIG_MAPS, &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(code, 201, "{answer}");
    (server, client)
}

/// A JSON patch whose copies double the depth of a chain each time.
fn doubling_chain(levels: usize) -> String {
    let chain = (1..120).fold(json!({}), |inner, _| json!({"a": inner}));
    let (mut depth, mut operations) = (120, vec![json!({"op": "add", "path": "/zz", "value": chain})]);
    while depth < levels {
        let path = format!("/zz{}", "/a".repeat(depth));
        operations.push(json!({"op": "copy", "from": "/zz", "path": path}));
        depth *= 2;
    }
    Value::from(operations).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_that_doubles_the_depth_is_refused() {
    let (_server, client) = with_config_map().await;
    let path = format!("{CONFIG_MAPS}/a");
    let (code, answer) = send(&client, "PATCH", &path, JSON_PATCH, doubling_chain(30_000)).await;
    assert_eq!((code, &answer["reason"]), (422, &json!("Invalid")), "{answer}");
    let deep = (0..120).fold(json!(1), |inner, _| json!({"a": inner}));
    let (code, answer) = send(&client, "PATCH", &path, MERGE_PATCH, json!({"zz": deep}).to_string()).await;
    assert_eq!(code, 422, "{answer}");
    let (code, answer) = post(&client, CONFIG_MAPS, &json!({"metadata": {"name": "b"}, "zz": deep})).await;
    assert_eq!(code, 400, "{answer}");
    assert_eq!(get(&client, &path).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_that_move_long_lists_hold_up_nobody() {
    let (_server, client) = with_config_map().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut operations = vec![json!({"op": "add", "path": "/zz", "value": vec![0; 700_000]})];
    operations.extend(vec![json!({"op": "add", "path": "/zz/0", "value": 0}); 9_000]);
    let body = Value::from(operations).to_string();
    let patch = || send(&client, "PATCH", &path, JSON_PATCH, body.clone());
    let ((first, answer), (second, _)) =
        while_others_are_served(&client, async { tokio::join!(patch(), patch()) }).await;
    assert_eq!((first, second, &answer["reason"]), (413, 413, &json!("RequestEntityTooLarge")), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strategic_merge_of_long_lists_holds_up_nobody() {
    let (_server, client) = with_config_map().await;
    let path = format!("{CONFIG_MAPS}/a");
    let finalizers: Vec<String> = (0..100_000).map(|n| format!("f/{n}")).collect();
    let body = json!({"metadata": {
        "finalizers": finalizers, "$setElementOrder/finalizers": finalizers, "$deleteFromPrimitiveList/finalizers": finalizers,
    }})
    .to_string();
    let (code, answer) =
        while_others_are_served(&client, send(&client, "PATCH", &path, STRATEGIC_PATCH, body)).await;
    assert!(matches!(code, 200 | 413 | 422), "{code} {answer}");
}

fn pod(name: &str, more: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "c:1"}]});
    set_fields(&mut spec, more);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn set_fields(object: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_stored_that_typed_readers_cannot_decode() {
    let (_server, client) = with_account().await;
    for (spec, wanted) in [
        (
            json!({"terminationGracePeriodSeconds": 30.0}),
            "json: cannot unmarshal number 30.0 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            json!({"activeDeadlineSeconds": u64::MAX}),
            "cannot unmarshal number 18446744073709551615 into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64",
        ),
        (
            json!({"containers": [{"name": "c", "image": "c", "livenessProbe": {"tcpSocket": {"port": 5_000_000_000_u64}}}]}),
            "cannot unmarshal number 5000000000 into Go struct field TCPSocketAction.spec.containers.livenessProbe.tcpSocket.port of type int32",
        ),
    ] {
        let (code, answer) = post(&client, PODS, &pod("a", &spec)).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 400 && message.contains(wanted), "{code} {message}");
    }
    assert_eq!(post(&client, PODS, &pod("a", &json!({}))).await.0, 201);
    let path = format!("{PODS}/a");
    for (media_type, patch) in [
        (MERGE_PATCH, json!({"metadata": {"generation": 1.0}})),
        (STRATEGIC_PATCH, json!({"spec": {"activeDeadlineSeconds": 1.5}})),
        (JSON_PATCH, json!([{"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 2.0}])),
    ] {
        let (code, answer) = send(&client, "PATCH", &path, media_type, patch.to_string()).await;
        assert_eq!(code, 400, "{answer}");
    }
    let (code, answer) = get(&client, PODS).await;
    assert_eq!((code, answer["items"].as_array().map(Vec::len)), (200, Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base64_with_line_breaks_is_stored_without_them() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "data": {"k": "QUJD\nREVG\n"}});
    let (code, answer) = post(&client, secrets, &secret).await;
    assert_eq!((code, &answer["data"]["k"]), (201, &json!("QUJDREVG")), "{answer}");
    let secret = json!({"metadata": {"name": "t"}, "data": {"k": "QUJD REVG"}});
    let (code, answer) = post(&client, secrets, &secret).await;
    assert!(code == 400 && answer.to_string().contains("illegal base64 data at input byte 4"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_types_at_their_ends_are_answered() {
    let (_server, client) = with_account().await;
    let watch = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds={}", u64::MAX);
    let request = Request::get(&watch).body(kube::client::Body::empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status(), 200);
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    for body in [json!({"spec": "x"}), json!({"spec": {"audiences": "x"}}), json!({"metadata": []})] {
        let (code, answer) = post(&client, token, &body).await;
        assert_eq!(code, 400, "{answer}");
    }
    assert_eq!(post(&client, PODS, &pod("a", &json!({}))).await.0, 201);
    for (subresource, body) in [
        ("eviction", json!({"deleteOptions": {"gracePeriodSeconds": 1.5}})),
        ("binding", json!({"target": []})),
    ] {
        let (code, answer) = post(&client, &format!("{PODS}/a/{subresource}"), &body).await;
        assert_eq!(code, 400, "{answer}");
    }
}

/// A server that enforces a pod security standard in its default namespace, with one pod that conforms.
async fn restricted() -> (TestApiServer, Client) {
    let (server, client) = with_account().await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let namespace = "/api/v1/namespaces/default";
    assert_eq!(send(&client, "PATCH", namespace, MERGE_PATCH, label.to_string()).await.0, 200);
    let (code, answer) = post(&client, PODS, &pod("a", &json!({}))).await;
    assert_eq!(code, 201, "{answer}");
    (server, client)
}

async fn set_ephemeral(client: &Client, containers: Value) -> (u16, Value) {
    let path = format!("{PODS}/a/ephemeralcontainers");
    let patch = json!({"spec": {"ephemeralContainers": containers}});
    send(client, "PATCH", &path, MERGE_PATCH, patch.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subresources_store_nothing_that_the_object_itself_could_not_have() {
    let (_server, client) = restricted().await;
    for (containers, wanted) in [
        (json!(7), 400),
        (json!([{"name": 7}]), 400),
        (json!([{"name": "../../../../tmp/x", "image": "x"}]), 422),
        (json!([{"name": "c", "image": "x"}]), 422),
        (json!([{"name": "e", "image": "x"}, {"name": "e", "image": "y"}]), 422),
        (json!([{"name": "e", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}}]), 422),
    ] {
        let (code, answer) = set_ephemeral(&client, containers.clone()).await;
        assert_eq!(code, wanted, "{containers}: {answer}");
    }
    for resources in [json!("nonsense"), json!({"limits": 7}), json!({"limits": {"cpu": "much"}})] {
        let patch = json!({"spec": {"containers": [{"name": "c", "image": "c:1", "resources": resources}]}});
        let path = format!("{PODS}/a/resize");
        let (code, answer) = send(&client, "PATCH", &path, MERGE_PATCH, patch.to_string()).await;
        assert_eq!(code, 400, "{answer}");
    }
    let (_, pod) = get(&client, &format!("{PODS}/a")).await;
    assert!(pod["spec"].get("ephemeralContainers").is_none(), "{pod}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_security_sees_every_ephemeral_container() {
    let (_server, client) = restricted().await;
    let privileged = json!({"name": "e", "image": "x", "securityContext": {"privileged": true}});
    let harmless = json!({"name": "e", "image": "x"});
    assert_eq!(set_ephemeral(&client, json!([privileged])).await.0, 403);
    let (code, answer) = set_ephemeral(&client, json!([harmless])).await;
    assert_eq!(code, 200, "{answer}");
    for containers in
        [json!([privileged, harmless]), json!([privileged]), json!([harmless, privileged]), json!([])]
    {
        let (code, answer) = set_ephemeral(&client, containers.clone()).await;
        assert!(matches!(code, 403 | 422), "{containers}: {answer}");
    }
    let other = json!({"name": "f", "image": "x", "securityContext": {"privileged": true}});
    assert_eq!(set_ephemeral(&client, json!([harmless, other])).await.0, 403);
    let sound = json!({"name": "f", "image": "x"});
    let (code, answer) = set_ephemeral(&client, json!([harmless, sound])).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_object_that_cannot_be_read_is_left_out_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    let put = async |name: &str, value: String| {
        let key = format!("/registry/configmaps/default/{name}");
        store.put(&key, value.into_bytes().into(), Expect::Absent).await.unwrap();
    };
    let deep = format!(r#"{{"metadata":{{"name":"deep"}},"x":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    put("deep", deep).await;
    let server = TestApiServer::start_on(store.clone()).await.unwrap();
    let client = server.client();
    put("torn", r#"{"metadata":{"name":"to"#.to_owned()).await;
    assert_eq!(post(&client, CONFIG_MAPS, &json!({"metadata": {"name": "sound"}})).await.0, 201);
    let names = async || -> Vec<String> {
        let (_, list) = get(&client, CONFIG_MAPS).await;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names().await, ["sound"]);
    for name in ["deep", "torn"] {
        let path = format!("{CONFIG_MAPS}/{name}");
        let (code, answer) = get(&client, &path).await;
        let names_it = answer["message"]
            .as_str()
            .is_some_and(|message| message.contains(&format!("/registry/configmaps/default/{name}")));
        assert!(code == 500 && names_it, "{answer}");
        let patch = json!({"data": {"a": "b"}}).to_string();
        assert_eq!(send(&client, "PATCH", &path, MERGE_PATCH, patch).await.0, 500);
    }
    let request = Request::get("/metrics").body(Vec::new()).unwrap();
    let metrics = client.request_text(request).await.unwrap();
    assert!(metrics.contains("apiserver_unreadable_objects{resource=\"configmaps\"} 2"));
    for name in ["deep", "torn"] {
        let path = format!("{CONFIG_MAPS}/{name}");
        let (code, answer) = send(&client, "DELETE", &path, JSON, String::new()).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(post(&client, CONFIG_MAPS, &json!({"metadata": {"name": name}})).await.0, 201);
    }
    assert_eq!(names().await, ["deep", "sound", "torn"]);
}
