//! An API server as small as the agent's tests need: objects in memory, list, watch, merge patch, graceful pod deletion.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Objects by path, such as `/api/v1/namespaces/default/pods/web`.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<Objects>>,
    revision: Arc<watch::Sender<u64>>,
    /// False while the server plays dead.
    up: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Objects {
    live: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, String, Value)>,
}

struct Target {
    collection: String,
    name: Option<String>,
    sub: Option<String>,
}

impl FakeApi {
    pub(crate) fn new() -> FakeApi {
        FakeApi {
            state: Arc::default(),
            revision: Arc::new(watch::Sender::new(1)),
            up: Arc::new(watch::Sender::new(true)),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let router = Router::new().fallback(handle).with_state(self.clone());
        kube::Client::new(router, "default")
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.lock().live.get(path).cloned()
    }

    /// Objects whose path begins so.
    pub(crate) fn list(&self, prefix: &str) -> Vec<Value> {
        self.lock().live.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, v)| v.clone()).collect()
    }

    pub(crate) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.lock();
        let revision = *self.revision.borrow() + 1;
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{revision}-{}", std::process::id()));
            meta["creationTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        meta["resourceVersion"] = json!(revision.to_string());
        let kind =
            if state.live.insert(path.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.log.push((revision, kind, path.to_owned(), object.clone()));
        self.revision.send_modify(|r| *r += 1);
        object
    }

    pub(crate) fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.lock();
        let object = state.live.remove(path)?;
        let revision = *self.revision.borrow() + 1;
        state.log.push((revision, "DELETED", path.to_owned(), object.clone()));
        self.revision.send_modify(|r| *r += 1);
        Some(object)
    }

    /// Asks for a pod's deletion as a user does.
    pub(crate) fn delete_pod(&self, path: &str, grace: i64) {
        let Some(mut pod) = self.get(path) else { return };
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(path, pod);
    }

    /// Waits until `test` holds for the object at `path`.
    pub(crate) async fn wait(
        &self,
        path: &str,
        what: &str,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> anyhow::Result<()> {
        let mut changes = self.revision.subscribe();
        let waiting = async {
            while !test(self.get(path).as_ref()) {
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await {
            Ok(()) => Ok(()),
            Err(_) => anyhow::bail!("{what} did not come: {:#?}", self.get(path)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (root, rest) = match parts.first()? {
        &"api" => parts.split_at_checked(2)?,
        _ => parts.split_at_checked(3)?,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(namespace), rest),
        other => (None, other),
    };
    let (plural, rest) = rest.split_first()?;
    let mut collection = format!("/{}", root.join("/"));
    if let Some(namespace) = namespace {
        collection.push_str(&format!("/namespaces/{namespace}"));
    }
    collection.push_str(&format!("/{plural}"));
    Some(Target {
        collection,
        name: rest.first().map(|n| (*n).to_owned()),
        sub: rest.get(1).map(|n| (*n).to_owned()),
    })
}

fn answer(code: u16, body: Value) -> Response {
    let body = Body::from(body.to_string());
    Response::builder().status(code).header("content-type", "application/json").body(body).expect("response")
}

fn failure(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason});
    answer(code, status)
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

async fn handle(State(api): State<FakeApi>, request: Request) -> Result<Response, Infallible> {
    if !*api.up.borrow() {
        // Like a server that is not there: no Status, so the client sees no answer of the API.
        return Ok(Response::builder().status(503).body(Body::from("down")).expect("response"));
    }
    let (parts, body) = request.into_parts();
    let Some(target) = parse(parts.uri.path()) else { return Ok(failure(404, "NotFound")) };
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")))
        .collect();
    let bytes = axum::body::to_bytes(body, 10 << 20).await.unwrap_or_else(|_| Bytes::new());
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(api.serve(parts.method.as_str(), &target, &query, body))
}

impl FakeApi {
    fn serve(
        &self,
        method: &str,
        target: &Target,
        query: &BTreeMap<String, String>,
        body: Value,
    ) -> Response {
        let path = target.name.as_ref().map(|name| format!("{}/{name}", target.collection));
        match (method, path) {
            ("GET", None) if query.contains_key("watch") => self.watch(target, query),
            ("GET", None) => {
                let items: Vec<Value> = self
                    .lock()
                    .live
                    .iter()
                    .filter(|(path, object)| within(path, &target.collection) && selected(object, query))
                    .map(|(_, object)| object.clone())
                    .collect();
                let revision = self.revision.borrow().to_string();
                answer(
                    200,
                    json!({"kind": "List", "apiVersion": "v1",
                    "metadata": {"resourceVersion": revision}, "items": items}),
                )
            }
            ("GET", Some(path)) => {
                self.get(&path).map_or_else(|| failure(404, "NotFound"), |o| answer(200, o))
            }
            ("POST", Some(_)) if target.sub.as_deref() == Some("token") => {
                let status = json!({"token": "a.test.token", "expirationTimestamp": "2999-01-01T00:00:00Z"});
                answer(
                    201,
                    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                    "metadata": {}, "spec": {"audiences": []}, "status": status}),
                )
            }
            ("POST", None) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                answer(201, self.put(&format!("{}/{name}", target.collection), body))
            }
            ("PUT", Some(path)) => answer(200, self.put(&path, body)),
            ("PATCH", Some(path)) => self.patch(&path, &body),
            ("DELETE", Some(path)) => {
                self.remove(&path).map_or_else(|| failure(404, "NotFound"), |o| answer(200, o))
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn patch(&self, path: &str, body: &Value) -> Response {
        let Some(mut object) = self.get(path) else { return failure(404, "NotFound") };
        let wanted = &body["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        merge(&mut object, body);
        answer(200, self.put(path, object))
    }

    fn watch(&self, target: &Target, query: &BTreeMap<String, String>) -> Response {
        let after: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let (api, collection, query) = (self.clone(), target.collection.clone(), query.clone());
        let (changes, up) = (self.revision.subscribe(), self.up.subscribe());
        let start = (after, changes, up);
        let stream = futures::stream::unfold(start, move |(after, mut changes, mut up)| {
            let (api, collection, query) = (api.clone(), collection.clone(), query.clone());
            async move {
                loop {
                    let events: Vec<(u64, String)> = api
                        .lock()
                        .log
                        .iter()
                        .filter(|(revision, ..)| *revision > after)
                        .filter(|(_, _, path, object)| within(path, &collection) && selected(object, &query))
                        .map(|(revision, kind, _, object)| {
                            (*revision, format!("{}\n", json!({"type": kind, "object": object})))
                        })
                        .collect();
                    if let Some((last, _)) = events.last() {
                        let last = *last;
                        let text: String = events.into_iter().map(|(_, line)| line).collect();
                        return Some((Ok::<_, Infallible>(text), (last, changes, up)));
                    }
                    tokio::select! {
                        changed = changes.changed() => { changed.ok()?; }
                        _ = up.wait_for(|up| !*up) => return None,
                    }
                }
            }
        });
        Response::builder()
            .header("content-type", "application/json")
            .body(Body::from_stream(stream.boxed()))
            .expect("response")
    }
}

/// The path lies in the collection, or in that collection of any namespace.
fn within(path: &str, collection: &str) -> bool {
    let Some((own, _)) = path.rsplit_once('/') else { return false };
    if own == collection {
        return true;
    }
    let (root, plural) = collection.rsplit_once('/').unwrap_or_default();
    !collection.contains("/namespaces/")
        && own.strip_prefix(&format!("{root}/namespaces/")).and_then(|r| r.split_once('/')).map(|r| r.1)
            == Some(plural)
}

fn selected(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let Some(selector) = query.get("fieldSelector") else { return true };
    selector.split(',').all(|term| {
        let (path, wanted) = term.split_once('=').unwrap_or((term, ""));
        let found = path.split('.').fold(object, |value, part| &value[part]);
        found.as_str().unwrap_or_default() == wanted
    })
}
