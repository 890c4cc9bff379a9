//! `ephemeralcontainers` and `resize`: the parts of a running pod's specification that may change.

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;
use skep_api::kinds::{add_ephemeral_containers, resize};
use skep_api::{Errors, Kind, Status, meta};

use super::edit::part;
use crate::call::Call;
use crate::write::Writer;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let change = if call.target.subresource == "resize" { take_resources } else { take_containers };
    part(writer, call, request, change).await
}

fn take_containers(kind: &Kind, pod: &mut Value, from: &Value) -> Result<(), Status> {
    // The client may leave defaults out of containers that the pod has with them.
    let mut from = from.clone();
    kind.default(&mut from);
    let errors = add_ephemeral_containers(pod, &from);
    refuse(kind, pod, &errors)
}

fn take_resources(kind: &Kind, pod: &mut Value, from: &Value) -> Result<(), Status> {
    let mut from = from.clone();
    kind.default(&mut from);
    let errors = resize(pod, &from);
    refuse(kind, pod, &errors)
}

fn refuse(kind: &Kind, pod: &Value, errors: &Errors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(kind, meta::name(pod), errors)) }
}
