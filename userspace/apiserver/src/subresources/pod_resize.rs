//! `ephemeralcontainers` and `resize`: the parts of a running pod's specification that may change.

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;
use skep_api::Status;

use super::edit::part;
use crate::call::Call;
use crate::write::Writer;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let change = if call.target.subresource == "resize" { resize } else { add_containers };
    part(writer, call, request, change).await
}

fn add_containers(pod: &mut Value, from: &Value) -> Result<(), Status> {
    let (old, new) = (&pod["spec"]["ephemeralContainers"], &from["spec"]["ephemeralContainers"]);
    let unchanged = old
        .as_array()
        .into_iter()
        .flatten()
        .all(|container| new.as_array().is_some_and(|all| all.contains(container)));
    if !unchanged {
        return Err(Status::invalid_option(
            "spec.ephemeralContainers",
            "Forbidden: existing ephemeral containers may not be changed",
        ));
    }
    pod["spec"]["ephemeralContainers"] = new.clone();
    Ok(())
}

fn resize(pod: &mut Value, from: &Value) -> Result<(), Status> {
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        let wanted = from["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["name"] == container["name"]);
        if let Some(wanted) = wanted {
            container["resources"] = wanted["resources"].clone();
        }
    }
    Ok(())
}
