//! `finalize`: a namespace's controller says that its content is gone.

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;
use skep_api::Status;

use super::part;
use crate::call::Call;

pub(super) async fn handle(call: Call, request: Request) -> Result<Response, Status> {
    part(call, request, take).await
}

fn take(object: &mut Value, from: &Value) -> Result<(), Status> {
    object["spec"]["finalizers"] = from["spec"]["finalizers"].as_array().cloned().unwrap_or_default().into();
    Ok(())
}
