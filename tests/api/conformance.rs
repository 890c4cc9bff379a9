//! Behaviour that Kubernetes' conformance suite asks of the API server alone.

use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use skep_tests::api_server::TestApiServer;

/// Sends a request; the answer's status, and its body as JSON.
async fn send(client: &Client, request: http::request::Builder, body: &str) -> (u16, Value) {
    let answer = client.send(request.body(Body::from(body.to_owned().into_bytes())).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(client: &Client, path: &str) -> (u16, Value) {
    send(client, Request::get(path), "").await
}

async fn post(client: &Client, path: &str, object: &Value) -> Value {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json");
    let (code, answer) = send(client, request, &object.to_string()).await;
    assert!((200..300).contains(&code), "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_list_goes_on_behind_the_last_key_that_was_sent() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let path = "/api/v1/namespaces/default/podtemplates";
    for number in 0..10 {
        let template = json!({"metadata": {"name": format!("t-{number}")},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        post(&client, path, &template).await;
    }
    let names = |page: &Value| -> String {
        let items = page["items"].as_array().into_iter().flatten();
        items.filter_map(|item| item["metadata"]["name"].as_str()?.strip_prefix("t-")).collect()
    };
    let (_, first) = get(&client, &format!("{path}?limit=4")).await;
    assert_eq!((names(&first).as_str(), &first["metadata"]["remainingItemCount"]), ("0123", &json!(6)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    // The kind stays quiet, so its cache still has the first page's revision when the store has forgotten it.
    let other = json!({"metadata": {"name": "other"}});
    let now = post(&client, "/api/v1/namespaces/default/configmaps", &other).await;
    let revision: u64 = now["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.store().compact(revision).await.unwrap();
    let (code, expired) = get(&client, &format!("{path}?limit=4&continue={token}")).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")), "{expired}");
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let (code, second) = get(&client, &format!("{path}?limit=4&continue={token}")).await;
    assert_eq!((code, names(&second).as_str()), (200, "4567"), "{second}");
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 2);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let (_, third) = get(&client, &format!("{path}?limit=4&continue={token}")).await;
    assert_eq!(third["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!((names(&third).as_str(), &third["metadata"]["continue"]), ("89", &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_has_no_table() {
    let server = TestApiServer::start().await.unwrap();
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    for (accept, expected) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", 406),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 406),
        ("application/json;as=Table;v=v1;g=meta.k8s.io, application/json", 406),
        ("application/json", 201),
    ] {
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json");
        assert_eq!(send(&server.client(), request, &review).await.0, expected, "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_yaml_body_has_twice_are_reported_with_their_line() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: twice\ndata:\n  a: first\n  a: second\n";
    let line = "line 7: key \"a\" already set in map";
    let apply = |validation: &str| {
        let path = format!("{path}/twice?fieldManager=m&fieldValidation={validation}");
        Request::patch(path).header(CONTENT_TYPE, "application/apply-patch+yaml")
    };
    let create = |validation: &str| {
        Request::post(format!("{path}?fieldValidation={validation}")).header(CONTENT_TYPE, "application/yaml")
    };
    let (code, refused) = send(&client, apply("Strict"), text).await;
    let message = format!(
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {line}"
    );
    assert_eq!((code, refused["message"].as_str()), (400, Some(message.as_str())));
    let (code, refused) = send(&client, create("Strict"), text).await;
    assert_eq!(code, 400);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with(&format!("strict decoding error: yaml: unmarshal errors:\n  {line}")),
        "{message}"
    );
    for request in [create("Warn"), apply("Warn"), apply("Ignore")] {
        let is_ignored = request.uri_ref().is_some_and(|uri| uri.to_string().contains("Ignore"));
        let answer =
            client.send(request.body(Body::from(text.to_owned().into_bytes())).unwrap()).await.unwrap();
        let warnings: Vec<_> =
            answer.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok()).collect();
        let quoted = format!("299 - \"{}\"", line.replace('"', "\\\""));
        let expected = if is_ignored { vec![] } else { vec![quoted.as_str()] };
        assert_eq!((answer.status().is_success(), &warnings), (true, &expected));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let object: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(object["data"]["a"], "second");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_may_change_the_metadata() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let collection = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "someone");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    let object = json!({"metadata": {"name": "r"}, "spec": {
        "request": encoded, "signerName": "example.com/any", "usages": ["client auth"]}});
    post(&client, collection, &object).await;
    let approved = json!({"type": "Approved", "status": "True", "reason": "r", "message": "m"});
    for (part, name) in [("approval", "approved"), ("status", "issued")] {
        let patch = json!({"metadata": {"annotations": {name: "yes"}}, "status": {"conditions": [approved]}});
        let path = format!("{collection}/r/{part}");
        let request = Request::patch(path).header(CONTENT_TYPE, "application/merge-patch+json");
        let (code, changed) = send(&client, request, &patch.to_string()).await;
        assert_eq!((code, &changed["metadata"]["annotations"][name]), (200, &json!("yes")), "{changed}");
    }
    let (_, stored) = get(&client, &format!("{collection}/r")).await;
    assert_eq!(stored["metadata"]["annotations"], json!({"approved": "yes", "issued": "yes"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_changes_in_a_pod_raises_its_generation_and_a_binding_does_not() {
    let server = TestApiServer::start().await.unwrap();
    let client = server.client();
    let collection = "/api/v1/namespaces/default";
    post(&client, &format!("{collection}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p", "generation": 100}, "spec": {
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}});
    let pods = format!("{collection}/pods");
    assert_eq!(post(&client, &pods, &pod).await["metadata"]["generation"], 1);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    post(&client, &format!("{pods}/p/binding"), &binding).await;
    let resources =
        |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    let container = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    for (part, patch, generation) in [
        ("", json!({}), 1),
        ("/status", json!({"status": {"phase": "Running"}}), 1),
        ("", json!({"metadata": {"annotations": {"a": "b"}, "generation": 7}}), 1),
        ("", json!({"spec": {"activeDeadlineSeconds": 5000}}), 2),
        ("", json!({"spec": {"containers": [{"name": "c", "image": "j"}]}}), 3),
        ("/resize", resources("2"), 4),
        ("/resize", resources("2000m"), 4),
        ("/ephemeralcontainers", container, 5),
    ] {
        let request = Request::patch(format!("{pods}/p{part}"));
        let request = request.header(CONTENT_TYPE, "application/strategic-merge-patch+json");
        let (code, changed) = send(&client, request, &patch.to_string()).await;
        assert_eq!(
            (code, &changed["metadata"]["generation"]),
            (200, &json!(generation)),
            "{part} {patch}: {changed}"
        );
    }
    let request = Request::delete(format!("{pods}/p?gracePeriodSeconds=60"));
    assert_eq!(send(&client, request, "").await.1["metadata"]["generation"], 6);
}
