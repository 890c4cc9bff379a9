//! The steps of a write: prepare, admit, allocate, validate, store.
//!
//! A create runs them once. An update reads the latest object first and starts again when another writer was faster.

use std::sync::Arc;

use serde_json::Value;
use skep_api::custom::definition::is_definition;
use skep_api::kinds::Part;
use skep_api::{Kind, Reason, Status, apply, meta};
use skep_store::Revision;

use crate::admission::{self, Admission, Request};
use crate::allocate::Allocator;
use crate::blocking::validate_maybe_slow;
use crate::body_checks::check_admitted;
use crate::call::Call;
use crate::field_manager;
use crate::generated_name::generate_name;
use crate::new_definition;
use crate::object::{Object, key};
use crate::stored::{Storage, drop_system_fields, stamp};
use crate::write_options::Options;

/// Generated names that are tried before the client gets an error.
const MAX_GENERATED_NAMES: usize = 8;
/// Attempts of one write against other writers of the same object.
const MAX_ATTEMPTS: usize = 16;

/// The parts that every write goes through.
pub(crate) struct Writer {
    pub(crate) storage: Storage,
    pub(crate) admission: Admission,
    pub(crate) allocator: Arc<Allocator>,
}

/// The version of itself that an object states; 0 if it states none.
fn stated_version(object: &Value) -> Revision {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Counts the attempts of a write that other writers may outrun.
#[derive(Default)]
pub(crate) struct Attempts(usize);

impl Attempts {
    /// Whether to read the object again and retry: the write was stale, and attempts are left.
    pub(crate) fn retry<T>(&mut self, result: &Result<T, Status>) -> bool {
        self.retry_if(result, Status::is_stale)
    }

    /// As [`Self::retry`], with another test of the failure.
    pub(crate) fn retry_if<T>(
        &mut self,
        result: &Result<T, Status>,
        is_race: impl FnOnce(&Status) -> bool,
    ) -> bool {
        self.0 += 1;
        self.0 < MAX_ATTEMPTS && result.as_ref().is_err_and(is_race)
    }
}

impl Writer {
    /// Creates an object under its name, or under a name generated from its `generateName`.
    pub(crate) async fn create(
        &self,
        call: &Call,
        mut object: Value,
        options: &Options,
    ) -> Result<Object, Status> {
        let version = if options.applied { 0 } else { stated_version(&object) };
        drop_system_fields(&mut object);
        let base = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        if !meta::name(&object).is_empty() || base.is_empty() {
            return self.create_named(call, object, version, options).await;
        }
        for attempt in 1.. {
            let mut new = object.clone();
            meta::of_mut(&mut new).insert("name".into(), generate_name(&base).into());
            match self.create_named(call, new, version, options).await {
                Err(status) if status.reason == Reason::AlreadyExists && attempt < MAX_GENERATED_NAMES => {}
                result => return result,
            }
        }
        Err(Status::already_exists(&call.target.kind, &base))
    }

    async fn create_named(
        &self,
        call: &Call,
        mut object: Value,
        version: Revision,
        options: &Options,
    ) -> Result<Object, Status> {
        let kind = &call.target.kind;
        kind.default_new(&mut object);
        if !options.applied {
            field_manager::track(call, &Value::Null, &mut object);
        }
        let request = Request::create(call, &self.admission, options.dry_run);
        if admission::mutate(&request, &mut object).await? {
            check_admitted(kind, &mut object)?;
            kind.default_new(&mut object);
        }
        stamp(&mut object);
        kind.prepare_create(&mut object);
        let reservation = self.allocator.reserve(kind, &mut object, None, options.dry_run).await?;
        let stored = self.store_new(&request, &object, version).await;
        if let Some(reservation) = reservation {
            reservation.end(stored.is_ok()).await;
        }
        stored
    }

    /// Validates and stores a complete new object. It states no `version` (0), or one in a dry run.
    async fn store_new(
        &self,
        request: &Request<'_>,
        object: &Value,
        version: Revision,
    ) -> Result<Object, Status> {
        let (call, kind) = (request.call, &request.call.target.kind);
        let errors = validate_maybe_slow(kind, || kind.validate_create(object));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, meta::name(object), &errors));
        }
        kind.warnings(object, None).into_iter().for_each(|warning| call.notes.warn(warning));
        let charge = admission::validate(request, object).await?;
        if request.dry_run {
            return self.dry_create(kind, object, version).await;
        }
        let stored = if version != 0 {
            Err(Status::new(Reason::Unknown, "resourceVersion should not be set on objects to be created"))
        } else {
            self.storage.insert(kind, object).await
        };
        match &stored {
            Ok(_) if is_definition(kind) => {
                new_definition::decided(&self.storage.caches, meta::name(object)).await;
            }
            Ok(_) => {}
            Err(_) => charge.refund(&self.storage.caches).await,
        }
        stored
    }

    /// Answers with the version that the author stated, as upstream.
    async fn dry_create(&self, kind: &Kind, object: &Value, version: Revision) -> Result<Object, Status> {
        let (namespace, name) = (meta::namespace(object), meta::name(object));
        if self.storage.caches.get_or_404(kind, namespace, name).is_ok() {
            return Err(Status::already_exists(kind, name));
        }
        self.storage.unstored(kind, key(kind, namespace, name).into(), version, object).await
    }

    /// Reads the object that the call names in the version of `requested`, changes it and writes it. A write that another
    /// writer outran starts again from the read. `change` gets the present object, also decoded, and returns the new one, in
    /// the kind that is stored.
    pub(crate) async fn guaranteed_update(
        &self,
        call: &Call,
        requested: &Kind,
        part: Part,
        options: &Options,
        mut change: impl FnMut(&Object, &Value) -> Result<Value, Status> + Send,
    ) -> Result<Object, Status> {
        let mut attempts = Attempts::default();
        loop {
            let old = self.storage.latest(requested, &call.target.namespace, &call.target.name).await?;
            let before = old.restored(&call.target.kind);
            let new = change(&old, &before)?;
            let result = self.update(call, (&old, &before), new, part, options).await;
            if !attempts.retry(&result) {
                return result;
            }
        }
    }

    /// One attempt of an update: prepared, admitted, validated, stored. The old object comes with what
    /// [`Object::restored`] decodes.
    pub(crate) async fn update(
        &self,
        call: &Call,
        (old, before): (&Object, &Value),
        mut new: Value,
        part: Part,
        options: &Options,
    ) -> Result<Object, Status> {
        let kind = &call.target.kind;
        keep_system_fields(&mut new, before);
        kind.default(&mut new);
        if !options.applied {
            field_manager::track(call, before, &mut new);
        }
        let request = Request::update(call, &self.admission, before, options.dry_run);
        if admission::mutate(&request, &mut new).await? {
            check_admitted(kind, &mut new)?;
            kind.default(&mut new);
        }
        kind.prepare_update(&mut new, before, part);
        apply::keep_times(before, &mut new);
        let mut reservation = None;
        if part == Part::Main {
            reservation = self.allocator.reserve(kind, &mut new, Some(before), options.dry_run).await?;
        }
        let stored = self.store_changed(&request, old, &new, part).await;
        if let Some(reservation) = reservation {
            reservation.end(stored.is_ok()).await;
        }
        stored
    }

    /// Validates and stores a complete new version.
    async fn store_changed(
        &self,
        request: &Request<'_>,
        old: &Object,
        new: &Value,
        part: Part,
    ) -> Result<Object, Status> {
        let (call, kind) = (request.call, &request.call.target.kind);
        let old_value = request.old.unwrap_or(&Value::Null);
        let errors = validate_maybe_slow(kind, || kind.validate_update(new, old_value, part));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, meta::name(new), &errors));
        }
        if part == Part::Main {
            kind.warnings(new, Some(old_value)).into_iter().for_each(|warning| call.notes.warn(warning));
        }
        let charge = admission::validate(request, new).await?;
        if request.dry_run {
            return self.storage.unstored(kind, old.key.clone(), old.revision, new).await;
        }
        let stored = self.replace_from(kind, old, old_value, new).await;
        if stored.is_err() {
            charge.refund(&self.storage.caches).await;
        }
        stored
    }

    /// Replaces `old` in the store. An object whose last finalizer went is removed instead.
    pub(crate) async fn replace(&self, kind: &Kind, old: &Object, new: &Value) -> Result<Object, Status> {
        self.replace_from(kind, old, &old.value(), new).await
    }

    /// As [`Self::replace`], with the decoded `old`.
    async fn replace_from(
        &self,
        kind: &Kind,
        old: &Object,
        before: &Value,
        new: &Value,
    ) -> Result<Object, Status> {
        if is_finished(kind, new) {
            return self.remove(kind, old).await;
        }
        self.storage.replace_from(kind, old, before, new).await
    }

    /// Removes an object and releases what was allocated to it.
    pub(crate) async fn remove(&self, kind: &Kind, old: &Object) -> Result<Object, Status> {
        let gone = self.storage.remove(kind, old).await?;
        self.allocator.release(kind, &gone).await;
        Ok(gone)
    }
}

/// Marked for deletion, and no finalizer or grace period is left.
fn is_finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    metadata["deletionTimestamp"].is_string()
        && empty(&metadata["finalizers"])
        && (kind.kind != "Namespace" || empty(&object["spec"]["finalizers"]))
        && (kind.kind != "Pod" || metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0)
}

/// Restores the fields that only the server sets.
fn keep_system_fields(new: &mut Value, old: &Value) {
    let metadata = meta::of_mut(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    metadata.remove("selfLink");
}
