//! One object.

use axum::response::Response;
use http::StatusCode;
use skep_api::Status;

use crate::call::Call;
use crate::convert;
use crate::negotiate::{render, respond, view};
use crate::write::store_error;

pub(crate) async fn handle(call: Call) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, call.query.get("includeObject"))?;
    // Version "0" is content with what the cache has.
    if call.query.get("resourceVersion") != Some("0") {
        call.server.caches.catch_up().await.map_err(store_error)?;
    }
    let object = crate::write::find(&call.server, kind, &call.target.namespace, &call.target.name)?;
    let object = convert::one(&call.server, kind, object).await?;
    Ok(respond(StatusCode::OK, render(view, kind, &object)))
}
