//! APIServices of what this server serves itself: made at the start for built-in versions, kept for those of definitions.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::custom::definition::set_condition;
use skep_api::kinds::api_service::{MANAGED, local};
use skep_api::{KindRef, Status, meta};

use super::GROUP;
use crate::object::{Object, prefix};
use crate::write::{self, now, stamp};
use crate::{Inner, crd};

const AGAIN: Duration = Duration::from_secs(1);
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// Follows definitions and APIServices for as long as the server lives.
pub(crate) async fn run(server: Weak<Inner>) {
    let mut at_start = true;
    loop {
        let Some(strong) = server.upgrade() else { return };
        let watched = [super::kind(), crd::kind()].map(|kind| kind.and_then(|kind| strong.caches.of(kind)));
        let [Some(services), Some(definitions)] = watched else { return };
        let (mut ours, mut made) = (services.subscribe(), definitions.subscribe());
        drop((services, definitions));
        loop {
            let Some(strong) = server.upgrade() else { return };
            let done = round(&strong, at_start).await;
            at_start &= !done;
            drop(strong);
            let pause = if done { Duration::MAX } else { AGAIN };
            let heard = async {
                tokio::select! {
                    change = ours.recv() => change.is_some(),
                    change = made.recv() => change.is_some(),
                }
            };
            if let Ok(false) = tokio::time::timeout(pause, heard).await {
                break;
            }
            while ours.try_recv().is_ok() || made.try_recv().is_ok() {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Brings the APIServices to what is served; false if something is to be tried again.
async fn round(server: &Arc<Inner>, at_start: bool) -> bool {
    let Some(kind) = super::kind() else { return true };
    let registry = server.caches.registry();
    let objects = server.caches.of(kind).map(|services| services.list(&prefix(kind))).unwrap_or_default();
    let mut there: HashMap<String, (Arc<Object>, Value)> = objects
        .into_iter()
        .map(|object| (object.value(), object))
        .map(|(value, object)| (meta::name(&value).to_owned(), (object, value)))
        .collect();
    let mut wanted: Vec<Value> = Vec::new();
    for made in registry.iter().filter(|made| made.group != GROUP) {
        let managed = if matches!(made, KindRef::Custom(_)) { ALWAYS } else { ON_START };
        let one = local(&made.group, &made.version, managed);
        if wanted.last().is_none_or(|last| last["metadata"]["name"] != one["metadata"]["name"]) {
            wanted.push(one);
        }
    }
    let changes = wanted.into_iter().filter_map(|wanted| {
        let found = there.remove(meta::name(&wanted));
        let waits = wanted["metadata"]["labels"][MANAGED] == ON_START && !at_start;
        (found.is_some() || !waits).then(|| keep(server, found, wanted))
    });
    let mut results = futures::future::join_all(changes.collect::<Vec<_>>()).await;
    for (object, value) in there.into_values() {
        let managed = value["metadata"]["labels"][MANAGED].as_str().unwrap_or_default();
        if managed == ALWAYS || managed == ON_START && at_start {
            results.push(write::remove(server, kind, &object).await.map(drop));
        }
    }
    let failed = results.into_iter().filter_map(Result::err);
    // Whoever was faster wakes us again.
    let failed: Vec<Status> = failed.filter(|status| !matches!(status.code, 404 | 409)).collect();
    failed.iter().for_each(|status| tracing::warn!(%status, "an APIService was not written"));
    failed.is_empty()
}

/// Makes the APIService, or brings it to what it should be; one that a user took over is left to him.
async fn keep(
    server: &Arc<Inner>,
    found: Option<(Arc<Object>, Value)>,
    mut wanted: Value,
) -> Result<(), Status> {
    let Some(kind) = super::kind() else { return Ok(()) };
    let available = |object: &mut Value| {
        let said = ("Local", "Local APIServices are always available");
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        set_condition(object, "Available", true, said, &now())
    };
    let Some((object, mut value)) = found else {
        stamp(&mut wanted);
        available(&mut wanted);
        return write::insert(server, kind, &wanted).await.map(drop);
    };
    let ours = value["metadata"]["labels"][MANAGED].is_string();
    if ours && value["spec"] != wanted["spec"] {
        value["spec"] = wanted["spec"].take();
    }
    if value["spec"]["service"].is_object() {
        return Ok(());
    }
    available(&mut value);
    write::replace(server, kind, &object, &value).await.map(drop)
}
