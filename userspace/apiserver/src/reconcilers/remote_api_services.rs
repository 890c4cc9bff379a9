//! The `Available` condition of the APIServices of other API servers, and their discovery documents. Every server is
//! checked when an object that it depends on changes, and at an interval.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::Limited;
use serde_json::{Value, json};
use skep_api::Kind;
use skep_api::aggregate as api;
use skep_api::aggregate::Unavailable;
use skep_api::custom::definition::set_condition;
use skep_api::find;
use tokio::time::Instant;

use crate::aggregate::{self, Aggregator, Backend, service_of, set_user_headers};
use crate::authz::SUPERUSERS;
use crate::cache::{Caches, Changes};
use crate::clock::now;
use crate::dial::Dialer;
use crate::endpoints::slices_of;
use crate::identity::Identity;
use crate::object::Object;
use crate::remote_address::RemoteAddress;
use crate::reverse_proxy::send;
use crate::stored::Storage;

/// The interval of checks of an available server, and the longest of an unavailable one.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The time that a server has for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes that come within this time are handled together.
const BATCH_PERIOD: Duration = Duration::from_millis(50);
/// Endpoints that are tried before a server counts as unavailable.
const MAX_ENDPOINTS: usize = 3;
const MAX_DOCUMENT_BYTES: usize = 16 << 20;
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// When a server is checked next.
struct Due {
    /// The versions of the objects that the last check depended on.
    inputs: String,
    at: Instant,
    retry: Duration,
}

/// Follows APIServices, their Services and EndpointSlices.
pub(super) async fn run(storage: Storage, aggregator: Arc<Aggregator>) {
    let mut due: HashMap<String, Due> = HashMap::new();
    loop {
        aggregator.refresh(&storage.caches);
        let any = !aggregator.table().backends.is_empty();
        let Some(mut inputs) = Inputs::of(&storage.caches, any) else { return };
        loop {
            aggregator.refresh(&storage.caches);
            let table = aggregator.table();
            if any == table.backends.is_empty() {
                break;
            }
            due.retain(|name, _| table.backends.iter().any(|backend| backend.name == *name));
            round(&storage, &aggregator, &table.backends, &mut due).await;
            drop(table);
            let next = due.values().map(|due| due.at).min();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let complete = tokio::select! {
                complete = inputs.changed() => complete,
                () = sleep => true,
            };
            if !complete {
                break;
            }
            tokio::time::sleep(BATCH_PERIOD).await;
            inputs.drain();
        }
    }
}

/// Changes of the objects that availability depends on.
struct Inputs(Vec<Changes>);

impl Inputs {
    /// Services and their EndpointSlices matter only while an APIService names one.
    fn of(caches: &Caches, any: bool) -> Option<Inputs> {
        let others = [find("", "v1", "services"), find("discovery.k8s.io", "v1", "endpointslices")]
            .map(|kind| any.then_some(kind)?);
        let kinds = [aggregate::kind()].into_iter().chain(others).flatten();
        let watch = |kind: &Kind| caches.of(kind).map(|objects| objects.subscribe());
        kinds.map(watch).collect::<Option<Vec<Changes>>>().map(Inputs)
    }

    /// Waits for a change; false if one was missed.
    async fn changed(&mut self) -> bool {
        let all = self.0.iter_mut().map(|changes| Box::pin(changes.recv()));
        futures::future::select_all(all).await.0.is_some()
    }

    fn drain(&mut self) {
        self.0.iter_mut().for_each(|changes| while changes.try_recv().is_ok() {});
    }
}

/// Checks all servers that are due.
async fn round(
    storage: &Storage,
    aggregator: &Aggregator,
    backends: &[Arc<Backend>],
    due: &mut HashMap<String, Due>,
) {
    let mut checked = Vec::new();
    for backend in backends {
        let inputs = inputs_of(&storage.caches, backend);
        let waits = due.get(&backend.name).is_some_and(|due| due.inputs == inputs && due.at > Instant::now());
        if !waits {
            checked.push((backend, inputs));
        }
    }
    let results = checked.iter().map(|(backend, _)| reconcile(storage, aggregator, backend));
    let results = futures::future::join_all(results).await;
    for ((backend, inputs), good) in checked.into_iter().zip(results) {
        let before = due.get(&backend.name).filter(|due| due.inputs == inputs && !good).map(|due| due.retry);
        let retry = before.map_or(FIRST_RETRY, |before| (before * 2).min(RESYNC_INTERVAL));
        let at = Instant::now() + if good { RESYNC_INTERVAL } else { retry };
        due.insert(backend.name.clone(), Due { inputs, at, retry });
    }
}

/// Changes with every object that the condition depends on.
fn inputs_of(caches: &Caches, backend: &Backend) -> String {
    let service = service_of(caches, &backend.spec);
    let slices: Vec<u64> = slices(caches, backend).iter().map(|slice| slice.revision).collect();
    let version = |object: Option<&Value>| object.map(|object| object["metadata"]["resourceVersion"].clone());
    json!([backend.spec, version(service.as_ref()), slices]).to_string()
}

fn slices(caches: &Caches, backend: &Backend) -> Vec<Arc<Object>> {
    let text = |field: &str| backend.spec["service"][field].as_str().unwrap_or_default();
    slices_of(caches, text("namespace"), text("name"))
}

/// Checks a server and writes the condition of its APIService; true if it is available.
async fn reconcile(storage: &Storage, aggregator: &Aggregator, backend: &Backend) -> bool {
    let checked = check(storage, aggregator, backend).await;
    if checked.is_err() {
        aggregator.update_remote(&backend.group, &backend.version, |remote| remote.current = false);
    }
    let (status, reason) = match &checked {
        Ok(()) => (true, ("Passed", "all checks passed")),
        Err(why) => (false, (why.reason, why.message.as_str())),
    };
    let Some(kind) = aggregate::kind() else { return true };
    let Ok(old) = storage.caches.get_or_404(kind, "", &backend.name) else { return true };
    let mut new = old.value();
    if new["spec"] != backend.spec {
        // The APIService changed meanwhile; its event triggers the next round.
        return true;
    }
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    if set_condition(&mut new, "Available", status, reason, &now())
        && let Err(error) = storage.replace(kind, &old, &new).await
    {
        tracing::info!(api_service = backend.name, %error, "write APIService status failed");
        return false;
    }
    status
}

async fn check(storage: &Storage, aggregator: &Aggregator, backend: &Backend) -> Result<(), Unavailable> {
    let service = service_of(&storage.caches, &backend.spec);
    let slices: Vec<Value> = slices(&storage.caches, backend).iter().map(|slice| slice.value()).collect();
    api::check_reachable(&json!({"spec": backend.spec}), service.as_ref(), &slices)?;
    let mut last = "no endpoints available for its service".to_owned();
    for address in backend.addresses.iter().take(MAX_ENDPOINTS) {
        match get_resources(&aggregator.dialer, backend, address).await {
            Ok(list) => {
                learn(aggregator, backend, address, &list).await;
                return Ok(());
            }
            Err(why) => last = why,
        }
    }
    Err(Unavailable { reason: "FailedDiscoveryCheck", message: last })
}

/// The APIResourceList, which every server has for its versions.
async fn get_resources(dialer: &Dialer, backend: &Backend, address: &RemoteAddress) -> Result<Value, String> {
    let path = format!("/apis/{}/{}", backend.group, backend.version);
    let url = format!("https://{address}{path}");
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let (code, _, document) =
        get(dialer, backend, address, &path, "application/json").await.map_err(failed)?;
    match code {
        code if code.is_success() => Ok(document),
        code => Err(failed(format!("bad status from {url}: {}", code.as_u16()))),
    }
}

/// Reads the server's documents for discovery and schemas.
async fn learn(aggregator: &Aggregator, backend: &Backend, address: &RemoteAddress, list: &Value) {
    let (group, version) = (&backend.group, &backend.version);
    let aggregated = match get(&aggregator.dialer, backend, address, "/apis", AGGREGATED).await {
        Ok((StatusCode::OK, kind, document)) if kind.contains("as=APIGroupDiscoveryList") => {
            Some(api::from_aggregated(&document, group, version).unwrap_or_default())
        }
        _ => None,
    };
    let resources = aggregated.unwrap_or_else(|| api::from_legacy(list, group, version));
    let openapi = match get(&aggregator.dialer, backend, address, "/openapi/v3", "application/json").await {
        Ok((StatusCode::OK, _, index)) => api::openapi_of(&index, group, version),
        _ => None,
    };
    aggregator.update_remote(group, version, |remote| {
        (remote.resources, remote.openapi, remote.current) = (resources, openapi, true);
    });
}

/// Status code, content type and body of an answer. A body that is not JSON becomes null.
async fn get(
    dialer: &Dialer,
    backend: &Backend,
    address: &RemoteAddress,
    path: &str,
    accept: &str,
) -> Result<(StatusCode, String, Value), String> {
    let mut headers = HeaderMap::new();
    headers.extend(accept.parse().ok().map(|accept| (ACCEPT, accept)));
    set_user_headers(&Identity::new("system:kube-aggregator", &[SUPERUSERS]), &mut headers);
    let mut request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    *request.headers_mut() = headers;
    let security = backend.security.clone()?;
    let answer_in_time = tokio::time::timeout(REQUEST_TIMEOUT, async {
        let answer = send(dialer, &security, address, request).await.map_err(|error| error.to_string())?;
        let (parts, body) = answer.into_parts();
        let body =
            Limited::new(body, MAX_DOCUMENT_BYTES).collect().await.map_err(|error| error.to_string())?;
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let document = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        Ok((parts.status, kind.to_owned(), document))
    });
    answer_in_time.await.map_err(|_| "context deadline exceeded".to_owned())?
}
