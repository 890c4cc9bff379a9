//! The lifecycle of CustomResourceDefinitions: accepts names, marks kinds established, and on deletion removes the
//! instances first. `skep_api::custom::definition` decides; this file writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde_json::Value;
use skep_api::custom::definition::{self, AcceptedNames, CLEANUP, Verdict};
use skep_api::{Kind, KindRef, Status, meta};
use skep_store::Revision;
use tokio::task::JoinSet;

use super::reconcile_loop::{self, RETRY_INTERVAL};
use crate::authz::SUPERUSERS;
use crate::call::Call;
use crate::clock::now;
use crate::definitions;
use crate::deletion::DeleteOptions;
use crate::identity::Identity;
use crate::lock::Lock;
use crate::object::{Object, prefix};
use crate::query::Query;
use crate::request_info::Target;
use crate::stored::store_error;
use crate::write::Writer;

pub(super) async fn run(writer: Arc<Writer>) {
    let Some(kind) = definitions::kind() else { return };
    let (removals, known) = (Removals::default(), Lock::default());
    reconcile_loop::run(&writer.storage.caches, kind, || round(&writer, kind, &removals, &known)).await;
}

/// What a round remembers of a definition, so that the next one reads only those that changed.
struct Known {
    revision: Revision,
    names: AcceptedNames,
    /// Nothing is left to do, whatever the names of others are.
    settled: bool,
}

impl Known {
    fn of(object: &Object, definition: &Value) -> Known {
        let settled = definition["metadata"]["deletionTimestamp"].is_null()
            && definition::is_true(definition, "NamesAccepted")
            && definition::judge(definition, [], &now()) == Verdict::Same;
        Known { revision: object.revision, names: AcceptedNames::of(definition), settled }
    }
}

type KnownDefinitions = HashMap<Arc<str>, Known>;

/// Reconciles every definition that changed or is not settled; false if a write failed and must be repeated.
async fn round(
    writer: &Arc<Writer>,
    kind: &Kind,
    removals: &Removals,
    memory: &Lock<KnownDefinitions>,
) -> bool {
    let Some(resource) = writer.storage.caches.of(kind) else { return true };
    let objects = resource.list(&prefix(kind));
    let mut before = std::mem::take(&mut *memory.lock());
    let mut known = KnownDefinitions::with_capacity(objects.len());
    let mut pending = Vec::new();
    for object in &objects {
        let same = before.remove(&object.key).filter(|known| known.revision == object.revision);
        let now_known = match same {
            Some(same) if same.settled => same,
            _ => {
                let value = object.value();
                let read = Known::of(object, &value);
                if !read.settled {
                    pending.push((object, value));
                }
                read
            }
        };
        known.insert(object.key.clone(), now_known);
    }
    let mut done = true;
    for (old, definition) in pending {
        if definition["metadata"]["deletionTimestamp"].is_string() {
            removals.start(writer, &definition);
            continue;
        }
        let verdict = definition::judge(&definition, known.values().map(|known| &known.names), &now());
        let Verdict::Changed(new) = verdict else { continue };
        match writer.replace(kind, old, &new).await {
            Ok(stored) => {
                if let Some(known) = known.get_mut(&old.key) {
                    known.names = AcceptedNames::of(&stored.value());
                }
            }
            // Another writer won; its event triggers the next round.
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => {
                let name = meta::name(&definition);
                tracing::warn!(definition = name, error = %status, "write definition status failed");
                done = false;
            }
        }
    }
    *memory.lock() = known;
    done
}

/// The tasks that remove the instances of deleted definitions.
#[derive(Default)]
struct Removals {
    /// Uids of the definitions that have a task.
    uids: Arc<Lock<HashSet<String>>>,
    tasks: Lock<JoinSet<()>>,
}

impl Removals {
    /// Starts to remove the instances of a definition, unless a task does so already.
    fn start(&self, writer: &Arc<Writer>, definition: &Value) {
        let mut finalizers = definition["metadata"]["finalizers"].as_array().into_iter().flatten();
        let uid = meta::uid(definition).to_owned();
        if !finalizers.any(|finalizer| finalizer == CLEANUP) || !self.uids.lock().insert(uid.clone()) {
            return;
        }
        let (writer, uids, name) = (writer.clone(), self.uids.clone(), meta::name(definition).to_owned());
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            remove_until_gone(&writer, &name, &uid).await;
            uids.lock().remove(&uid);
        });
    }
}

/// Removes instances until none is left: again after a change of one, and at an interval.
async fn remove_until_gone(writer: &Writer, name: &str, uid: &str) {
    loop {
        match remove_instances(writer, name, uid).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(status) => tracing::info!(definition = name, error = %status, "remove instances failed"),
        }
        let caches = &writer.storage.caches;
        match caches.made_by(name).and_then(|kind| caches.of(&kind)) {
            Some(instances) => {
                let mut changes = instances.subscribe();
                drop(instances);
                let _ = tokio::time::timeout(RETRY_INTERVAL, changes.recv()).await;
            }
            None => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

const INSTANCES_REMOVED: (&str, &str) = ("InstanceDeletionCompleted", "removed all instances");

/// Deletes all instances; true when they and their definition are gone.
async fn remove_instances(writer: &Writer, name: &str, uid: &str) -> Result<bool, Status> {
    let Some(kind) = definitions::kind() else { return Ok(true) };
    let old = match writer.storage.latest(kind, "", name).await {
        Ok(old) => old,
        Err(status) if status.code == 404 => return Ok(true),
        Err(status) => return Err(status),
    };
    let value = old.value();
    if meta::uid(&value) != uid {
        return Ok(true);
    }
    if !definition::established(&value) {
        return finish(writer, kind, &old, ("NeverEstablished", "resource was never established")).await;
    }
    let reason = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    let old = set_terminating(writer, kind, &old, reason).await?;
    let Some(custom_kind) = writer.storage.caches.made_by(name) else {
        return finish(writer, kind, &old, INSTANCES_REMOVED).await;
    };
    match delete_all(writer, &custom_kind).await {
        Ok(0) => finish(writer, kind, &old, INSTANCES_REMOVED).await,
        Ok(_) => Ok(false),
        Err(status) => {
            let message = format!("could not issue all deletes: {status}");
            set_terminating(writer, kind, &old, ("InstanceDeletionFailed", &message)).await?;
            Err(status)
        }
    }
}

/// Deletes every object that is not marked for deletion; returns how many objects are left.
async fn delete_all(writer: &Writer, kind: &KindRef) -> Result<usize, Status> {
    let caches = &writer.storage.caches;
    let list = || caches.of(kind).map(|resource| resource.list(&prefix(kind))).unwrap_or_default();
    let call = Call {
        identity: Arc::new(Identity::new("system:apiserver", &[SUPERUSERS])),
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
        match writer.delete(&call, meta::namespace(&value), meta::name(&value), &options).await {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    caches.catch_up().await.map_err(store_error)?;
    Ok(list().len())
}

/// Sets the condition `Terminating` to true, with a reason and a message.
async fn set_terminating(
    writer: &Writer,
    kind: &Kind,
    old: &Object,
    reason: (&str, &str),
) -> Result<Object, Status> {
    let mut new = old.value();
    definition::set_condition(&mut new, "Terminating", true, reason, &now());
    writer.replace(kind, old, &new).await
}

/// Removes the finalizer, and with it the definition.
async fn finish(writer: &Writer, kind: &Kind, old: &Object, reason: (&str, &str)) -> Result<bool, Status> {
    let mut new = old.value();
    definition::set_condition(&mut new, "Terminating", false, reason, &now());
    if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != CLEANUP);
    }
    writer.replace(kind, old, &new).await.map(|_| true)
}
