//! Server-side apply: a configuration that its manager wants, merged with what others want; creates what is missing.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skep_api::{Reason, Status, apply, conversion, meta, schema};

use super::create::create;
use super::update::{TRIES, check_preconditions, part};
use crate::body;
use crate::call::Call;
use crate::managers::{as_writer, invalid};
use crate::negotiate::view;
use crate::object::Object;
use crate::write::{self, Options, Warnings, check_kind, check_place, check_schema, respond_object};

pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

pub(crate) async fn handle(mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind.clone();
    let options = Options::parse(&call.query)?.of_apply();
    let view = view(&call.headers, None)?;
    if call.query.get("fieldManager").is_none() {
        return Err(invalid("fieldManager: Required value: is required for apply patch"));
    }
    let mut config = body::json_or_yaml(&bytes)?;
    if conversion::is_needed(kind) {
        // Only what was understood can be said in the stored form.
        check_kind(kind, &mut config)?;
        check_schema(kind, &mut config, None, &options)?;
        config = conversion::to_storage_kind(&mut call.target.kind, config);
    }
    let warnings = duplicates(&bytes, &options)?;
    for attempt in 1.. {
        let (code, done) = once(&call, &config, &options).await;
        match done {
            Err(status) if is_race(&status) && attempt < TRIES => {}
            Err(status) => return Err(status),
            Ok(stored) => return Ok(respond_object(code, view, kind, &stored, &warnings)),
        }
    }
    Err(Status::stale(kind, &call.target.name))
}

/// Somebody else wrote, or made it, at the same time.
fn is_race(status: &Status) -> bool {
    status.reason == Reason::AlreadyExists || status.is_stale()
}

fn duplicates(bytes: &Bytes, options: &Options) -> Result<Warnings, Status> {
    let found: Vec<String> =
        schema::duplicates(bytes).iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    options.judge(found, |all| Status::bad_request(format!("error strict decoding YAML: {all}")))
}

async fn once(call: &Call, config: &Value, options: &Options) -> (StatusCode, Result<Object, Status>) {
    let target = &call.target;
    match write::find_latest(&call.server, &target.kind, &target.namespace, &target.name).await {
        Ok(old) => (StatusCode::OK, change(call, &old, config, options).await),
        Err(status) if status.code == 404 && target.subresource.is_empty() => {
            (StatusCode::CREATED, make(call, config, options).await)
        }
        Err(status) => (StatusCode::OK, Err(status)),
    }
}

async fn change(call: &Call, old: &Object, config: &Value, options: &Options) -> Result<Object, Status> {
    let part = part(call);
    let new = merged(call, &old.value(), config, options)?;
    check_preconditions(&call.target.kind, &new, old)?;
    write::update(call, old, new, part, options).await
}

async fn make(call: &Call, config: &Value, options: &Options) -> Result<Object, Status> {
    call.server.caches.access().check(&call.attributes("create"))?;
    let (kind, uid) = (&call.target.kind, meta::uid(config));
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(kind, &call.target.name, &why));
    }
    create(call, merged(call, &Value::Null, config, options)?, options).await
}

fn merged(call: &Call, live: &Value, config: &Value, options: &Options) -> Result<Value, Status> {
    let (kind, force) = (&call.target.kind, call.query.is_true("force"));
    let mut new = as_writer(call, part(call), |writer| apply::apply(kind, live, config, writer, force))?;
    check_kind(kind, &mut new)?;
    check_schema(kind, &mut new, None, options)?;
    check_place(call, &mut new)?;
    Ok(new)
}
