//! An API server in memory, small but true in what controllers lean on: revisions, watches, finalizers, propagation,
//! preconditions, subresources and discovery. It is called through a real `kube::Client`, in process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
/// Plural, namespace, name.
type Place = (String, String, String);

/// (group/version, plural, kind, namespaced)
const RESOURCES: &[(&str, &str, &str, bool)] = &[
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("v1", "pods", "Pod", true),
    ("v1", "services", "Service", true),
    ("v1", "endpoints", "Endpoints", true),
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "secrets", "Secret", true),
    ("v1", "events", "Event", true),
    ("v1", "serviceaccounts", "ServiceAccount", true),
    ("v1", "resourcequotas", "ResourceQuota", true),
    ("v1", "replicationcontrollers", "ReplicationController", true),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("apps/v1", "deployments", "Deployment", true),
    ("apps/v1", "replicasets", "ReplicaSet", true),
    ("apps/v1", "daemonsets", "DaemonSet", true),
    ("apps/v1", "statefulsets", "StatefulSet", true),
    ("apps/v1", "controllerrevisions", "ControllerRevision", true),
    ("batch/v1", "jobs", "Job", true),
    ("coordination.k8s.io/v1", "leases", "Lease", true),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
    ("certificates.k8s.io/v1", "certificatesigningrequests", "CertificateSigningRequest", false),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false),
    ("networking.k8s.io/v1", "servicecidrs", "ServiceCIDR", false),
    ("skep.io/v1alpha1", "loadbalancerpools", "LoadBalancerPool", false),
];

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    revision: u64,
    /// (revision, plural, type, object)
    events: Vec<(u64, String, &'static str, Value)>,
    requests: u64,
}

#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

struct Call {
    method: Method,
    plural: String,
    namespace: String,
    name: String,
    subresource: String,
    query: HashMap<String, String>,
    body: Value,
}

fn failure(code: StatusCode, reason: &str) -> Reply {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason,
        "code": code.as_u16(),
    });
    answer(code, &status)
}

fn answer(code: StatusCode, value: &Value) -> Reply {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|e| match e {}).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn kind_of(plural: &str) -> (&'static str, &'static str) {
    RESOURCES.iter().find(|r| r.1 == plural).map(|r| (r.0, r.2)).unwrap()
}

impl Server {
    pub(crate) fn new() -> Self {
        Server { state: Arc::default(), changed: watch::channel(0).0 }
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::io::Error>(server.handle(request).await) }
        });
        Client::new(service, "default")
    }

    /// How many requests there have been.
    pub(crate) fn requests(&self) -> u64 {
        self.state.lock().unwrap().requests
    }

    pub(crate) fn list(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(p, _)| p.0 == plural).map(|(_, v)| v.clone()).collect()
    }

    /// Waits until a condition holds; it is looked at after every change.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Server) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !condition(self) {
                changed.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(limit, wait).await.is_ok(), "{what}: not within {limit:?}");
    }

    pub(crate) fn create(&self, plural: &str, mut object: Value) -> Value {
        let (version, kind) = kind_of(plural);
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let place =
            (plural.to_owned(), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        self.add(place, object).expect("the name is free")
    }

    fn add(&self, place: Place, mut object: Value) -> Option<Value> {
        let mut state = self.state.lock().unwrap();
        if state.objects.contains_key(&place) {
            return None;
        }
        let uid = format!("uid-{}", state.revision + 1);
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] =
            json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        if !place.1.is_empty() {
            object["metadata"]["namespace"] = json!(place.1);
        }
        if place.0 == "namespaces" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        Some(self.store(&mut state, place, "ADDED", object))
    }

    fn store(&self, state: &mut State, place: Place, event: &'static str, mut object: Value) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        state.events.push((state.revision, place.0.clone(), event, object.clone()));
        if event == "DELETED" {
            state.objects.remove(&place);
        } else {
            state.objects.insert(place, object.clone());
        }
        self.changed.send_replace(state.revision);
        object
    }

    async fn handle(&self, request: Request<Body>) -> Reply {
        self.state.lock().unwrap().requests += 1;
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let query: HashMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%3D", "=")))
            .collect();
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        if let Some(found) = discovery(&path) {
            return answer(StatusCode::OK, &found);
        }
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match parse(parts.method, &path, query, body) {
            Some(call) if call.query.get("watch").is_some_and(|w| w == "true" || w == "1") => {
                self.watch(&call)
            }
            Some(call) => self.answer(call),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn answer(&self, call: Call) -> Reply {
        let place = (call.plural.clone(), call.namespace.clone(), call.name.clone());
        if call.name.is_empty() {
            return match call.method {
                Method::GET => self.listed(&call),
                Method::POST => {
                    let name = call.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    match self.add((call.plural, call.namespace, name), call.body) {
                        Some(object) => answer(StatusCode::CREATED, &object),
                        None => failure(StatusCode::CONFLICT, "AlreadyExists"),
                    }
                }
                _ => self.delete_all(&call),
            };
        }
        let mut state = self.state.lock().unwrap();
        let Some(current) = state.objects.get(&place).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        match call.method {
            Method::GET => answer(StatusCode::OK, &current),
            Method::DELETE => self.delete(&mut state, place, current, &call.body),
            Method::PUT => self.write(&mut state, place, &current, call.body, &call.subresource),
            _ => {
                let mut new = current.clone();
                merge(&mut new, &call.body);
                self.write(&mut state, place, &current, new, &call.subresource)
            }
        }
    }

    fn listed(&self, call: &Call) -> Reply {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((plural, ..), v)| *plural == call.plural && selected(v, call))
            .map(|(_, v)| v)
            .collect();
        let (version, kind) = kind_of(&call.plural);
        let list = json!({
            "apiVersion": version, "kind": format!("{kind}List"), "items": items,
            "metadata": {"resourceVersion": state.revision.to_string()},
        });
        answer(StatusCode::OK, &list)
    }

    fn write(
        &self,
        state: &mut State,
        place: Place,
        current: &Value,
        mut new: Value,
        subresource: &str,
    ) -> Reply {
        let guard = &new["metadata"]["resourceVersion"];
        if guard.is_string() && *guard != current["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        if new["metadata"]["uid"] != current["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        match subresource {
            "status" => new["spec"] = current["spec"].clone(),
            _ => new["status"] = current["status"].clone(),
        }
        if new["spec"] != current["spec"] {
            new["metadata"]["generation"] = json!(current["metadata"]["generation"].as_u64().unwrap() + 1);
        }
        let empty = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
        let over = !new["metadata"]["deletionTimestamp"].is_null()
            && empty(&new["metadata"]["finalizers"])
            && (place.0 != "namespaces" || empty(&new["spec"]["finalizers"]));
        if over {
            let last = self.store(state, place, "DELETED", new);
            return answer(StatusCode::OK, &last);
        }
        if new == *current {
            return answer(StatusCode::OK, current);
        }
        answer(StatusCode::OK, &self.store(state, place, "MODIFIED", new))
    }

    fn delete(&self, state: &mut State, place: Place, mut object: Value, options: &Value) -> Reply {
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if wanted.is_string() && *wanted != object["metadata"][field] {
                return failure(StatusCode::CONFLICT, "Conflict");
            }
        }
        let added = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = added {
            let mut all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            all.push(json!(finalizer));
            object["metadata"]["finalizers"] = json!(all);
        }
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if held || place.0 == "namespaces" {
            object["metadata"]["deletionTimestamp"] = object["metadata"]["creationTimestamp"].clone();
            return answer(StatusCode::OK, &self.store(state, place, "MODIFIED", object));
        }
        self.store(state, place, "DELETED", object);
        answer(StatusCode::OK, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn delete_all(&self, call: &Call) -> Reply {
        let mut state = self.state.lock().unwrap();
        let all: Vec<(Place, Value)> = state
            .objects
            .iter()
            .filter(|((plural, ..), v)| *plural == call.plural && selected(v, call))
            .map(|(p, v)| (p.clone(), v.clone()))
            .collect();
        for (place, object) in all {
            self.delete(&mut state, place, object, &call.body);
        }
        answer(StatusCode::OK, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn watch(&self, call: &Call) -> Reply {
        let from: u64 = call.query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let call = Arc::new(Call {
            body: Value::Null,
            query: call.query.clone(),
            method: Method::GET,
            ..named(call)
        });
        let (state, changed) = (self.state.clone(), self.changed.subscribe());
        let lines = futures::stream::unfold((state, changed, from), move |(state, mut changed, from)| {
            let call = call.clone();
            async move {
                loop {
                    let (lines, last) = since(&state, &call, from);
                    if !lines.is_empty() {
                        return Some((lines, (state, changed, last)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        let frames = lines.map(|lines| Ok(http_body::Frame::data(Bytes::from(lines))));
        Response::builder()
            .header("content-type", "application/json")
            .body(StreamBody::new(frames).boxed_unsync())
            .unwrap()
    }
}

fn named(call: &Call) -> Call {
    Call {
        method: call.method.clone(),
        plural: call.plural.clone(),
        namespace: call.namespace.clone(),
        name: call.name.clone(),
        subresource: String::new(),
        query: HashMap::new(),
        body: Value::Null,
    }
}

/// The watch events after a revision, as lines.
fn since(state: &Mutex<State>, call: &Call, from: u64) -> (String, u64) {
    let state = state.lock().unwrap();
    let mut lines = String::new();
    for (_, _, event, object) in state
        .events
        .iter()
        .filter(|(r, plural, _, o)| *r > from && *plural == call.plural && selected(o, call))
    {
        lines.push_str(&json!({"type": event, "object": object}).to_string());
        lines.push('\n');
    }
    (lines, state.revision)
}

fn selected(object: &Value, call: &Call) -> bool {
    let meta = &object["metadata"];
    let here = call.namespace.is_empty() || meta["namespace"] == json!(call.namespace);
    let fields = call.query.get("fieldSelector").map(String::as_str).unwrap_or_default();
    here && fields
        .split(',')
        .filter_map(|f| f.split_once('='))
        .all(|(field, value)| meta[field.trim_start_matches("metadata.")] == json!(value))
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, Value::Object(patch)) => {
            *target = json!({});
            merge(target, &Value::Object(patch.clone()));
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn parse(method: Method, path: &[&str], query: HashMap<String, String>, body: Value) -> Option<Call> {
    let rest = match path {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", ns, plural, more @ ..] if !["status", "finalize"].contains(plural) => {
            (*ns, std::iter::once(*plural).chain(more.iter().copied()).collect())
        }
        rest => ("", rest.to_vec()),
    };
    let plural = (*rest.first()?).to_owned();
    RESOURCES.iter().find(|r| r.1 == plural)?;
    Some(Call {
        method,
        plural,
        namespace: namespace.to_owned(),
        name: rest.get(1).copied().unwrap_or_default().to_owned(),
        subresource: rest.get(2).copied().unwrap_or_default().to_owned(),
        query,
        body,
    })
}

/// Discovery in the older form, one request a group.
fn discovery(path: &[&str]) -> Option<Value> {
    let resources = |version: &str| {
        let verbs =
            json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
        let of_version = RESOURCES.iter().filter(|r| r.0 == version);
        let list: Vec<Value> = of_version
            .map(|(_, plural, kind, namespaced)| {
                json!({"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs})
            })
            .collect();
        json!({"kind": "APIResourceList", "groupVersion": version, "resources": list})
    };
    match path {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", "v1"] => Some(resources("v1")),
        ["apis"] => {
            let mut versions: Vec<&str> = RESOURCES.iter().map(|r| r.0).filter(|v| v.contains('/')).collect();
            versions.dedup();
            let groups: Vec<Value> = versions
                .iter()
                .map(|gv| {
                    let (group, version) = gv.split_once('/').unwrap();
                    let version = json!({"groupVersion": gv, "version": version});
                    json!({"name": group, "versions": [version], "preferredVersion": version})
                })
                .collect();
            Some(json!({"kind": "APIGroupList", "groups": groups}))
        }
        ["apis", group, version] => Some(resources(&format!("{group}/{version}"))),
        _ => None,
    }
}
