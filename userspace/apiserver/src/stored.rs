//! Objects in the store, in whichever version a request uses: read, inserted, replaced, removed.
//!
//! Nothing is admitted, validated or allocated here: [`crate::write::Writer`] does that first.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use skep_api::{Kind, Reason, Status, document, meta};
use skep_store::{Entry, Expect, Revision, StoreError};

use crate::body::MAX_BODY_BYTES;
use crate::cache::Caches;
use crate::clock::now;
use crate::convert;
use crate::dial::Dialer;
use crate::live_authorizer::RBAC;
use crate::object::{Object, key};
use crate::webhook;

/// Bytes of a stored object, managed fields included.
const MAX_OBJECT_BYTES: usize = MAX_BODY_BYTES + (1 << 20);

/// The caches, the store below them, and the webhooks that convert custom resources. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) caches: Caches,
    pub(crate) webhooks: Arc<webhook::Client>,
}

impl Storage {
    pub(crate) fn new(caches: Caches, dialer: Dialer) -> Storage {
        Storage { webhooks: Arc::new(webhook::Client::new(caches.clone(), dialer)), caches }
    }

    /// The object in the kind's version, at least as new as every write acknowledged before this call; 404 if missing.
    pub(crate) async fn latest(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        let object = self.latest_to_delete(kind, namespace, name).await?;
        object.check_readable()?;
        Ok(object)
    }

    /// As [`Self::latest`], with objects that cannot be read: only a deletion may go on with one.
    pub(crate) async fn latest_to_delete(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        self.caches.catch_up().await.map_err(store_error)?;
        convert::one(&self.webhooks, kind, self.caches.get_or_404(kind, namespace, name)?).await
    }

    /// Stores a new object; `AlreadyExists` if its key is taken.
    pub(crate) async fn insert(&self, kind: &Kind, object: &Value) -> Result<Object, Status> {
        let at = key(kind, meta::namespace(object), meta::name(object));
        let stored = convert::to_stored(&self.webhooks, kind, object).await?;
        check_size(object, &stored)?;
        match self.caches.store().put(&at, stored, Expect::Absent).await {
            Ok(entry) => self.written(kind, &entry, object).await,
            Err(StoreError::Conflict { .. }) => Err(Status::already_exists(kind, meta::name(object))),
            Err(error) => Err(store_error(error)),
        }
    }

    /// Replaces `old` if it is still the stored version ([`Status::is_stale`] otherwise). An unchanged object is not
    /// written.
    pub(crate) async fn replace(&self, kind: &Kind, old: &Object, new: &Value) -> Result<Object, Status> {
        self.replace_from(kind, old, &old.value(), new).await
    }

    /// As [`Self::replace`], with the decoded `old`.
    pub(crate) async fn replace_from(
        &self,
        kind: &Kind,
        old: &Object,
        before: &Value,
        new: &Value,
    ) -> Result<Object, Status> {
        old.check_readable()?;
        if is_same(new, before) {
            return Ok(old.same());
        }
        let stored = convert::to_stored(&self.webhooks, kind, new).await?;
        check_size(new, &stored)?;
        match self.caches.store().put(&old.key, stored, Expect::Revision(old.revision)).await {
            Ok(entry) => self.written(kind, &entry, new).await,
            Err(StoreError::Conflict { .. }) => Err(Status::stale(kind, meta::name(new))),
            Err(error) => Err(store_error(error)),
        }
    }

    /// The answer to a write. An object of a version that is not stored has the defaults of the stored version, and what
    /// that version does not know is gone.
    async fn written(&self, kind: &Kind, entry: &Entry, value: &Value) -> Result<Object, Status> {
        self.wait_until_in_force(kind, entry.modified).await;
        if !convert::is_converted(kind) {
            return Ok(Object::written(kind, entry, value));
        }
        let stored = Arc::new(Object::from_entry(kind, entry));
        convert::one(&self.webhooks, kind, stored).await.map(|object| object.same())
    }

    /// Waits until this server decides by a write of rights: who got one may use it at once, and who lost one may not.
    async fn wait_until_in_force(&self, kind: &Kind, revision: Revision) {
        if kind.group == RBAC
            && let Err(error) = self.caches.wait_for(revision).await
        {
            // The write holds all the same.
            tracing::warn!(kind = %kind.kind, %error, "a write of rights is answered before it is in force");
        }
    }

    /// The object that a dry run would have stored.
    pub(crate) async fn unstored(
        &self,
        kind: &Kind,
        key: Arc<str>,
        revision: Revision,
        value: &Value,
    ) -> Result<Object, Status> {
        let bytes = convert::to_stored(&self.webhooks, kind, value).await?;
        let entry = Entry { key, value: bytes, created: revision, modified: revision };
        let object = Arc::new(Object::from_entry(kind, &entry));
        convert::one(&self.webhooks, kind, object).await.map(|object| object.same())
    }

    /// Removes an object; returns it as it was, at the revision of its deletion.
    pub(crate) async fn remove(&self, kind: &Kind, old: &Object) -> Result<Object, Status> {
        let name = || old.key.rsplit('/').next().unwrap_or_default();
        match self.caches.store().delete(&old.key, Expect::Revision(old.revision)).await {
            Ok((_, revision)) => {
                self.wait_until_in_force(kind, revision).await;
                Ok(old.deleted(revision))
            }
            Err(StoreError::NotFound) => Err(Status::not_found(kind, name())),
            Err(StoreError::Conflict { .. }) => Err(Status::stale(kind, name())),
            Err(error) => Err(store_error(error)),
        }
    }
}

/// Refuses an object that could not be read again, or that grew patch by patch beyond what one request may carry.
fn check_size(object: &Value, stored: &Bytes) -> Result<(), Status> {
    if stored.len() > MAX_OBJECT_BYTES {
        return Err(Status::too_large(MAX_OBJECT_BYTES));
    }
    if document::is_too_deep(object) {
        return Err(Status::bad_request("json: exceeded max depth"));
    }
    Ok(())
}

/// Whether two objects differ in nothing but their resourceVersion.
fn is_same(new: &Value, old: &Value) -> bool {
    let fields = |value: &Value| value.as_object().map_or(0, Map::len);
    let same_metadata = |new: &Value, old: &Value| {
        let count = |value: &Value| fields(value) - usize::from(value.get("resourceVersion").is_some());
        let mut all = new.as_object().into_iter().flatten();
        count(new) == count(old)
            && all.all(|(name, value)| name == "resourceVersion" || old.get(name) == Some(value))
    };
    let mut all = new.as_object().into_iter().flatten();
    fields(new) == fields(old)
        && all.all(|(name, value)| match name.as_str() {
            "metadata" => same_metadata(value, &old["metadata"]),
            name => old.get(name) == Some(value),
        })
}

/// Sets the uid and the creation time of a new object.
pub(crate) fn stamp(object: &mut Value) {
    let metadata = meta::of_mut(object);
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// Removes the fields of a new object that only the server may set.
pub(crate) fn drop_system_fields(object: &mut Value) {
    let metadata = meta::of_mut(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "selfLink",
        "uid",
        "creationTimestamp",
    ] {
        metadata.remove(field);
    }
}

/// An error of the store as the API reports it.
pub(crate) fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest } => {
            Status::expired(format!("The provided continue parameter or resource version is too old: the oldest is {oldest}"))
        }
        StoreError::FutureRevision { wanted, current } => Status::timeout(format!("Too large resource version: {wanted}, current: {current}"))
            .with_details(json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]})),
        StoreError::TooLarge(_) => Status::new(Reason::RequestEntityTooLarge, error.to_string()),
        StoreError::Full(_) => Status::new(Reason::InternalError, error.to_string()).with_code(507),
        error => Status::internal(error),
    }
}
