//! Server-side apply: merges the configuration of one manager with the fields of the others; creates a missing object.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::de::IgnoredAny;
use serde_json::Value;
use skep_api::{Reason, Status, apply, conversion, meta, schema};

use crate::body;
use crate::body_checks::{check_applied, check_identity, check_kind, check_preconditions, check_schema};
use crate::call::Call;
use crate::field_manager::as_writer;
use crate::negotiate::{respond_object, view};
use crate::object::Object;
use crate::write::{Attempts, Writer};
use crate::write_options::Options;
use crate::yaml_duplicates::duplicate_keys;

pub(crate) async fn handle(writer: &Writer, mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let requested = &call.target.kind.clone();
    let options = Options::parse(&call)?;
    let view = view(&call.headers, None)?;
    let mut config = configuration(&bytes)?;
    if conversion::is_needed(requested) {
        // Unknown fields have no stored form: the schema check removes them first.
        check_kind(requested, &mut config)?;
        check_schema(&call, requested, &mut config, Vec::new(), &options)?;
        config = conversion::to_storage_kind(&mut call.target.kind, config);
    }
    report_duplicates(&call, &bytes, &options)?;
    let mut attempts = Attempts::default();
    loop {
        let (code, result) = once(writer, &call, &config, &options).await;
        // A create that lost against another one becomes an update.
        if !attempts.retry_if(&result, |status| status.is_stale() || status.reason == Reason::AlreadyExists) {
            return Ok(respond_object(code, view, requested, &result?));
        }
    }
}

/// The configuration in the body.
pub(crate) fn configuration(bytes: &Bytes) -> Result<Value, Status> {
    let mut config = body::json_or_yaml(bytes)
        .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?;
    // In an untyped object `1.0` is the integer 1.
    schema::whole_numbers(&mut config);
    Ok(config)
}

/// Reports the fields that a configuration has twice.
pub(crate) fn report_duplicates(call: &Call, bytes: &Bytes, options: &Options) -> Result<(), Status> {
    // A configuration is YAML, also in the form of JSON; most are JSON without duplicates, which is faster to see.
    let is_clean =
        serde_json::from_slice::<IgnoredAny>(bytes).is_ok() && schema::duplicates(bytes).is_empty();
    let lines = if is_clean || options.ignores_unknown_fields() { Vec::new() } else { duplicate_keys(bytes) };
    let found = options.as_yaml_errors("error converting YAML to JSON: ", lines);
    options.report_fields(&call.notes, found, |all| {
        Status::bad_request(format!("error strict decoding YAML: {all}"))
    })
}

/// One attempt: changes the object if it exists, else creates it.
async fn once(
    writer: &Writer,
    call: &Call,
    config: &Value,
    options: &Options,
) -> (StatusCode, Result<Object, Status>) {
    let target = &call.target;
    match writer.storage.latest(&target.kind, &target.namespace, &target.name).await {
        Ok(old) => (StatusCode::OK, change(writer, call, &old, config, options).await),
        Err(status) if status.code == 404 && target.subresource.is_empty() => {
            (StatusCode::CREATED, create(writer, call, config, options).await)
        }
        Err(status) => (StatusCode::OK, Err(status)),
    }
}

async fn change(
    writer: &Writer,
    call: &Call,
    old: &Object,
    config: &Value,
    options: &Options,
) -> Result<Object, Status> {
    let before = old.restored(&call.target.kind);
    let new = merged(call, &before, config, options)?;
    check_preconditions(&call.target.kind, &new, old)?;
    writer.update(call, (old, &before), new, call.part(), options).await
}

async fn create(writer: &Writer, call: &Call, config: &Value, options: &Options) -> Result<Object, Status> {
    writer.storage.caches.authorizer().check(&call.attributes("create")).await?;
    let (kind, uid) = (&call.target.kind, meta::uid(config));
    let new = merged(call, &Value::Null, config, options)?;
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(kind, &call.target.name, &why));
    }
    writer.create(call, new, options).await
}

fn merged(call: &Call, live: &Value, config: &Value, options: &Options) -> Result<Value, Status> {
    let (kind, force) = (&call.target.kind, call.query.is_true("force"));
    let mut new = as_writer(call, |writer| apply::apply(kind, live, config, writer, force))?;
    check_kind(kind, &mut new)?;
    check_applied(call, &mut new, options)?;
    check_identity(call, &mut new)?;
    Ok(new)
}
