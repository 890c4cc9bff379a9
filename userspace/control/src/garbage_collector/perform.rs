//! The requests of one collection. Before anything is deleted the server is asked for the object and for each of its
//! owners as they are now, and the delete names the uid and the version of that answer.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, GcDecision, ORPHAN, Owner, Uid};
use super::verdict::{OwnerState, Verdict, judge, state_of};
use crate::action::Propagation;
use crate::cache::Key;
use crate::discovery::Discovered;
use crate::events::{Recorder, Subject};
use crate::guard::caught_async;

/// How the work on one object ended.
pub(super) enum Ended {
    /// Its watch shows the rest.
    Done,
    /// The server has no such object.
    Missing,
    /// The server's answer: nothing is to be done, or it was patched to this.
    Present(Box<ObjectMeta>),
    /// It is decided again when other kinds are served.
    Unresolvable,
    Failed,
}

pub(super) struct CollectionResult {
    pub(super) uid: Uid,
    pub(super) ended: Ended,
}

/// Runs the work on one object. A panic is a failure of that object's work, which backs off.
pub(super) async fn guarded(uid: Uid, work: impl Future<Output = CollectionResult>) -> CollectionResult {
    caught_async(work).await.unwrap_or_else(|error| {
        tracing::error!(%uid, %error, "collect object failed; it is retried");
        CollectionResult { uid, ended: Ended::Failed }
    })
}

/// An object with its resource.
pub(super) type Target = (Uid, Arc<ApiResource>, Key);

/// What every job needs.
#[derive(Clone)]
pub(super) struct Jobs {
    pub(super) client: Client,
    pub(super) recorder: Arc<Recorder>,
    pub(super) discovered: Arc<Discovered>,
}

#[derive(Debug, thiserror::Error)]
enum CollectError {
    /// Not the same as an object that does not exist.
    #[error("{0} is not served in this version now")]
    NotServed(String),
    #[error(transparent)]
    Request(#[from] kube::Error),
}

impl Jobs {
    fn objects(&self, api: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), api),
            _ => Api::namespaced_with(self.client.clone(), namespace, api),
        }
    }

    /// The metadata of an object; `None` if the server serves the kind and has no object of this name.
    async fn get(&self, api: &ApiResource, key: &Key) -> Result<Option<ObjectMeta>, CollectError> {
        match self.objects(api, &key.namespace).get_metadata(&key.name).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Only an answer about an object names it.
                match status.details.as_ref().is_some_and(|details| details.name == *key.name) {
                    true => Ok(None),
                    false => Err(CollectError::NotServed(format!("{}.{}", api.plural, api.group))),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Performs a decision about one object. `dependents` are those that lose an owner that orphans them.
    pub(super) async fn perform(
        self,
        target: Target,
        decision: GcDecision,
        dependents: Vec<Target>,
    ) -> CollectionResult {
        let ended = self.try_perform(&target, decision, dependents).await.unwrap_or_else(|error| {
            // Deleted or changed meanwhile: the watch shows it, and the backoff retries.
            tracing::debug!(kind = target.1.kind, key = %target.2, %error, "collect object failed; it is retried");
            Ended::Failed
        });
        CollectionResult { uid: target.0, ended }
    }

    async fn try_perform(
        &self,
        target: &Target,
        decision: GcDecision,
        dependents: Vec<Target>,
    ) -> Result<Ended, CollectError> {
        let (uid, api, key) = target;
        let live = match self.get(api, key).await? {
            Some(live) if live.uid.as_deref() == Some(uid) => live,
            _ => return Ok(Ended::Missing),
        };
        let objects = self.objects(api, &key.namespace);
        match decision {
            GcDecision::Verify { has_dependents, foreign } => {
                self.verify(target, live, has_dependents, &foreign).await
            }
            GcDecision::Unblock => {
                let mut owners = live.owner_references.clone().unwrap_or_default();
                owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
                Ok(present(patch(&objects, &live, json!({"ownerReferences": owners})).await?))
            }
            GcDecision::Orphan(_) => {
                for dependent in dependents {
                    self.orphan(dependent, uid).await?;
                }
                Ok(remove_finalizer(&objects, &live, ORPHAN).await?)
            }
            GcDecision::Finish => Ok(remove_finalizer(&objects, &live, FOREGROUND).await?),
            GcDecision::Nothing => Ok(Ended::Done),
        }
    }

    /// Asks the server about every owner and does what follows.
    async fn verify(
        &self,
        (uid, api, key): &Target,
        live: ObjectMeta,
        has_dependents: bool,
        foreign: &[Owner],
    ) -> Result<Ended, CollectError> {
        let mut states = Vec::new();
        for owner in live.owner_references.iter().flatten() {
            states.push(self.owner_state(owner, &key.namespace).await?);
        }
        for owner in foreign {
            self.report_foreign(api, key, uid, owner).await;
        }
        let objects = self.objects(api, &key.namespace);
        match judge(&live, &states, has_dependents) {
            Verdict::Keep => Ok(present(live)),
            Verdict::Unresolvable => Ok(Ended::Unresolvable),
            Verdict::WrongScope => Ok(Ended::Done),
            Verdict::Delete(propagation) => {
                tracing::info!(kind = api.kind, %key, ?propagation, "delete object whose owners are gone");
                delete(&objects, &live, propagation).await?;
                Ok(Ended::Done)
            }
            Verdict::KeepOwners(owners) => {
                Ok(present(patch(&objects, &live, json!({"ownerReferences": owners})).await?))
            }
        }
    }

    async fn owner_state(
        &self,
        owner: &OwnerReference,
        namespace: &Arc<str>,
    ) -> Result<OwnerState, CollectError> {
        let Some(resource) = self.discovered.resolve(&owner.api_version, &owner.kind) else {
            return Ok(OwnerState::Unresolvable);
        };
        let namespace: Arc<str> = match (resource.namespaced, namespace.is_empty()) {
            (true, true) => return Ok(OwnerState::WrongScope),
            (true, false) => namespace.clone(),
            (false, _) => "".into(),
        };
        let key = Key { namespace, name: owner.name.as_str().into() };
        let live = self.get(&resource.api, &key).await?;
        let live = live.filter(|live| live.uid.as_deref() == Some(&owner.uid));
        Ok(live.as_ref().map_or(OwnerState::Absent, state_of))
    }

    async fn report_foreign(&self, api: &ApiResource, key: &Key, uid: &Uid, owner: &Owner) {
        let subject = Subject {
            source: "garbage-collector-controller",
            api_version: &api.api_version,
            kind: &api.kind,
            key,
            uid,
        };
        let namespace = &key.namespace;
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace \"{namespace}\"",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.recorder.record_about(&self.client, subject, true, "OwnerRefInvalidNamespace", message).await;
    }

    /// Removes the reference to an owner.
    async fn orphan(&self, (uid, api, key): Target, owner: &Uid) -> Result<(), CollectError> {
        let Some(live) = self.get(&api, &key).await?.filter(|live| live.uid.as_deref() == Some(&uid)) else {
            return Ok(());
        };
        let owners = live.owner_references.iter().flatten();
        let keep: Vec<_> = owners.filter(|o| *o.uid != **owner).collect();
        patch(&self.objects(&api, &key.namespace), &live, json!({"ownerReferences": keep})).await?;
        Ok(())
    }
}

fn present(meta: ObjectMeta) -> Ended {
    Ended::Present(Box::new(meta))
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
) -> kube::Result<Ended> {
    let keep: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    match patch(target, live, json!({"finalizers": keep})).await {
        // The removal of the last finalizer deletes the object; a watch shows that.
        Ok(_) => Ok(Ended::Done),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Ended::Done),
        Err(error) => Err(error),
    }
}
