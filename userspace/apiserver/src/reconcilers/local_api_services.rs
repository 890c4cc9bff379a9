//! APIServices of the groups that this server serves itself: those of built-in groups are created at the start, those of
//! CustomResourceDefinitions are kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::custom::definition::set_condition;
use skep_api::kinds::METRICS_GROUP;
use skep_api::kinds::api_service::{MANAGED, local};
use skep_api::{KindRef, Status, meta};

use super::reconcile_loop::RETRY_INTERVAL;
use crate::aggregate::{self, GROUP};
use crate::clock::now;
use crate::definitions;
use crate::field_manager::{SERVER, track_own};
use crate::object::{Object, prefix};
use crate::stored::{Storage, stamp};

/// Values of the label [`MANAGED`].
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// Follows definitions and APIServices.
pub(super) async fn run(storage: Storage) {
    let caches = &storage.caches;
    let mut at_start = true;
    loop {
        let watched =
            [aggregate::kind(), definitions::kind()].map(|kind| kind.and_then(|kind| caches.of(kind)));
        let [Some(services), Some(definitions)] = watched else { return };
        let (mut services, mut definitions) = (services.subscribe(), definitions.subscribe());
        loop {
            let done = round(&storage, at_start).await;
            at_start &= !done;
            let pause = if done { Duration::MAX } else { RETRY_INTERVAL };
            let changed = async {
                tokio::select! {
                    change = services.recv() => change.is_some(),
                    change = definitions.recv() => change.is_some(),
                }
            };
            if let Ok(false) = tokio::time::timeout(pause, changed).await {
                break;
            }
            while services.try_recv().is_ok() || definitions.try_recv().is_ok() {}
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Makes the APIServices those of the served groups; false if a write failed and must be repeated.
async fn round(storage: &Storage, at_start: bool) -> bool {
    let Some(kind) = aggregate::kind() else { return true };
    let objects = storage.caches.of(kind).map(|services| services.list(&prefix(kind))).unwrap_or_default();
    let mut existing: HashMap<String, (Arc<Object>, Value)> = objects
        .into_iter()
        .map(|object| (object.value(), object))
        .map(|(value, object)| (meta::name(&value).to_owned(), (object, value)))
        .collect();
    let writes = served(storage).into_iter().filter_map(|wanted| {
        let found = existing.remove(meta::name(&wanted));
        let only_at_start = wanted["metadata"]["labels"][MANAGED] == ON_START && !at_start;
        (found.is_some() || !only_at_start).then(|| ensure(storage, found, wanted))
    });
    let mut results = futures::future::join_all(writes.collect::<Vec<_>>()).await;
    for (object, value) in existing.into_values() {
        let managed = value["metadata"]["labels"][MANAGED].as_str().unwrap_or_default();
        if managed == ALWAYS || managed == ON_START && at_start {
            results.push(storage.remove(kind, &object).await.map(drop));
        }
    }
    let failed = results.into_iter().filter_map(Result::err);
    // Another writer won a conflict; its event triggers the next round.
    let failed: Vec<Status> = failed.filter(|status| !matches!(status.code, 404 | 409)).collect();
    failed.iter().for_each(|status| tracing::warn!(error = %status, "write local APIService failed"));
    failed.is_empty()
}

/// The APIService of each group and version that this server serves.
fn served(storage: &Storage) -> Vec<Value> {
    let registry = storage.caches.registry();
    let mut wanted: Vec<Value> = Vec::new();
    for kind in registry.iter().filter(|kind| kind.group != GROUP) {
        let managed = match kind {
            KindRef::Custom(_) => Some(ALWAYS),
            // Metrics-server may take it over; it is served here again when that is removed.
            KindRef::BuiltIn(kind) if kind.group == *METRICS_GROUP => None,
            KindRef::BuiltIn(_) => Some(ON_START),
        };
        let one = local(&kind.group, &kind.version, managed);
        if wanted.last().is_none_or(|last| last["metadata"]["name"] != one["metadata"]["name"]) {
            wanted.push(one);
        }
    }
    wanted
}

/// Creates or updates the APIService. One that a user pointed to a Service stays as it is.
async fn ensure(
    storage: &Storage,
    found: Option<(Arc<Object>, Value)>,
    mut wanted: Value,
) -> Result<(), Status> {
    let Some(kind) = aggregate::kind() else { return Ok(()) };
    let set_available = |object: &mut Value| {
        let reason = ("Local", "Local APIServices are always available");
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        set_condition(object, "Available", true, reason, &now())
    };
    let Some((object, mut value)) = found else {
        track_own(kind, SERVER, &Value::Null, &mut wanted);
        stamp(&mut wanted);
        set_available(&mut wanted);
        return storage.insert(kind, &wanted).await.map(drop);
    };
    let is_managed = value["metadata"]["labels"][MANAGED].is_string();
    if is_managed && value["spec"] != wanted["spec"] {
        value["spec"] = wanted["spec"].take();
    }
    if value["spec"]["service"].is_object() {
        return Ok(());
    }
    set_available(&mut value);
    storage.replace(kind, &object, &value).await.map(drop)
}
