//! `patch`: JSON, merge or strategic merge patch; server-side apply is in `apply`.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skep_api::patch::{self, PatchError};
use skep_api::{Kind, Reason, Status, conversion, meta};

use super::apply;
use crate::body::media_type;
use crate::body_checks::{check_identity, check_kind, check_preconditions, check_schema};
use crate::call::Call;
use crate::negotiate::{respond_object, view};
use crate::object::Object;
use crate::write::Writer;
use crate::write_options::{Options, Write};

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

pub(crate) async fn handle(writer: &Writer, mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    if Write::of(&call) == Write::Apply {
        return apply::handle(writer, call, bytes).await;
    }
    let options = Options::parse(&call)?;
    let (requested, view) = (&call.target.kind.clone(), view(&call.headers, None)?);
    let form = Form::of(&call)?;
    let patch = decode(&bytes)?;
    if let Some(stored) = conversion::storage_kind(requested) {
        call.target.kind = stored.into();
    }
    let change = |old: &Object, before: &Value| {
        let before = conversion::from_storage(requested, before.clone());
        let new = patched(&call, requested, form, &patch, before, &options)?;
        let new = conversion::to_storage(requested, new);
        check_preconditions(requested, &new, old)?;
        Ok(new)
    };
    let stored = writer.guaranteed_update(&call, requested, call.part(), &options, change).await?;
    Ok(respond_object(StatusCode::OK, view, requested, &stored))
}

fn patched(
    call: &Call,
    kind: &Kind,
    form: Form,
    change: &Value,
    old: Value,
    options: &Options,
) -> Result<Value, Status> {
    let mut new = form.apply(kind, old, change)?;
    check_kind(kind, &mut new)?;
    check_schema(call, kind, &mut new, Vec::new(), options)?;
    check_identity(call, &mut new)?;
    Ok(new)
}
