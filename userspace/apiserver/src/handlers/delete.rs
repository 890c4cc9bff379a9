//! `delete` and `deletecollection`.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use skep_api::{Status, meta};

use crate::call::Call;
use crate::convert;
use crate::deletion::DeleteOptions;
use crate::handlers::list::Selection;
use crate::negotiate::{render, respond, respond_value, view};
use crate::stored::store_error;
use crate::write::Writer;

pub(crate) async fn handle(writer: &Writer, call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, None)?;
    let options = DeleteOptions::parse(&call, &bytes)?;
    let deleted = writer.delete(&call, &call.target.namespace, &call.target.name, &options).await?;
    // The answer shows a pod or a namespace even when it is gone; for other kinds that are gone it is a Status.
    if deleted.is_gone && !matches!(&*kind.kind, "Pod" | "Namespace") {
        let value = deleted.object.value();
        return Ok(respond_value(
            StatusCode::OK,
            &Status::success(kind, meta::name(&value), meta::uid(&value)),
        ));
    }
    Ok(respond(StatusCode::OK, render(view, kind, &deleted.object)))
}

pub(crate) async fn handle_collection(writer: &Writer, call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let options = DeleteOptions::parse(&call, &bytes)?;
    let selection = Selection::of(kind, &call.target.namespace, &call.query)?;
    writer.storage.caches.catch_up().await.map_err(store_error)?;
    let resource = writer.storage.caches.of(kind).ok_or_else(Status::no_such_path)?;
    let mut deleted = Vec::new();
    let objects =
        convert::all(&writer.storage.webhooks, kind, resource.list_to_delete(&selection.prefix)).await?;
    for object in objects.iter().filter(|object| selection.selects(object)) {
        let value = object.value();
        match writer.delete(&call, meta::namespace(&value), meta::name(&value), &options).await {
            Ok(done) => deleted.push(done.object.value()),
            // Another writer removed it first.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": kind.list_kind(), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": writer.storage.caches.applied().to_string()}, "items": deleted,
    });
    Ok(respond_value(StatusCode::OK, &list))
}
