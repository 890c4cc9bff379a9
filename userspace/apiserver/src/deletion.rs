//! Deletion: at once, with a grace period, or when the last finalizer is gone.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skep_api::custom::definition;
use skep_api::{Kind, Status, meta};

use crate::admission::{self, Request};
use crate::body;
use crate::call::Call;
use crate::clock::{now, timestamp};
use crate::object::Object;
use crate::write::{Attempts, Writer};

/// DeleteOptions, from the body and the query.
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

    /// `body` is a DeleteOptions object, or null.
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

    /// Whether the deletion is only for one version of the object.
    pub(crate) fn has_revision(&self) -> bool {
        self.revision.is_some()
    }

    /// The same options for only this version of the object.
    pub(crate) fn at_revision(&self, revision: u64) -> DeleteOptions {
        DeleteOptions { revision: Some(revision.to_string()), ..self.clone() }
    }

    /// Checks the preconditions.
    pub(crate) fn check(&self, kind: &Kind, old: &Object, value: &Value) -> Result<(), Status> {
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

/// The outcome of a deletion.
pub(crate) struct Deleted {
    /// As it is now, or as it was.
    pub(crate) object: Object,
    /// Whether it is removed; otherwise it is marked, and waits for finalizers or its grace period.
    pub(crate) is_gone: bool,
}

impl Writer {
    /// Removes an object of the call's kind, or marks it for deletion.
    pub(crate) async fn delete(
        &self,
        call: &Call,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let kind = &call.target.kind;
        let mut attempts = Attempts::default();
        loop {
            let old = self.storage.latest_to_delete(kind, namespace, name).await?;
            // An eviction was admitted as such already.
            if call.target.subresource.is_empty() {
                let value = old.value();
                let request = Request::delete(call, &self.admission, &value, options.dry_run);
                admission::delete(&request, &value).await?;
            }
            let result = self.delete_once(kind, &old, options).await;
            if !attempts.retry(&result) {
                return result;
            }
        }
    }

    async fn delete_once(
        &self,
        kind: &Kind,
        old: &Object,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let mut new = old.value();
        options.check(kind, old, &new)?;
        if old.unreadable.is_some() && !options.dry_run {
            // Its finalizers and its grace period are lost.
            return Ok(Deleted { object: self.storage.remove(kind, old).await?, is_gone: true });
        }
        let grace = grace_seconds(kind, &new, options);
        set_propagation(&mut new, options);
        if definition::is_definition(kind) {
            definition::mark_for_deletion(&mut new, &now());
        }
        let waits = has_finalizers(kind, &new) || grace > 0;
        if options.dry_run {
            let object = self.storage.unstored(kind, old.key.clone(), old.revision, &new).await?;
            return Ok(Deleted { object, is_gone: !waits });
        }
        if !waits {
            return Ok(Deleted { object: self.remove(kind, old).await?, is_gone: true });
        }
        if !mark(kind, &mut new, grace) {
            return Ok(Deleted { object: old.same(), is_gone: false });
        }
        Ok(Deleted { object: self.replace(kind, old, &new).await?, is_gone: false })
    }
}

/// The grace period. Only a running pod on a node has one.
fn grace_seconds(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if kind.kind != "Pod" || object["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return 0;
    }
    if matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return 0;
    }
    let requested = options.grace.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // A second deletion can shorten the period, never lengthen it.
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(running) => requested.min(running),
        None => requested,
    }
}

fn has_finalizers(kind: &Kind, object: &Value) -> bool {
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

/// Marks for deletion; false if the object is marked already, with the same grace period.
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
