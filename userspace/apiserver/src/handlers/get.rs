//! `get`: one object.

use axum::response::Response;
use http::StatusCode;
use skep_api::Status;

use crate::call::Call;
use crate::convert;
use crate::negotiate::{render, respond, view};
use crate::stored::{Storage, store_error};

pub(crate) async fn handle(storage: &Storage, call: Call) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, call.query.get("includeObject"))?;
    // Version "0" accepts whatever the cache has.
    if call.query.get("resourceVersion") != Some("0") {
        storage.caches.catch_up().await.map_err(store_error)?;
    }
    let object = storage.caches.get_or_404(kind, &call.target.namespace, &call.target.name)?;
    object.check_readable()?;
    let object = convert::one(&storage.webhooks, kind, object).await?;
    Ok(respond(StatusCode::OK, render(view, kind, &object)))
}
