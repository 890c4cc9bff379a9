//! `create`: a new object.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use skep_api::{Status, conversion};

use crate::body;
use crate::body_checks::{check_identity, check_kind, check_schema};
use crate::call::Call;
use crate::negotiate::{respond_object, view};
use crate::review;
use crate::state::Inner;
use crate::write_options::Options;

pub(crate) async fn handle(server: &Inner, mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind.clone();
    if !call.target.name.is_empty() {
        return Err(Status::method_not_supported(kind, "POST"));
    }
    let options = Options::parse(&call)?;
    let view = view(&call.headers, None)?;
    let mut object = body::decode(&call.headers, &bytes)?;
    check_kind(kind, &mut object)?;
    let duplicates = body::duplicates(&call.headers, &bytes, &options);
    check_schema(&call, kind, &mut object, duplicates, &options)?;
    if let Some(answer) = review::answer(server, &call, view, &object).await? {
        return Ok(answer);
    }
    check_identity(&call, &mut object)?;
    object = conversion::to_storage_kind(&mut call.target.kind, object);
    let stored = server.writer.create(&call, object, &options).await?;
    Ok(respond_object(StatusCode::CREATED, view, kind, &stored))
}
