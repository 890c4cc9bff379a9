//! `update`: a whole new version of an object, or of its status.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use skep_api::custom::definition::is_definition;
use skep_api::field::{Errors, Path};
use skep_api::{Status, conversion};

use crate::body;
use crate::body_checks::{check_identity, check_kind, check_preconditions, check_schema, wanted_revision};
use crate::call::Call;
use crate::negotiate::{respond_object, view};
use crate::write::Writer;
use crate::write_options::Options;

pub(crate) async fn handle(writer: &Writer, mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let requested = &call.target.kind.clone();
    let options = Options::parse(&call)?;
    let view = view(&call.headers, None)?;
    let mut object = body::decode(&call.headers, &bytes)?;
    check_kind(requested, &mut object)?;
    let duplicates = body::duplicates(&call.headers, &bytes, &options);
    check_schema(&call, requested, &mut object, duplicates, &options)?;
    check_identity(&call, &mut object)?;
    object = conversion::to_storage_kind(&mut call.target.kind, object);
    let kind = &call.target.kind;
    if wanted_revision(&object).is_empty() && (kind.custom.is_some() || is_definition(kind)) {
        let mut errors = Errors::default();
        let at = Path::new("metadata").child("resourceVersion");
        errors.invalid(&at, &0.into(), "must be specified for an update");
        return Err(Status::invalid(kind, &call.target.name, &errors));
    }
    let change = |old: &_, _: &_| {
        check_preconditions(kind, &object, old)?;
        Ok(object.clone())
    };
    let stored = writer.guaranteed_update(&call, kind, call.part(), &options, change).await?;
    Ok(respond_object(StatusCode::OK, view, requested, &stored))
}
