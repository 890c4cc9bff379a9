//! Whether the other API servers can be reached, and what they tell of themselves: asked when anything about them changes,
//! and again and again. The answer is the `Available` condition of their APIServices.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use skep_api::aggregate::{self, Unavailable};
use skep_api::custom::definition::set_condition;
use skep_api::{Kind, find};
use tokio::time::Instant;

use super::{Backend, proxy, service_of};
use crate::Inner;
use crate::authz::SUPERUSERS;
use crate::cache::Changes;
use crate::endpoints::slices_of;
use crate::forward::send;
use crate::identity::Identity;
use crate::write::{self, now};

/// How often one that answers is asked again, and one that does not at the most.
const RESYNC: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long a server has for one question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what changed.
const PAUSE: Duration = Duration::from_millis(50);
/// Endpoints that are asked before a server counts as out of reach.
const TRIES: usize = 3;
/// Bytes of a document at most.
const DOCUMENT_MAX: usize = 16 << 20;
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// When a server is asked next.
struct Due {
    /// What the last answer depends on.
    of: String,
    at: Instant,
    retry: Duration,
}

/// Follows APIServices and what they name for as long as the server lives.
pub(crate) async fn run(server: Weak<Inner>) {
    let mut due: HashMap<String, Due> = HashMap::new();
    loop {
        let Some(strong) = server.upgrade() else { return };
        strong.aggregator.refresh(&strong);
        let any = !strong.aggregator.table().backends.is_empty();
        let Some(mut heard) = Heard::of(&strong, any) else { return };
        drop(strong);
        loop {
            let Some(strong) = server.upgrade() else { return };
            strong.aggregator.refresh(&strong);
            let table = strong.aggregator.table();
            if any == table.backends.is_empty() {
                break;
            }
            due.retain(|name, _| table.backends.iter().any(|backend| backend.name == *name));
            round(&strong, &table.backends, &mut due).await;
            drop(strong);
            let next = due.values().map(|due| due.at).min();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                alive = heard.next() => alive,
                () = sleep => true,
            };
            if !alive {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            heard.drain();
        }
    }
}

/// Changes of what availability depends on.
struct Heard(Vec<Changes>);

impl Heard {
    /// Services and their endpoints matter only while an APIService names one.
    fn of(server: &Inner, any: bool) -> Option<Heard> {
        let others = [find("", "v1", "services"), find("discovery.k8s.io", "v1", "endpointslices")]
            .map(|kind| any.then_some(kind)?);
        let kinds = [super::kind()].into_iter().chain(others).flatten();
        let watch = |kind: &Kind| server.caches.of(kind).map(|objects| objects.subscribe());
        kinds.map(watch).collect::<Option<Vec<Changes>>>().map(Heard)
    }

    /// Waits for a change; false if one was missed.
    async fn next(&mut self) -> bool {
        let all = self.0.iter_mut().map(|changes| Box::pin(changes.recv()));
        futures::future::select_all(all).await.0.is_some()
    }

    fn drain(&mut self) {
        self.0.iter_mut().for_each(|changes| while changes.try_recv().is_ok() {});
    }
}

/// Asks all that are due.
async fn round(server: &Arc<Inner>, backends: &[Arc<Backend>], due: &mut HashMap<String, Due>) {
    let mut asked = Vec::new();
    for backend in backends {
        let of = depends_on(server, backend);
        let waits = due.get(&backend.name).is_some_and(|due| due.of == of && due.at > Instant::now());
        if !waits {
            asked.push((backend, of));
        }
    }
    let judged = asked.iter().map(|(backend, _)| judge(server, backend));
    let judged = futures::future::join_all(judged).await;
    for ((backend, of), good) in asked.into_iter().zip(judged) {
        let before = due.get(&backend.name).filter(|due| due.of == of && !good).map(|due| due.retry);
        let retry = before.map_or(FIRST_RETRY, |before| (before * 2).min(RESYNC));
        let at = Instant::now() + if good { RESYNC } else { retry };
        due.insert(backend.name.clone(), Due { of, at, retry });
    }
}

/// Changes with everything that the verdict is made from but the server itself.
fn depends_on(server: &Inner, backend: &Backend) -> String {
    let service = service_of(server, &backend.spec);
    let slices: Vec<u64> = slices(server, backend).iter().map(|slice| slice.revision).collect();
    let version = |object: Option<&Value>| object.map(|object| object["metadata"]["resourceVersion"].clone());
    json!([backend.spec, version(service.as_ref()), slices]).to_string()
}

fn slices(server: &Inner, backend: &Backend) -> Vec<Arc<crate::object::Object>> {
    let text = |field: &str| backend.spec["service"][field].as_str().unwrap_or_default();
    slices_of(server, text("namespace"), text("name"))
}

/// Finds out how a server is, and says so in its APIService; true if it is well.
async fn judge(server: &Arc<Inner>, backend: &Backend) -> bool {
    let verdict = verdict(server, backend).await;
    if verdict.is_err() {
        server.aggregator.learned(&backend.group, &backend.version, |remote| remote.current = false);
    }
    let (status, said) = match &verdict {
        Ok(()) => (true, ("Passed", "all checks passed")),
        Err(why) => (false, (why.reason, why.message.as_str())),
    };
    let Some(kind) = super::kind() else { return true };
    let Ok(old) = write::find(server, kind, "", &backend.name) else { return true };
    let mut new = old.value();
    if new["spec"] != backend.spec {
        // It is another by now, of which we hear.
        return true;
    }
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    if set_condition(&mut new, "Available", status, said, &now())
        && let Err(error) = write::replace(server, kind, &old, &new).await
    {
        tracing::info!(name = backend.name, %error, "the status of an APIService was not written");
        return false;
    }
    status
}

async fn verdict(server: &Arc<Inner>, backend: &Backend) -> Result<(), Unavailable> {
    let service = service_of(server, &backend.spec);
    let slices: Vec<Value> = slices(server, backend).iter().map(|slice| slice.value()).collect();
    aggregate::check_reachable(&json!({"spec": backend.spec}), service.as_ref(), &slices)?;
    let mut last = "no endpoints available for its service".to_owned();
    for address in backend.addresses.iter().take(TRIES) {
        match check(backend, *address).await {
            Ok(list) => {
                learn(server, backend, *address, &list).await;
                return Ok(());
            }
            Err(why) => last = why,
        }
    }
    Err(Unavailable { reason: "FailedDiscoveryCheck", message: last })
}

/// Any server of a version tells of its resources.
async fn check(backend: &Backend, address: SocketAddr) -> Result<Value, String> {
    let path = format!("/apis/{}/{}", backend.group, backend.version);
    let url = format!("https://{address}{path}");
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let (code, _, document) = get(backend, address, &path, "application/json").await.map_err(failed)?;
    match code {
        code if code.is_success() => Ok(document),
        code => Err(failed(format!("bad status from {url}: {}", code.as_u16()))),
    }
}

/// What it tells of itself, for discovery and schemas.
async fn learn(server: &Arc<Inner>, backend: &Backend, address: SocketAddr, list: &Value) {
    let (group, version) = (&backend.group, &backend.version);
    let aggregated = match get(backend, address, "/apis", AGGREGATED).await {
        Ok((StatusCode::OK, kind, document)) if kind.contains("as=APIGroupDiscoveryList") => {
            Some(aggregate::from_aggregated(&document, group, version).unwrap_or_default())
        }
        _ => None,
    };
    let resources = aggregated.unwrap_or_else(|| aggregate::from_legacy(list, group, version));
    let openapi = match get(backend, address, "/openapi/v3", "application/json").await {
        Ok((StatusCode::OK, _, index)) => aggregate::openapi_of(&index, group, version),
        _ => None,
    };
    server.aggregator.learned(group, version, |remote| {
        (remote.resources, remote.openapi, remote.current) = (resources, openapi, true);
    });
}

/// A document of another server, which is null if it is no JSON; with its code and type.
async fn get(
    backend: &Backend,
    address: SocketAddr,
    path: &str,
    accept: &str,
) -> Result<(StatusCode, String, Value), String> {
    let mut headers = HeaderMap::new();
    headers.extend(accept.parse().ok().map(|accept| (ACCEPT, accept)));
    proxy::speak_for(&Identity::new("system:kube-aggregator", &[SUPERUSERS]), &mut headers);
    let mut request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    *request.headers_mut() = headers;
    let security = backend.security.clone()?;
    let asked = tokio::time::timeout(PATIENCE, async {
        let answer = send(&security, address, request).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, DOCUMENT_MAX).collect().await.map_err(|error| error.to_string())?;
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let document = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        Ok((parts.status, kind.to_owned(), document))
    });
    asked.await.map_err(|_| "context deadline exceeded".to_owned())?
}
