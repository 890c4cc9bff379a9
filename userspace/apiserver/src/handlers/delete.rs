//! Deletion: at once, with grace, or when the last finalizer is gone.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skep_api::{Kind, Status, meta};

use super::list::Selection;
use super::update::TRIES;
use crate::admission::{self, Request};
use crate::call::Call;
use crate::convert;
use crate::negotiate::{render, respond, respond_value, view};
use crate::object::Object;
use crate::write::{self, store_error, timestamp};
use crate::{Inner, body, crd};

/// Options of one deletion, from the body or the query.
#[derive(Clone, Default)]
pub(crate) struct DeleteOptions {
    grace: Option<i64>,
    propagation: Option<String>,
    uid: Option<String>,
    revision: Option<String>,
    dry_run: bool,
}

impl DeleteOptions {
    pub(crate) fn parse(call: &Call, bytes: &Bytes) -> Result<DeleteOptions, Status> {
        let body = body::decode_optional(&call.headers, bytes)?;
        DeleteOptions::from_value(call, &body)
    }

    /// Of a body that is, or contains, DeleteOptions.
    pub(crate) fn from_value(call: &Call, body: &Value) -> Result<DeleteOptions, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = match call.query.get("gracePeriodSeconds") {
            Some(seconds) => Some(
                seconds.parse().map_err(|_| Status::bad_request("gracePeriodSeconds must be a number"))?,
            ),
            None => body["gracePeriodSeconds"].as_i64(),
        };
        if grace.is_some_and(|seconds| seconds < 0) {
            return Err(Status::invalid_body(
                "DeleteOptions.meta.k8s.io",
                "",
                "gracePeriodSeconds: Invalid value: must be greater than or equal to 0",
            ));
        }
        let mut propagation =
            call.query.get("propagationPolicy").map(str::to_owned).or(text(&body["propagationPolicy"]));
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground")
        {
            return Err(Status::invalid_body(
                "DeleteOptions.meta.k8s.io",
                "",
                &format!(
                    "propagationPolicy: Unsupported value: \"{policy}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
                ),
            ));
        }
        if body["orphanDependents"] == true {
            propagation.get_or_insert_with(|| "Orphan".to_owned());
        }
        let dry_run = call.query.get("dryRun") == Some("All") || body["dryRun"][0] == "All";
        let (uid, revision) =
            (text(&body["preconditions"]["uid"]), text(&body["preconditions"]["resourceVersion"]));
        Ok(DeleteOptions { grace, propagation, uid, revision, dry_run })
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    fn check(&self, kind: &Kind, old: &Object, value: &Value) -> Result<(), Status> {
        let name = meta::name(value);
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != meta::uid(value)) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(value)
            );
            return Err(Status::conflict(kind, name, &why));
        }
        if let Some(revision) = self.revision.as_deref().filter(|r| *r != old.revision.to_string()) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
                old.revision
            );
            return Err(Status::conflict(kind, name, &why));
        }
        Ok(())
    }
}

pub(crate) async fn handle(call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, None)?;
    let options = DeleteOptions::parse(&call, &bytes)?;
    let (object, gone) = delete(&call, &call.target.namespace, &call.target.name, &options).await?;
    // Pods and namespaces are shown as they are or were; of others that are gone, a word that they are.
    if gone && !matches!(&*kind.kind, "Pod" | "Namespace") {
        let value = object.value();
        return Ok(respond_value(
            StatusCode::OK,
            &Status::success(kind, meta::name(&value), meta::uid(&value)),
        ));
    }
    Ok(respond(StatusCode::OK, render(view, kind, &object)))
}

/// Deletes, or marks for deletion; the object as it is or was, and whether it is gone.
pub(crate) async fn delete(
    call: &Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Object, bool), Status> {
    let (server, kind) = (&call.server, &call.target.kind);
    for attempt in 1.. {
        let old = write::find_latest(server, kind, namespace, name).await?;
        // What asks for an eviction was asked about then.
        if call.target.subresource.is_empty() {
            let value = old.value();
            admission::delete(&Request::delete(call, &value, options.dry_run), &value).await?;
        }
        match delete_once(server, kind, &old, options).await {
            Err(status) if status.is_stale() && attempt < TRIES => {}
            result => return result,
        }
    }
    Err(Status::stale(kind, name))
}

async fn delete_once(
    server: &Inner,
    kind: &Kind,
    old: &Object,
    options: &DeleteOptions,
) -> Result<(Object, bool), Status> {
    let mut new = old.value();
    options.check(kind, old, &new)?;
    let grace = grace(kind, &new, options);
    set_propagation(&mut new, options);
    if crd::is_definition(kind) {
        crd::mark(&mut new);
    }
    let waits = waits(kind, &new) || grace > 0;
    if options.dry_run {
        return Ok((write::unstored(kind, old, &new), !waits));
    }
    if !waits {
        return write::remove(server, kind, old).await.map(|gone| (gone, true));
    }
    if !mark(kind, &mut new, grace) {
        return Ok((write::unstored(kind, old, &old.value()), false));
    }
    let marked = write::replace(server, kind, old, &new).await?;
    Ok((marked, false))
}

/// Seconds that the object may take to end. Only a pod on a node takes time.
fn grace(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if kind.kind != "Pod" || object["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return 0;
    }
    if matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return 0;
    }
    let asked = options.grace.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // A second deletion can shorten the time, never lengthen it.
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(running) => asked.min(running),
        None => asked,
    }
}

fn waits(kind: &Kind, object: &Value) -> bool {
    let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    some(&object["metadata"]["finalizers"]) || kind.kind == "Namespace" && some(&object["spec"]["finalizers"])
}

fn set_propagation(object: &mut Value, options: &DeleteOptions) {
    let Some(policy) = &options.propagation else { return };
    let metadata = meta::of_mut(object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut() {
        list.retain(|finalizer| finalizer != "orphan" && finalizer != "foregroundDeletion");
        match policy.as_str() {
            "Orphan" => list.push("orphan".into()),
            "Foreground" => list.push("foregroundDeletion".into()),
            _ => {}
        }
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Marks for deletion; false if it is marked so already.
fn mark(kind: &Kind, object: &mut Value, grace: i64) -> bool {
    let metadata = meta::of_mut(object);
    let marked = metadata.get("deletionTimestamp").is_some_and(Value::is_string);
    if marked
        && (kind.kind != "Pod"
            || metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64) == Some(grace))
    {
        return false;
    }
    let at = Timestamp::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    metadata.insert("deletionTimestamp".into(), timestamp(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if !marked && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if kind.kind == "Namespace" {
        object["status"]["phase"] = "Terminating".into();
    }
    true
}

pub(crate) async fn handle_collection(call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let options = DeleteOptions::parse(&call, &bytes)?;
    let selection = Selection::of(kind, &call.target.namespace, &call.query)?;
    call.server.caches.catch_up().await.map_err(store_error)?;
    let resource = call.server.caches.of(kind).ok_or_else(Status::no_such_path)?;
    let mut deleted = Vec::new();
    let objects = convert::all(&call.server, kind, resource.list(&selection.prefix)).await?;
    for object in objects.iter().filter(|object| selection.selects(object)) {
        let value = object.value();
        match delete(&call, meta::namespace(&value), meta::name(&value), &options).await {
            Ok((object, _)) => deleted.push(object.value()),
            // Somebody else was faster.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": kind.list_kind(), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": call.server.caches.applied().to_string()}, "items": deleted,
    });
    Ok(respond_value(StatusCode::OK, &list))
}
