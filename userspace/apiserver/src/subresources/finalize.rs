//! `finalize`: replaces the finalizers in a namespace's spec.

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde_json::Value;
use skep_api::{Kind, Status};

use super::edit::part;
use crate::call::Call;
use crate::write::Writer;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    if call.method != Method::PUT {
        return Err(Status::method_not_supported(&call.target.kind, call.method.as_str()));
    }
    part(writer, call, request, take).await
}

fn take(_: &Kind, object: &mut Value, from: &Value) -> Result<(), Status> {
    object["spec"]["finalizers"] = from["spec"]["finalizers"].as_array().cloned().unwrap_or_default().into();
    Ok(())
}
