//! The requests of one collection. Before anything is deleted the server is asked for the object as it is now, and the
//! delete names the uid and the version of that answer.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, GcDecision, ORPHAN, Owner, Uid};
use crate::action::Propagation;
use crate::cache::Key;

/// What a request showed about the object that was collected.
pub(super) enum Shown {
    /// Nothing new.
    Unknown,
    Missing,
    Present(Box<ObjectMeta>),
}

/// How the work on one object ended.
pub(super) struct CollectionResult {
    pub(super) uid: Uid,
    pub(super) shown: Shown,
    pub(super) absent_owners: Vec<Uid>,
    pub(super) present_owners: Vec<Uid>,
    pub(super) failed: bool,
    /// The object must be decided again with these answers.
    pub(super) requeue: bool,
}

impl CollectionResult {
    fn new(uid: Uid) -> Self {
        CollectionResult {
            uid,
            shown: Shown::Unknown,
            absent_owners: Vec::new(),
            present_owners: Vec::new(),
            failed: false,
            requeue: false,
        }
    }
}

/// An object with its resource.
pub(super) type Target = (Uid, Arc<ApiResource>, Key);

/// Asks whether owners exist.
pub(super) async fn check_owners(
    client: Client,
    uid: Uid,
    namespace: Arc<str>,
    owners: Vec<(Owner, Option<Arc<ApiResource>>)>,
) -> CollectionResult {
    let mut done = CollectionResult { requeue: true, ..CollectionResult::new(uid) };
    for (owner, api) in owners {
        // The server cannot be asked for a kind that it does not serve; as upstream, such an owner counts as present.
        let Some(api) = api else {
            done.present_owners.push(owner.uid);
            continue;
        };
        match get(&client, &api, &Key { namespace: namespace.clone(), name: owner.name.clone() }).await {
            Ok(Some(meta)) if meta.uid.as_deref() == Some(&*owner.uid) => done.present_owners.push(owner.uid),
            Ok(_) => done.absent_owners.push(owner.uid),
            Err(error) => {
                tracing::info!(owner = %owner.name, kind = %owner.kind, %error, "get owner failed; it is retried");
                return CollectionResult { failed: true, requeue: false, ..done };
            }
        }
    }
    done
}

fn objects(client: &Client, api: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    match namespace {
        "" => Api::all_with(client.clone(), api),
        _ => Api::namespaced_with(client.clone(), namespace, api),
    }
}

/// The metadata of an object. An owner that is not in the dependent's namespace may be cluster-wide.
async fn get(client: &Client, api: &ApiResource, key: &Key) -> kube::Result<Option<ObjectMeta>> {
    let found = objects(client, api, &key.namespace).get_metadata_opt(&key.name).await?;
    let found = match found {
        None if !key.namespace.is_empty() => {
            objects(client, api, "").get_metadata_opt(&key.name).await.unwrap_or(None)
        }
        found => found,
    };
    Ok(found.map(|o| o.metadata))
}

/// Performs a decision about one object. `dependents` are those that lose an owner that orphans them.
pub(super) async fn perform(
    client: Client,
    target: Target,
    decision: GcDecision,
    dependents: Vec<Target>,
) -> CollectionResult {
    let (uid, api, key) = &target;
    let done = CollectionResult::new(uid.clone());
    match try_perform(&client, &target, decision, dependents).await {
        Ok(shown) => CollectionResult { shown, ..done },
        // Deleted or changed meanwhile: the watch shows it, and the backoff retries.
        Err(error) => {
            tracing::debug!(kind = api.kind, %key, %error, "collect object failed; it is retried");
            CollectionResult { failed: true, ..done }
        }
    }
}

async fn try_perform(
    client: &Client,
    (uid, api, key): &Target,
    decision: GcDecision,
    dependents: Vec<Target>,
) -> kube::Result<Shown> {
    let target = objects(client, api, &key.namespace);
    let live = match target.get_metadata_opt(&key.name).await? {
        Some(o) if o.metadata.uid.as_deref() == Some(uid) => o.metadata,
        _ => return Ok(Shown::Missing),
    };
    match decision {
        GcDecision::Delete(propagation) => {
            delete(&target, &live, propagation).await?;
            Ok(Shown::Unknown)
        }
        GcDecision::DropOwners(dropped) => {
            let owners = live.owner_references.iter().flatten();
            let keep: Vec<_> = owners.filter(|o| !dropped.iter().any(|uid| **uid == *o.uid)).collect();
            patch(&target, &live, json!({"ownerReferences": keep})).await.map(present)
        }
        GcDecision::Unblock => {
            let mut owners = live.owner_references.clone().unwrap_or_default();
            owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
            patch(&target, &live, json!({"ownerReferences": owners})).await.map(present)
        }
        GcDecision::Orphan(_) => {
            for (_, api, at) in dependents {
                let dependent = objects(client, &api, &at.namespace);
                let Some(object) = dependent.get_metadata_opt(&at.name).await? else { continue };
                let owners = object.metadata.owner_references.iter().flatten();
                let keep: Vec<_> = owners.filter(|o| o.uid != **uid).collect();
                patch(&dependent, &object.metadata, json!({"ownerReferences": keep})).await?;
            }
            remove_finalizer(&target, &live, ORPHAN).await
        }
        GcDecision::Finish => remove_finalizer(&target, &live, FOREGROUND).await,
        GcDecision::Nothing | GcDecision::CheckOwners(_) => Ok(Shown::Unknown),
    }
}

fn present(meta: ObjectMeta) -> Shown {
    Shown::Present(Box::new(meta))
}

async fn delete(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    propagation: Propagation,
) -> kube::Result<()> {
    let params = DeleteParams {
        propagation_policy: Some(propagation.into()),
        preconditions: Some(Preconditions {
            uid: live.uid.clone(),
            resource_version: live.resource_version.clone(),
        }),
        ..Default::default()
    };
    match target.delete(live.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Patches the metadata of exactly this version of the object.
async fn patch(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    mut metadata: Value,
) -> kube::Result<ObjectMeta> {
    if let Some(fields) = metadata.as_object_mut() {
        fields.insert("uid".into(), json!(live.uid));
        fields.insert("resourceVersion".into(), json!(live.resource_version));
    }
    let body = Patch::Merge(json!({"metadata": metadata}));
    let name = live.name.as_deref().unwrap_or_default();
    target.patch_metadata(name, &PatchParams::default(), &body).await.map(|o| o.metadata)
}

async fn remove_finalizer(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    finalizer: &str,
) -> kube::Result<Shown> {
    let keep: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    match patch(target, live, json!({"finalizers": keep})).await {
        // The removal of the last finalizer deletes the object; a watch shows that.
        Ok(_) => Ok(Shown::Unknown),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Shown::Missing),
        Err(error) => Err(error),
    }
}
