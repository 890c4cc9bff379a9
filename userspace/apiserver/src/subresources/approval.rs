//! `approval`: whether a certificate request is to be signed.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use skep_api::Status;

use super::part;
use crate::call::Call;

pub(super) async fn handle(call: Call, request: Request) -> Result<Response, Status> {
    part(call, request, take).await
}

fn take(object: &mut Value, from: &Value) -> Result<(), Status> {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["conditions"] = from["status"]["conditions"].clone();
    Ok(())
}
