//! `approval`: approves or denies a CertificateSigningRequest.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use skep_api::{Kind, Status, meta};

use super::edit::part;
use crate::call::Call;
use crate::write::Writer;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    part(writer, call, request, take).await
}

fn take(_: &Kind, object: &mut Value, from: &Value) -> Result<(), Status> {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["conditions"] = from["status"]["conditions"].clone();
    // As upstream: the requester may change the metadata with it.
    for field in ["annotations", "labels", "finalizers", "ownerReferences"] {
        let metadata = meta::of_mut(object);
        match from["metadata"].get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    Ok(())
}
