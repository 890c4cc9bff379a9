//! A change of an object: JSON, merge or strategic merge patch.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skep_api::patch::{self, PatchError};
use skep_api::{Kind, Reason, Status, conversion, meta};

use super::apply;
use super::update::{TRIES, check_preconditions, part};
use crate::body::media_type;
use crate::call::Call;
use crate::managers;
use crate::negotiate::view;
use crate::write::{self, Options, Warnings, check_kind, check_place, check_schema, respond_object};

#[derive(Clone, Copy)]
pub(crate) enum Form {
    Json,
    Merge,
    Strategic,
}

impl Form {
    pub(crate) fn of(call: &Call) -> Result<Form, Status> {
        match media_type(&call.headers) {
            "application/json-patch+json" => Ok(Form::Json),
            "application/merge-patch+json" => Ok(Form::Merge),
            "application/strategic-merge-patch+json" if call.target.kind.custom.is_none() => {
                Ok(Form::Strategic)
            }
            _ if call.target.kind.custom.is_some() => Err(Status::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            _ => Err(Status::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    /// The patched object.
    pub(crate) fn apply(self, kind: &Kind, mut object: Value, change: &Value) -> Result<Value, Status> {
        let name = meta::name(&object).to_owned();
        let done = match self {
            Form::Json => patch::json(&mut object, change.clone()),
            Form::Merge => patch::merge(&mut object, change),
            Form::Strategic => patch::strategic(kind, &mut object, change),
        };
        if done.is_ok() && !object.is_object() {
            return Err(Status::bad_request("the patch leaves something that is no object"));
        }
        done.map(|()| object).map_err(|error| match error {
            PatchError::Malformed(message) => Status::bad_request(message),
            PatchError::TooLarge(message) => {
                Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
            }
            PatchError::TestFailed(message) | PatchError::DoesNotApply(message) => {
                Status::invalid_body(&kind.group_resource(), &name, &message)
            }
        })
    }
}

pub(crate) fn decode(bytes: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

pub(crate) async fn handle(mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    if media_type(&call.headers) == apply::MEDIA_TYPE {
        return apply::handle(call, bytes).await;
    }
    let options = Options::parse(&call.query)?;
    if call.query.get("force").is_some() {
        return Err(managers::invalid("force: Forbidden: may not be specified for non-apply patch"));
    }
    let (kind, view) = (&call.target.kind.clone(), view(&call.headers, None)?);
    let form = Form::of(&call)?;
    let change = decode(&bytes)?;
    // A patch that names a version is for that version only.
    let conditional = change["metadata"]["resourceVersion"].is_string();
    for attempt in 1.. {
        let old = write::find_latest(&call.server, kind, &call.target.namespace, &call.target.name).await?;
        let before = conversion::from_storage(kind, old.value());
        let (new, warnings) = patched(&call, kind, form, &change, before, &options)?;
        let mut stored_kind = kind.clone();
        let new = conversion::to_storage_kind(&mut stored_kind, new);
        call.target.kind = stored_kind;
        check_preconditions(kind, &new, &old)?;
        match write::update(&call, &old, new, part(&call), &options).await {
            Err(status) if status.reason == Reason::Conflict && !conditional && attempt < TRIES => {}
            Err(status) => return Err(status),
            Ok(stored) => return Ok(respond_object(StatusCode::OK, view, kind, &stored, &warnings)),
        }
    }
    Err(Status::stale(kind, &call.target.name))
}

fn patched(
    call: &Call,
    kind: &Kind,
    form: Form,
    change: &Value,
    old: Value,
    options: &Options,
) -> Result<(Value, Warnings), Status> {
    let mut new = form.apply(kind, old, change)?;
    check_kind(kind, &mut new)?;
    let warnings = check_schema(kind, &mut new, None, options)?;
    check_place(call, &mut new)?;
    Ok((new, warnings))
}
