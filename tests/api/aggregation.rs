//! An aggregated API server: a made-up API over TLS that headers tell the requester; found by discovery, and missed
//! when it does not answer. Also what `proxy` passes on to services.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep_tests::api_server::Authority;
use skep_tests::far_end::{Answer, own_address, serve, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::broadcast;

use crate::harness::Server;

const WELL: u8 = 0;
/// Without aggregated discovery, as older servers are.
const OLD: u8 = 1;
const ILL: u8 = 2;

/// The far server's state.
struct Things {
    mood: AtomicU8,
    all: Mutex<BTreeMap<String, Value>>,
    changes: broadcast::Sender<Value>,
}

impl Things {
    fn new() -> Arc<Things> {
        let changes = broadcast::Sender::new(16);
        Arc::new(Things { mood: AtomicU8::new(WELL), all: Mutex::default(), changes })
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (path, accept) =
            (request.uri().path().to_owned(), format!("{:?}", request.headers().get("accept")));
        let mood = self.mood.load(Ordering::SeqCst);
        let aggregated = mood == WELL && accept.contains("as=APIGroupDiscoveryList");
        match path.trim_end_matches('/') {
            _ if mood == ILL => plain(StatusCode::INTERNAL_SERVER_ERROR, &json!("ill")),
            "/apis" if aggregated => {
                let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                let mut answer = plain(StatusCode::OK, &discovery());
                answer.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
                answer
            }
            "/apis/far.example.com/v1" => plain(StatusCode::OK, &resources()),
            "/openapi/v3" => {
                let entry = json!({"serverRelativeURL": "/openapi/v3/apis/far.example.com/v1?hash=F00"});
                plain(StatusCode::OK, &json!({"paths": {"apis/far.example.com/v1": entry}}))
            }
            "/openapi/v3/apis/far.example.com/v1" => plain(StatusCode::OK, &schema()),
            path => match path.strip_prefix("/apis/far.example.com/v1/namespaces/default/things") {
                Some(name) => self.things(name.trim_start_matches('/').to_owned(), request).await,
                None => {
                    plain(StatusCode::NOT_FOUND, &json!({"kind": "Status", "apiVersion": "v1", "code": 404}))
                }
            },
        }
    }

    async fn things(&self, name: String, mut request: Request<Incoming>) -> Answer {
        let told = told(request.headers());
        if request.uri().query().unwrap_or_default().contains("watch=") {
            return self.watch();
        }
        if request.headers().contains_key(UPGRADE) {
            return echo(&mut request);
        }
        match *request.method() {
            Method::POST => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut thing: Value = serde_json::from_slice(&body).unwrap();
                thing["told"] = told.into();
                let name = thing["metadata"]["name"].as_str().unwrap().to_owned();
                self.all.lock().unwrap().insert(name, thing.clone());
                // There may be no watcher.
                let _ = self.changes.send(thing.clone());
                plain(StatusCode::CREATED, &thing)
            }
            _ if name == "elsewhere" => {
                let mut answer = plain(StatusCode::FOUND, &json!({}));
                answer.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
                answer
            }
            _ if name.is_empty() => {
                let items: Vec<Value> = self.all.lock().unwrap().values().cloned().collect();
                let list = json!({"kind": "ThingList", "apiVersion": "far.example.com/v1", "metadata": {}, "items": items});
                plain(StatusCode::OK, &list)
            }
            _ => match self.all.lock().unwrap().get(&name) {
                Some(thing) => plain(StatusCode::OK, thing),
                None => plain(
                    StatusCode::NOT_FOUND,
                    &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                        "message": format!("no thing {name} here"), "code": 404}),
                ),
            },
        }
    }

    fn watch(&self) -> Answer {
        let changes = futures::stream::unfold(self.changes.subscribe(), |mut changes| async {
            let thing = changes.recv().await.ok()?;
            let line = format!("{}\n", json!({"type": "ADDED", "object": thing}));
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), changes))
        });
        Response::new(BodyExt::boxed(StreamBody::new(changes)))
    }
}

fn told(headers: &HeaderMap) -> String {
    let all =
        headers.iter().filter(|(name, _)| name.as_str().starts_with("x-remote-") || *name == "authorization");
    let mut all: Vec<String> =
        all.map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    all.sort();
    all.join(" ")
}

fn plain(code: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    answer
}

/// What is sent comes back.
fn echo(request: &mut Request<Incoming>) -> Answer {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        // It ends with the client.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
    answer.headers_mut().insert(UPGRADE, "echo".parse().unwrap());
    answer
}

fn discovery() -> Value {
    let kind = json!({"group": "far.example.com", "version": "v1", "kind": "Thing"});
    let resource = json!({"resource": "things", "responseKind": kind, "scope": "Namespaced",
        "singularResource": "thing", "verbs": ["create", "get", "list", "watch"], "shortNames": ["th"]});
    let versions = json!([{"version": "v1", "resources": [resource], "freshness": "Current"}]);
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{"metadata": {"name": "far.example.com"}, "versions": versions}]})
}

fn resources() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "far.example.com/v1", "resources": [
        {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["create",
            "get", "list", "watch"], "shortNames": ["th"]},
    ]})
}

fn schema() -> Value {
    let thing = json!({
        "type": "object", "description": "A thing that is far away.",
        "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "metadata": {"type": "object"}, "size": {"type": "integer"}},
        "x-kubernetes-group-version-kind": [{"group": "far.example.com", "version": "v1", "kind": "Thing"}],
    });
    let get = json!({"get": {"x-kubernetes-group-version-kind": {"group": "far.example.com",
        "version": "v1", "kind": "Thing"}, "responses": {"200": {"description": "OK",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}}}});
    json!({"openapi": "3.0.0", "info": {"title": "far", "version": "1"},
        "paths": {"/apis/far.example.com/v1/namespaces/{namespace}/things/{name}": get},
        "components": {"schemas": {"Thing": thing}}})
}

/// The Service, its endpoint and the APIService; `trust` is how its certificate is verified.
fn manifest(port: u16, trust: &str) -> String {
    let ip = own_address();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: far}}\nspec: {{ports: [{{name: https, port: 443}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: far-1, labels: {{kubernetes.io/service-name: far}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: [{ip}], targetRef: {{kind: Pod, namespace: default, name: far}}}}]\nports: [{{name: https, port: {port}}}]\n---\n\
         apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: v1.far.example.com}}\n\
         spec: {{group: far.example.com, version: v1, groupPriorityMinimum: 17850, versionPriority: 10, {trust}, service: {{namespace: default, name: far}}}}\n"
    )
}

async fn far(server: &Server, things: &Arc<Things>) -> (u16, String) {
    let ca = Authority::new().unwrap();
    let pem = ca.issue_for("far", "x", "far.default.svc").unwrap();
    let things = things.clone();
    let answer = move |request| {
        let things = things.clone();
        async move { things.answer(request).await }
    };
    let address = serve(own_address(), tls(&pem, Some(server.front_proxy_ca())), answer).await;
    (address.port(), STANDARD.encode(&ca.certificate))
}

const THING: &str = "apiVersion: far.example.com/v1\nkind: Thing\nmetadata: {name: moon}\nsize: 3\n";

#[tokio::test(flavor = "multi_thread")]
async fn another_servers_api_is_one_with_this_ones() {
    let server = Server::start().await;
    let things = Things::new();
    let (port, bundle) = far(&server, &things).await;
    let server = tokio::task::spawn_blocking(move || {
        becomes_available(&server, port, &bundle);
        serves_requests_with_the_requesters_identity(&server);
        server
    })
    .await
    .unwrap();
    streams(&server, &things).await;
    tokio::task::spawn_blocking(move || {
        fails_and_recovers(&server, &things);
        must_be_trusted(&server);
    })
    .await
    .unwrap();
}

fn becomes_available(server: &Server, port: u16, bundle: &str) {
    let available = "wait --for=condition=Available apiservice/v1.far.example.com --timeout=60s";
    let trust = format!("caBundle: {bundle}");
    // The order of creation does not matter: the APIService exists before its Service.
    let all = manifest(port, &trust);
    let (objects, api_service) = all.rsplit_once("---\n").unwrap();
    server.ok("create -f -", api_service, "created");
    let reason =
        "wait apiservice/v1.far.example.com --timeout=60s --for=jsonpath={.status.conditions[0].reason}=";
    server.ok(&format!("{reason}ServiceNotFound"), "", "condition met");
    server.fails("get --raw /apis/far.example.com/v1", "", "service/far in \"default\" is not present");
    server.ok("create -f -", objects, "created");
    server.ok(available, "", "condition met");
    server.ok("get apiservice v1.far.example.com", "", "default/far   True");
    // Discovery in all its forms; the group stands where its priority says.
    server.ok("api-resources --api-group=far.example.com --no-headers", "", "things   th");
    let groups = server.ok("get --raw /apis", "", "far.example.com/v1");
    let at = |group: &str| groups.find(&format!("\"{group}\"")).unwrap();
    assert!(at("apiregistration.k8s.io") < at("far.example.com") && at("far.example.com") < at("apps"));
    server.ok("get --raw /apis/far.example.com", "", "\"kind\":\"APIGroup\"");
    server.ok("get --raw /apis/far.example.com/v1", "", "\"kind\":\"APIResourceList\"");
    server.ok("explain thing.size", "", "FIELD: size <integer>");
}

fn serves_requests_with_the_requesters_identity(server: &Server) {
    // Objects pass through; headers name the requester, and only the headers of the server.
    server.ok("create -f - --validate=false", THING, "thing.far.example.com/moon created");
    let told = "get thing moon -o jsonpath={.told}";
    server.ok(
        told,
        "",
        "x-remote-group=system:authenticated x-remote-group=system:masters x-remote-user=admin",
    );
    server.ok("get things", "", "moon");
    server.fails("get thing mars", "", "no thing mars here");
    server.fails(
        "get things --as jane",
        "",
        "User \"jane\" cannot list resource \"things\" in API group \"far.example.com\"",
    );
    server.fails("get thing elsewhere", "", "attempted to redirect this request");
    let impersonated = THING.replace("moon", "sun");
    server.ok("create clusterrole far --verb=create,get --resource=things.far.example.com", "", "created");
    server.ok("create clusterrolebinding far --clusterrole=far --group=dev", "", "created");
    server.ok("create -f - --validate=false --as jane --as-group dev", &impersonated, "created");
    let told = server.ok("get thing sun -o jsonpath={.told}", "", "x-remote-user=jane");
    assert!(!told.contains("masters") && told.contains("x-remote-group=dev"), "{told}");
}

fn wait_for_reason(reason: &str) -> String {
    format!(
        "wait apiservice/v1.far.example.com --timeout=60s \
        --for=jsonpath={{.status.conditions[0].reason}}={reason}"
    )
}

fn fails_and_recovers(server: &Server, things: &Things) {
    // A server that does not answer is reported as unavailable; everything else continues.
    things.mood.store(ILL, Ordering::SeqCst);
    server.ok("annotate service far look=1", "", "annotated");
    server.ok(&wait_for_reason("FailedDiscoveryCheck"), "", "condition met");
    server.fails(
        "get --raw /apis/far.example.com/v1/namespaces/default/things",
        "",
        "APIService v1.far.example.com is not available",
    );
    server.ok("get configmaps", "", "");
    server.ok("api-resources --no-headers", "", "configmaps");
    // It recovers, and an older server's discovery serves as well.
    things.mood.store(OLD, Ordering::SeqCst);
    server.ok(&wait_for_reason("Passed"), "", "condition met");
    server.ok("get things", "", "moon");
}

fn must_be_trusted(server: &Server) {
    // A server with an unknown CA is not called, unless verification is off.
    let trust =
        |spec: &str| format!("patch apiservice v1.far.example.com --type=merge -p {{\"spec\":{spec}}}");
    server.ok(
        &trust(&format!("{{\"caBundle\":\"{}\"}}", STANDARD.encode(Authority::new().unwrap().certificate))),
        "",
        "patched",
    );
    server.ok(&wait_for_reason("FailedDiscoveryCheck"), "", "condition met");
    server.ok(&trust("{\"caBundle\":null,\"insecureSkipTLSVerify\":true}"), "", "patched");
    server.ok(&wait_for_reason("Passed"), "", "condition met");
    server.ok("get things", "", "moon");
    server.ok("delete apiservice v1.far.example.com", "", "deleted");
    server.ok("wait --for=delete apiservice/v1.far.example.com --timeout=30s", "", "");
    until(server, |groups| !groups.contains("far.example.com"));
    server.fails(
        "get --raw /apis/far.example.com/v1/namespaces/default/things",
        "",
        "could not find the requested resource",
    );
}

/// Waits until the groups of discovery meet a condition.
fn until(server: &Server, holds: impl Fn(&str) -> bool) {
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    while !holds(&server.ok("get --raw /apis", "", "APIGroupList")) {
        assert!(std::time::Instant::now() < limit, "discovery does not change as expected");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const PATH: &str = "/apis/far.example.com/v1/namespaces/default/things";

/// A response in pieces passes through piece by piece; headers that claim an identity do not.
async fn streams(server: &Server, things: &Things) {
    let client = server.client().await;
    let get =
        |path: String| Request::get(path).header("x-remote-user", "root").header("x-remote-group", "root");
    let watch = client.request_text(get(format!("{PATH}/moon")).body(Vec::new()).unwrap()).await.unwrap();
    assert!(watch.contains("x-remote-user=admin") && !watch.contains("=root"), "{watch}");
    let response = client.send(get(format!("{PATH}?watch=1")).body(kube::client::Body::empty()).unwrap());
    let mut watch = response.await.unwrap().into_body().into_data_stream();
    for name in ["one", "two"] {
        things.changes.send(json!({"name": name})).unwrap();
        let line = tokio::time::timeout(READY_TIMEOUT, watch.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap()["object"]["name"], name);
    }
    let mut connection = server.connect().await;
    let request = Request::get(format!("{PATH}/moon"))
        .header("host", "far")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "echo")
        .body(Full::<Bytes>::default());
    let answer = connection.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut pipe = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    pipe.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    tokio::time::timeout(READY_TIMEOUT, pipe.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_server_serves_is_registered() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        let wait = "wait --for=condition=Available --timeout=60s apiservice";
        server.ok(&format!("{wait}/v1.apps"), "", "condition met");
        server.ok("get apiservice v1. v2.autoscaling", "", "Local     True");
        server.ok("create -f -", crate::custom::DEFINITION, "created");
        server.ok("wait --for=create --timeout=60s apiservice/v1.stable.example.com", "", "");
        server.ok(&format!("{wait}/v1.stable.example.com"), "", "condition met");
        server.ok(
            "get apiservice v1.stable.example.com -o jsonpath={.spec}",
            "",
            "\"groupPriorityMinimum\":1000",
        );
        // It is kept for as long as the definition is there; what is made at the start is the user's afterwards.
        server.ok("delete apiservice v1.stable.example.com v1.apps", "", "deleted");
        server.ok("wait --for=create --timeout=60s apiservice/v1.stable.example.com", "", "");
        server.ok("delete crd crontabs.stable.example.com", "", "deleted");
        server.ok("wait --for=delete apiservice/v1.stable.example.com --timeout=60s", "", "");
        server.fails("get apiservice v1.apps", "", "not found");
        server.fails(
            "create -f -",
            "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: x}\nspec: \
            {group: g.io, version: v1, groupPriorityMinimum: 1, versionPriority: 1}\n",
            "must be `spec.version+\".\"+spec.group`: \"v1.g.io\"",
        );
        let trust = "get configmap -n kube-system extension-apiserver-authentication -o";
        server.ok(
            &format!(
                "{trust} \
            jsonpath={{.data.requestheader-username-headers}}{{.data.requestheader-allowed-names}}"
            ),
            "",
            "[\"X-Remote-User\"][\"front-proxy\"]",
        );
        server.ok(
            &format!("{trust} jsonpath={{.data.client-ca-file}}{{.data.requestheader-client-ca-file}}"),
            "",
            "BEGIN CERTIFICATE",
        );
    })
    .await
    .unwrap();
}

const POD: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\n---\n\
    apiVersion: v1\nkind: Pod\nmetadata: {name: far}\nspec: {containers: [{name: far, image: far}]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_service_is_reached_by_its_ports_and_its_links_stay_behind_the_proxy() {
    let server = Server::start().await;
    let pem = Authority::new().unwrap().issue_for("far", "x", "nobody.example.com").unwrap();
    let answer = |request: Request<Incoming>| async move {
        let uri = request.uri().to_string();
        let mut answer = plain(StatusCode::OK, &json!({"uri": uri, "told": told(request.headers())}));
        if uri == "/moved" {
            *answer.status_mut() = StatusCode::FOUND;
            answer.headers_mut().insert("location", "/here?x=1".parse().unwrap());
        }
        answer
    };
    let address = serve(own_address(), tls(&pem, None), answer).await;
    tokio::task::spawn_blocking(move || {
        let all = manifest(address.port(), "insecureSkipTLSVerify: true");
        let (objects, _) = all.rsplit_once("---\n").unwrap();
        server.ok("create -f -", objects, "created");
        server.ok("create -f -", POD, "created");
        let status = format!(
            "patch pod far --subresource=status -p {{\"status\":{{\"podIPs\":[{{\"ip\":\"{}\"}}]}}}}",
            own_address()
        );
        server.ok(&status, "", "patched");
        let proxy = "get --raw /api/v1/namespaces/default/services";
        for name in ["https:far:", "https:far:443", "https:far:https"] {
            server.ok(
                &format!("{proxy}/{name}/proxy/a//b/?c=d"),
                "",
                "{\"uri\":\"/a//b/?c=d\",\"told\":\"\"}",
            );
        }
        server.ok(&format!("{proxy}/https:far:443/proxy"), "", "\"uri\":\"/\"");
        server.ok(&format!("{proxy}/https:far:443/proxy/moved"), "", "\"uri\":\"/here?x=1\"");
        server.fails(
            &format!("{proxy}/https:far:80/proxy/"),
            "",
            "no service port 80 found for service \"far\"",
        );
        server.fails(&format!("{proxy}/ftp:far:80/proxy/"), "", "invalid service request \"ftp:far:80\"");
        server.ok("delete endpointslice far-1", "", "deleted");
        server.fails(
            &format!("{proxy}/https:far:443/proxy/"),
            "",
            "no endpoints available for service \"far\"",
        );
    })
    .await
    .unwrap();
}
