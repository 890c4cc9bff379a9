//! What every write goes through: options, decoding, preparation, validation, the store.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skep_api::kinds::Part;
use skep_api::schema::{self, SchemaProblem};
use skep_api::{Errors, Kind, Reason, Status, meta};
use skep_store::{Expect, StoreError};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::admission::{self, Request};
use crate::call::Call;
use crate::negotiate::{View, render, respond};
use crate::object::{Object, key, to_stored};
use crate::query::Query;
use crate::{Inner, allocate, convert, crd, managers};

/// Query options of a write.
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    validation: FieldValidation,
    /// Server-side apply has noted the owners of fields already.
    pub(crate) applied: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Options {
    pub(crate) fn parse(query: &Query) -> Result<Options, Status> {
        let dry_run = match query.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(Status::unsupported_option("dryRun", other, &["All"]));
            }
        };
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = ["Ignore", "Strict", "Warn"];
                return Err(Status::unsupported_option("fieldValidation", other, &supported));
            }
        };
        managers::check_name(query)?;
        Ok(Options { dry_run, validation, applied: false })
    }

    /// As this, for an object whose owners are noted.
    pub(crate) fn of_apply(self) -> Options {
        Options { applied: true, ..self }
    }

    /// Findings of a strict reading: ignored, warned of, or refused as `refusal` words all of them.
    pub(crate) fn judge(
        &self,
        found: Vec<String>,
        refusal: impl FnOnce(&str) -> Status,
    ) -> Result<Warnings, Status> {
        match self.validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !found.is_empty() => Err(refusal(&found.join(", "))),
            FieldValidation::Warn | FieldValidation::Strict => Ok(found),
        }
    }
}

/// Warnings for the client, sent as headers.
pub(crate) type Warnings = Vec<String>;

/// A decoded body against the kind's schema: unknown fields are dropped, warned of or refused; wrong types refused.
pub(crate) fn check_schema(
    kind: &Kind,
    object: &mut Value,
    text: Option<&[u8]>,
    options: &Options,
) -> Result<Warnings, Status> {
    let problems = kind.check_schema(object);
    if let Some(wrong) = problems.iter().find(|problem| matches!(problem, SchemaProblem::WrongType { .. })) {
        let form = format!(
            "{} in version \"{}\" cannot be handled as a {}: {wrong}",
            kind.kind, kind.version, kind.kind
        );
        return Err(Status::bad_request(form));
    }
    let mut found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if let Some(text) = text.filter(|_| options.validation != FieldValidation::Ignore) {
        found.extend(schema::duplicates(text).iter().map(|path| format!("duplicate field \"{path}\"")));
    }
    options.judge(found, |all| {
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {all}",
            kind.kind, kind.version, kind.kind
        ))
    })
}

/// The body must be of the kind that the path names.
pub(crate) fn check_kind(kind: &Kind, object: &mut Value) -> Result<(), Status> {
    let wanted = (kind.api_version(), &*kind.kind);
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let found = object["kind"].as_str().unwrap_or_default();
    if !api_version.is_empty() && api_version != wanted.0 {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            wanted.0
        )));
    }
    if !found.is_empty() && found != wanted.1 {
        return Err(Status::bad_request(format!(
            "{found} in version \"{}\" cannot be handled as a {}: no kind \"{found}\" is registered for this path",
            kind.version, kind.kind
        )));
    }
    object["apiVersion"] = wanted.0.into();
    object["kind"] = wanted.1.into();
    Ok(())
}

/// Namespace and name of the body must be those of the path.
pub(crate) fn check_place(call: &Call, object: &mut Value) -> Result<(), Status> {
    let target = &call.target;
    let metadata = meta::of_mut(object);
    if target.kind.namespaced() {
        let found = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !found.is_empty() && found != target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("namespace".into(), target.namespace.as_str().into());
    } else {
        metadata.remove("namespace");
    }
    if !target.name.is_empty() {
        let found = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        if !found.is_empty() && found != target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({})",
                target.name
            )));
        }
        metadata.insert("name".into(), target.name.as_str().into());
    }
    Ok(())
}

/// An object of the cache, or 404.
pub(crate) fn find(server: &Inner, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    let found = server.caches.of(kind).and_then(|resource| resource.get(&key(kind, namespace, name)));
    found.ok_or_else(|| Status::not_found(kind, name))
}

/// As [`find`], for a write: as new as anything acknowledged before.
pub(crate) async fn find_latest(
    server: &Inner,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Arc<Object>, Status> {
    server.caches.catch_up().await.map_err(store_error)?;
    convert::one(server, kind, find(server, kind, namespace, name)?).await
}

/// Stores a new object.
pub(crate) async fn insert(server: &Inner, kind: &Kind, object: &Value) -> Result<Object, Status> {
    let at = key(kind, meta::namespace(object), meta::name(object));
    let stored = convert::to_stored(server, kind, object).await?;
    match server.caches.store().put(&at, stored, Expect::Absent).await {
        Ok(entry) => Ok(Object::written(kind, &entry, object)),
        Err(StoreError::Conflict { .. }) => Err(Status::already_exists(kind, meta::name(object))),
        Err(error) => Err(store_error(error)),
    }
}

/// Replaces `old`; an object that did not change is not written, and one that waited for its last finalizer goes.
pub(crate) async fn replace(
    server: &Inner,
    kind: &Kind,
    old: &Object,
    new: &Value,
) -> Result<Object, Status> {
    if is_finished(kind, new) {
        return remove(server, kind, old).await;
    }
    if is_same(new, &old.value()) {
        return Ok(Object {
            key: old.key.clone(),
            revision: old.revision,
            bytes: old.bytes.clone(),
            version: old.version.clone(),
            selectable: old.selectable.clone(),
        });
    }
    let stored = convert::to_stored(server, kind, new).await?;
    match server.caches.store().put(&old.key, stored, Expect::Revision(old.revision)).await {
        Ok(entry) => Ok(Object::written(kind, &entry, new)),
        Err(StoreError::Conflict { .. }) => Err(Status::stale(kind, meta::name(new))),
        Err(error) => Err(store_error(error)),
    }
}

/// Whether two objects differ in nothing but their version.
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

/// Removes an object; what it was, at the revision of its deletion.
pub(crate) async fn remove(server: &Inner, kind: &Kind, old: &Object) -> Result<Object, Status> {
    match server.caches.store().delete(&old.key, Expect::Revision(old.revision)).await {
        Ok((_, revision)) => {
            let gone = old.deleted(revision);
            allocate::release(server, kind, &gone.value()).await;
            Ok(gone)
        }
        Err(StoreError::NotFound) => {
            Err(Status::not_found(kind, old.key.rsplit('/').next().unwrap_or_default()))
        }
        Err(StoreError::Conflict { .. }) => {
            Err(Status::stale(kind, old.key.rsplit('/').next().unwrap_or_default()))
        }
        Err(error) => Err(store_error(error)),
    }
}

/// Marked for deletion, with nobody left to wait for.
fn is_finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    metadata["deletionTimestamp"].is_string()
        && empty(&metadata["finalizers"])
        && (kind.kind != "Namespace" || empty(&object["spec"]["finalizers"]))
        && (kind.kind != "Pod" || metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0)
}

/// An update as every path to it ends: prepared, admitted, validated, stored.
pub(crate) async fn update(
    call: &Call,
    old: &Object,
    mut new: Value,
    part: Part,
    options: &Options,
) -> Result<Object, Status> {
    let (server, kind) = (&call.server, &call.target.kind);
    let before = old.value();
    keep_system_fields(&mut new, &before);
    kind.prepare_update(&mut new, &before, part);
    if !options.applied {
        managers::track(call, &before, &mut new, part);
    }
    let request = Request::update(call, &before, options.dry_run);
    if admission::mutate(&request, &mut new).await? {
        kind.prepare_update(&mut new, &before, part);
    }
    let mut reservation = None;
    if part == Part::Main {
        reservation = allocate::reserve(server, kind, &mut new, Some(&before), options.dry_run).await?;
    }
    let stored = store(&request, old, &new, part).await;
    if let Some(reservation) = reservation {
        reservation.end(stored.is_ok()).await;
    }
    stored
}

/// Validates and stores a version that is complete.
async fn store(request: &Request<'_>, old: &Object, new: &Value, part: Part) -> Result<Object, Status> {
    let (server, kind) = (&request.call.server, &request.call.target.kind);
    let old_value = request.old.unwrap_or(&Value::Null);
    let errors = judged(kind, || kind.validate_update(new, old_value, part));
    if !errors.is_empty() {
        return Err(Status::invalid(kind, meta::name(new), &errors));
    }
    if part == Part::Main {
        kind.warnings(new).into_iter().for_each(|warning| request.call.notes.warn(warning));
    }
    let charge = admission::validate(request, new).await?;
    if request.dry_run {
        return Ok(unstored(kind, old, new));
    }
    let stored = replace(server, kind, old, new).await;
    if stored.is_err() {
        charge.refund(server).await;
    }
    stored
}

/// Judges an object. Rules of definitions may take a second, and so may a definition: others are served meanwhile.
pub(crate) fn judged(kind: &Kind, judge: impl FnOnce() -> Errors) -> Errors {
    let slow = crd::is_definition(kind)
        || kind.custom.as_ref().is_some_and(|custom| custom.version.schema.has_rules());
    if slow { aside(judge) } else { judge() }
}

/// Runs what may take a second; others are served meanwhile.
pub(crate) fn aside<T>(run: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(run),
        _ => run(),
    }
}

/// What only the server sets stays as it is.
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

/// What a dry run would have stored.
pub(crate) fn unstored(kind: &Kind, old: &Object, new: &Value) -> Object {
    let entry = skep_store::Entry {
        key: old.key.clone(),
        value: to_stored(new),
        created: old.revision,
        modified: old.revision,
    };
    Object::from_entry(kind, &entry)
}

/// Name, uid, times and all else that a new object gets from the server.
pub(crate) fn stamp(object: &mut Value) {
    let metadata = meta::of_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// The present second, as the API writes times.
pub(crate) fn now() -> String {
    timestamp(Timestamp::now())
}

pub(crate) fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The answer to a write.
pub(crate) fn respond_object(
    code: StatusCode,
    view: View,
    kind: &Kind,
    object: &Object,
    warnings: &Warnings,
) -> Response {
    let mut response = respond(code, render(view, kind, object));
    add_warnings(response.headers_mut(), warnings);
    response
}

pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &Warnings) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(http::header::WARNING, value);
        }
    }
}

/// The store's errors as the API tells them.
pub(crate) fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest } => {
            Status::expired(format!("The provided continue parameter or resource version is too old: the oldest is {oldest}"))
        }
        StoreError::FutureRevision { wanted, current } => Status::timeout(format!("Too large resource version: {wanted}, current: {current}"))
            .with_details(json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]})),
        StoreError::Full(_) => Status::new(Reason::InternalError, error.to_string()).with_code(507),
        error => Status::internal(error),
    }
}
