//! The life of CustomResourceDefinitions: names are accepted, kinds established; on deletion instances go first.
//!
//! Decisions are made in `skep_api::custom::definition`; here they are written, by the same path as every write.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use skep_api::custom::definition::{self, CLEANUP, Verdict};
use skep_api::{Kind, KindRef, Status, find, meta};

use crate::authz::SUPERUSERS;
use crate::call::Call;
use crate::handlers::delete::{DeleteOptions, delete};
use crate::identity::Identity;
use crate::object::{Object, prefix};
use crate::query::Query;
use crate::route::Target;
use crate::write::{self, now};
use crate::{Inner, follow};

pub(crate) const GROUP: &str = "apiextensions.k8s.io";

pub(crate) fn is_definition(kind: &Kind) -> bool {
    kind.group == GROUP && kind.kind == "CustomResourceDefinition"
}

/// The kind of definitions themselves.
pub(crate) fn kind() -> Option<&'static Kind> {
    find(GROUP, "v1", "customresourcedefinitions")
}

/// A definition that somebody deletes waits for its instances.
pub(crate) fn mark(definition: &mut Value) {
    if definition["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let finalizers = meta::of_mut(definition).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|finalizer| finalizer == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
    let said = (
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    definition::set_condition(definition, "Terminating", true, said, &now());
}

/// Definitions whose instances are being removed, by uid.
type AtWork = Arc<Mutex<HashSet<String>>>;

/// Follows all definitions for as long as the server lives.
pub(crate) async fn run(server: Weak<Inner>) {
    let (Some(kind), at_work) = (kind(), AtWork::default()) else { return };
    follow::all(server, kind, |server| {
        let at_work = at_work.clone();
        Box::pin(async move { round(server, &at_work).await })
    })
    .await;
}

/// Judges every definition as it is now; false if something is to be tried again.
async fn round(server: &Arc<Inner>, at_work: &AtWork) -> bool {
    let Some(kind) = kind() else { return true };
    let Some(resource) = server.caches.of(kind) else { return true };
    let objects = resource.list(&prefix(kind));
    let mut all: Vec<Value> = objects.iter().map(|object| object.value()).collect();
    let mut done = true;
    for (at, old) in objects.iter().enumerate() {
        let definition = &all[at];
        if definition["metadata"]["deletionTimestamp"].is_string() {
            end(server, definition, at_work);
            continue;
        }
        let Verdict::Changed(new) = definition::judge(definition, &all, &now()) else { continue };
        match write::replace(server, kind, old, &new).await {
            Ok(stored) => all[at] = stored.value(),
            // Whoever was faster wakes us again.
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => {
                tracing::warn!(definition = meta::name(definition), %status, "the status was not written");
                done = false;
            }
        }
    }
    done
}

/// Begins to remove the instances of a definition, unless that is under way.
fn end(server: &Arc<Inner>, definition: &Value, at_work: &AtWork) {
    let waits = |definition: &Value| {
        let mut finalizers = definition["metadata"]["finalizers"].as_array().into_iter().flatten();
        finalizers.any(|finalizer| finalizer == CLEANUP)
    };
    let uid = meta::uid(definition).to_owned();
    let lock = |at_work: &AtWork| at_work.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone());
    if !waits(definition) || !lock(at_work) {
        return;
    }
    let (server, name, at_work) =
        (Arc::downgrade(server), meta::name(definition).to_owned(), at_work.clone());
    tokio::spawn(async move {
        loop {
            let Some(strong) = server.upgrade() else { return };
            match remove_instances(&strong, &name, &uid).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(status) => tracing::info!(definition = name, %status, "instances not removed yet"),
            }
            let instances = strong.caches.made_by(&name).and_then(|kind| strong.caches.of(&kind));
            drop(strong);
            let heard = async {
                match instances {
                    Some(instances) => {
                        let mut changes = instances.subscribe();
                        changes.recv().await;
                    }
                    None => std::future::pending().await,
                }
            };
            let _ = tokio::time::timeout(follow::AGAIN, heard).await;
        }
        at_work.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    });
}

/// Deletes all instances; true once they and their definition are gone.
async fn remove_instances(server: &Arc<Inner>, name: &str, uid: &str) -> Result<bool, Status> {
    let Some(kind) = kind() else { return Ok(true) };
    let old = match write::find_latest(server, kind, "", name).await {
        Ok(old) => old,
        Err(status) if status.code == 404 => return Ok(true),
        Err(status) => return Err(status),
    };
    let value = old.value();
    if meta::uid(&value) != uid {
        return Ok(true);
    }
    if !definition::established(&value) {
        let said = ("NeverEstablished", "resource was never established");
        return finish(server, kind, &old, said).await;
    }
    let said = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    let old = say(server, kind, &old, true, said).await?;
    let made: KindRef = match server.caches.made_by(name) {
        Some(made) => made,
        None => return finish(server, kind, &old, DONE).await,
    };
    match delete_all(server, &made).await {
        Ok(0) => finish(server, kind, &old, DONE).await,
        Ok(_) => Ok(false),
        Err(status) => {
            let message = format!("could not issue all deletes: {status}");
            say(server, kind, &old, true, ("InstanceDeletionFailed", &message)).await?;
            Err(status)
        }
    }
}

const DONE: (&str, &str) = ("InstanceDeletionCompleted", "removed all instances");

/// Deletes what is not marked for deletion; how many are left.
async fn delete_all(server: &Arc<Inner>, kind: &KindRef) -> Result<usize, Status> {
    let list = || server.caches.of(kind).map(|resource| resource.list(&prefix(kind))).unwrap_or_default();
    let call = Call {
        server: server.clone(),
        identity: Identity::new("system:apiserver", &[SUPERUSERS]),
        target: Target::collection(kind.clone()),
        method: Method::DELETE,
        headers: HeaderMap::new(),
        query: Query::default(),
        notes: Arc::default(),
    };
    for object in list() {
        let value = object.value();
        if value["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let options = DeleteOptions::default();
        match delete(&call, meta::namespace(&value), meta::name(&value), &options).await {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    server.caches.catch_up().await.map_err(write::store_error)?;
    Ok(list().len())
}

async fn say(
    server: &Inner,
    kind: &Kind,
    old: &Object,
    status: bool,
    said: (&str, &str),
) -> Result<Object, Status> {
    let mut new = old.value();
    definition::set_condition(&mut new, "Terminating", status, said, &now());
    write::replace(server, kind, old, &new).await
}

/// Lets the definition go.
async fn finish(server: &Inner, kind: &Kind, old: &Object, said: (&str, &str)) -> Result<bool, Status> {
    let mut new = old.value();
    definition::set_condition(&mut new, "Terminating", false, said, &now());
    if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != CLEANUP);
    }
    write::replace(server, kind, old, &new).await.map(|_| true)
}
