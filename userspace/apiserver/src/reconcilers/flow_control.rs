//! FlowSchemas and PriorityLevelConfigurations: those of every cluster exist and are as they should be, each schema's status
//! says whether its level exists, and the server works by them.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::{Kind, Reason, Status, find, find_kind, meta};

use super::reconcile_loop::RETRY_INTERVAL;
use crate::cache::Caches;
use crate::clock::now;
use crate::fairness::{Fairness, defaults};
use crate::field_manager::track_own;
use crate::object::{Object, prefix};
use crate::stored::{Storage, stamp, store_error};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Creates what is missing, so that the server has its levels before it answers.
pub(crate) async fn start(storage: &Storage, fairness: &Fairness) -> Result<(), Status> {
    ensure_all(storage).await?;
    storage.caches.catch_up().await.map_err(store_error)?;
    configure(&storage.caches, fairness);
    Ok(())
}

/// Follows changes for ever.
pub(super) async fn run(storage: Storage, fairness: Fairness) {
    let kinds = [find(GROUP, "v1", "flowschemas"), find(GROUP, "v1", "prioritylevelconfigurations")];
    let [Some(schemas), Some(levels)] = kinds else { return };
    loop {
        let (Some(schemas), Some(levels)) = (storage.caches.of(schemas), storage.caches.of(levels)) else {
            return;
        };
        let (mut schemas, mut levels) = (schemas.subscribe(), levels.subscribe());
        loop {
            configure(&storage.caches, &fairness);
            let written = match ensure_all(&storage).await {
                Ok(()) => write_statuses(&storage).await,
                failed => failed,
            };
            if let Err(error) = &written {
                tracing::warn!(%error, "write flow schemas and priority levels failed");
            }
            let has_changed = async {
                tokio::select! {
                    change = schemas.recv() => change.is_some(),
                    change = levels.recv() => change.is_some(),
                }
            };
            let pause = if written.is_ok() { std::time::Duration::MAX } else { RETRY_INTERVAL };
            if let Ok(false) = tokio::time::timeout(pause, has_changed).await {
                break;
            }
            while schemas.try_recv().is_ok() || levels.try_recv().is_ok() {}
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn objects(caches: &Caches, plural: &str) -> Vec<Arc<Object>> {
    let Some(kind) = find(GROUP, "v1", plural) else { return Vec::new() };
    caches.of(kind).map(|resource| resource.list(&prefix(kind))).unwrap_or_default()
}

fn configure(caches: &Caches, fairness: &Fairness) {
    let values = |plural| objects(caches, plural).iter().map(|object| object.value()).collect::<Vec<_>>();
    fairness.configure(&values("flowschemas"), &values("prioritylevelconfigurations"));
}

/// The field manager, as upstream.
const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";

async fn ensure_all(storage: &Storage) -> Result<(), Status> {
    for defaults::Default { object, is_mandatory } in defaults::all() {
        let Some(kind) = find_kind(GROUP, "v1", object["kind"].as_str().unwrap_or_default()) else {
            continue;
        };
        tolerate(ensure(storage, kind, object, is_mandatory).await)?;
    }
    Ok(())
}

/// Creates an object, or gives it its spec again if that is the server's to keep.
async fn ensure(storage: &Storage, kind: &Kind, mut wanted: Value, is_mandatory: bool) -> Result<(), Status> {
    kind.default_new(&mut wanted);
    let Ok(old) = storage.caches.get_or_404(kind, "", meta::name(&wanted)) else {
        track_own(kind, MANAGER, &Value::Null, &mut wanted);
        stamp(&mut wanted);
        kind.prepare_create(&mut wanted);
        return storage.insert(kind, &wanted).await.map(drop);
    };
    let mut new = old.value();
    let is_kept = is_mandatory || is_auto_updated(&new);
    // The shares of the exempt level are the users' to choose.
    let is_same = new["spec"] == wanted["spec"] || new["spec"]["type"] == "Exempt" && is_mandatory;
    if !is_kept || is_same {
        return Ok(());
    }
    new["spec"] = wanted["spec"].take();
    new["metadata"]["generation"] = (new["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    storage.replace(kind, &old, &new).await.map(drop)
}

/// As upstream: without the annotation, an object that no user changed.
fn is_auto_updated(object: &Value) -> bool {
    match object["metadata"]["annotations"][defaults::AUTO_UPDATE].as_str() {
        Some(value) => value == "true",
        None => object["metadata"]["generation"].as_i64().unwrap_or(1) == 1,
    }
}

/// Another writer won; its event triggers the next round.
fn tolerate(written: Result<(), Status>) -> Result<(), Status> {
    written.or_else(|status| {
        let is_late = matches!(status.reason, Reason::AlreadyExists | Reason::Conflict | Reason::NotFound);
        if is_late { Ok(()) } else { Err(status) }
    })
}

async fn write_statuses(storage: &Storage) -> Result<(), Status> {
    let Some(kind) = find(GROUP, "v1", "flowschemas") else { return Ok(()) };
    let levels = objects(&storage.caches, "prioritylevelconfigurations");
    let levels: Vec<Value> = levels.iter().map(|level| level.value()).collect();
    for old in objects(&storage.caches, "flowschemas") {
        let mut schema = old.value();
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let exists = levels.iter().any(|found| meta::name(found) == level);
        if set_dangling(&mut schema, exists) {
            tolerate(storage.replace(kind, &old, &schema).await.map(drop))?;
        }
    }
    Ok(())
}

/// Sets the condition; whether it changed.
fn set_dangling(schema: &mut Value, exists: bool) -> bool {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let (status, reason, end) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let about = "This FlowSchema references the PriorityLevelConfiguration object named";
    let message = format!("{about} \"{level}\" {end}");
    let mut conditions: Vec<Value> = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().position(|condition| condition["type"] == "Dangling");
    let mut since = now();
    if let Some(old) = old.map(|at| conditions.remove(at)) {
        if old["status"] == status && old["reason"] == reason && old["message"] == *message {
            return false;
        }
        if old["status"] == status {
            since = old["lastTransitionTime"].as_str().unwrap_or_default().to_owned();
        }
    }
    conditions.push(json!({
        "type": "Dangling", "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    }));
    schema["status"]["conditions"] = conditions.into();
    true
}
