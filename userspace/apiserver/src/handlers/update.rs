//! A whole new version of an object, or of its status.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skep_api::field::{Errors, Path};
use skep_api::kinds::Part;
use skep_api::{Kind, Reason, Status, conversion, meta};

use crate::call::Call;
use crate::negotiate::view;
use crate::object::Object;
use crate::write::{self, Options, check_kind, check_place, check_schema, respond_object};
use crate::{body, crd};

/// Tries of an update that names no version, when others write at the same time.
pub(crate) const TRIES: usize = 16;

pub(crate) async fn handle(mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind.clone();
    let options = Options::parse(&call.query)?;
    let view = view(&call.headers, None)?;
    let mut object = body::decode(&call.headers, &bytes)?;
    check_kind(kind, &mut object)?;
    let warnings = check_schema(kind, &mut object, body::text(&call.headers, &bytes), &options)?;
    check_place(&call, &mut object)?;
    object = conversion::to_storage_kind(&mut call.target.kind, object);
    let stored = update(&call, object, part(&call), &options).await?;
    Ok(respond_object(StatusCode::OK, view, kind, &stored, &warnings))
}

pub(crate) fn part(call: &Call) -> Part {
    if call.target.subresource == "status" { Part::Status } else { Part::Main }
}

async fn update(call: &Call, object: Value, part: Part, options: &Options) -> Result<Object, Status> {
    let (kind, name) = (&call.target.kind, call.target.name.as_str());
    let conditional = !wanted_revision(&object).is_empty();
    if !conditional && (kind.custom.is_some() || crd::is_definition(kind)) {
        let mut errors = Errors::default();
        let at = Path::new("metadata").child("resourceVersion");
        errors.invalid(&at, &0.into(), "must be specified for an update");
        return Err(Status::invalid(kind, name, &errors));
    }
    for attempt in 1.. {
        let old = write::find_latest(&call.server, kind, &call.target.namespace, name).await?;
        check_preconditions(kind, &object, &old)?;
        match write::update(call, &old, object.clone(), part, options).await {
            Err(status) if status.reason == Reason::Conflict && !conditional && attempt < TRIES => {}
            result => return result,
        }
    }
    Err(Status::stale(kind, name))
}

fn wanted_revision(object: &Value) -> &str {
    match object["metadata"]["resourceVersion"].as_str() {
        None | Some("0") => "",
        Some(revision) => revision,
    }
}

/// The version and the identity that the client's object has, if it has any, must be the present ones.
pub(crate) fn check_preconditions(kind: &Kind, object: &Value, old: &Object) -> Result<(), Status> {
    let wanted = wanted_revision(object);
    if !wanted.is_empty() && wanted.parse::<u64>().is_err() {
        return Err(Status::bad_request(format!(
            "metadata.resourceVersion: Invalid value: \"{wanted}\": must be an unsigned integer"
        )));
    }
    if !wanted.is_empty() && wanted != old.revision.to_string() {
        return Err(Status::stale(kind, meta::name(object)));
    }
    let (uid, present) = (meta::uid(object).to_owned(), old.value());
    if !uid.is_empty() && uid != meta::uid(&present) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(&present)
        );
        return Err(Status::conflict(kind, meta::name(object), &why));
    }
    Ok(())
}
